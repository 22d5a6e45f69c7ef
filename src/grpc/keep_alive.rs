//! `KeepAlive`: heartbeats for many leases over one stream.
//!
//! Answers come in the order of the items. Up to [`IN_FLIGHT`] items are in the writer's queue at a time, so a client's
//! heartbeats share batches. If a client doesn't read its answers, its items are not read either.

use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Streaming};

use crate::proto::{self, Directive};

use super::{
    caller::AuthenticatedCaller,
    handler_context::{HandlerContext, RenewedLease},
    problem::{HeartbeatDirective, Problem},
    streams::{self, ResponseStream, StreamEnd, StreamLimiter},
    transport_errors,
};

/// Heartbeats of one stream that are being handled: a fraction of the writer's queue, so that one client can't fill it.
const IN_FLIGHT: usize = 64;

/// Answers each item. Items that were read before `stop` are still answered.
pub(super) fn answers(
    context: &HandlerContext,
    request: Request<Streaming<proto::KeepAliveRequest>>,
    limiter: &StreamLimiter,
    stop: &CancellationToken,
) -> Result<ResponseStream<proto::KeepAliveResponse>, Problem> {
    const RPC: &str = "KeepAlive";
    let (caller, items) = context.authenticate(RPC, request)?;
    caller.authorize(RPC, true).inspect_err(|problem| context.log_refused(&caller, RPC, "", problem))?;
    let permit = limiter.take(&caller)?;
    let end = StreamEnd::new(stop, &caller, RPC);
    let context = context.clone();
    let answers = end
        .until_end(items)
        .map(move |item| {
            let (context, caller) = (context.clone(), caller.clone());
            async move {
                match item {
                    Ok(item) => Ok(answer(&context, &caller, item).await),
                    // The stream is broken: nothing after this can be read.
                    Err(status) => Err(transport_errors::complete_status(&status)),
                }
            }
        })
        .buffered(IN_FLIGHT);
    Ok(streams::limited_stream(answers, permit, end))
}

async fn answer(
    context: &HandlerContext,
    caller: &AuthenticatedCaller,
    item: proto::KeepAliveRequest,
) -> proto::KeepAliveResponse {
    // As it was sent, even if malformed, but no longer than any id.
    let task_id = super::problem::truncate(item.task_id.clone(), 2 * crate::domain::bounds::ID_BYTES);
    match context.heartbeat(caller, item).await {
        Ok(answer) => proto::KeepAliveResponse {
            task_id,
            lease: Some(answer.lease),
            directive: directive(answer.cancel_reason.is_some()).into(),
            cancel_reason: answer.cancel_reason.map(|reason| reason.to_string()).unwrap_or_default(),
            code: 0,
            reason: String::new(),
            message: String::new(),
        },
        Err(problem) => refused_item(task_id, problem),
    }
}

fn refused_item(task_id: String, problem: Problem) -> proto::KeepAliveResponse {
    let (directive, cancel_reason) = match problem.directive.map(|directive| *directive) {
        None => (Directive::Unspecified, String::new()),
        Some(HeartbeatDirective::Continue) => (Directive::Continue, String::new()),
        Some(HeartbeatDirective::Cancel(why)) => (Directive::Cancel, why.to_string()),
    };
    proto::KeepAliveResponse {
        task_id,
        lease: None,
        directive: directive.into(),
        cancel_reason,
        code: problem.code.into(),
        reason: problem.reason.to_owned(),
        message: problem.message.into(),
    }
}

/// The response to a unary heartbeat.
pub(super) fn heartbeat(RenewedLease { lease, cancel_reason }: RenewedLease) -> proto::HeartbeatResponse {
    proto::HeartbeatResponse {
        lease: Some(lease),
        directive: directive(cancel_reason.is_some()).into(),
        cancel_reason: cancel_reason.map(|reason| reason.to_string()).unwrap_or_default(),
    }
}

/// Whether the worker goes on or stops.
fn directive(cancelled: bool) -> Directive {
    if cancelled { Directive::Cancel } else { Directive::Continue }
}
