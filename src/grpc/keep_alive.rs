//! `KeepAlive`: heartbeats for many leases over one stream.
//!
//! Answers come in the order of the items. Up to [`IN_FLIGHT`] items are in the writer's queue at a time, so a client's
//! heartbeats share batches. If a client doesn't read its answers, its items are not read either.

use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Streaming};

use crate::proto::{self, Directive};

use super::{
    caller::Visitor,
    desk::{Beat, Desk},
    edge, refusal,
    status::Problem,
    streams::{self, Answers, End, Seats},
};

/// Heartbeats of one stream that are being handled: a fraction of the writer's queue, so that one client can't fill it.
const IN_FLIGHT: usize = 64;

/// Answers each item. Items that were read before `stop` are still answered.
pub(super) fn answers(
    desk: &Desk,
    request: Request<Streaming<proto::KeepAliveRequest>>,
    seats: &Seats,
    stop: &CancellationToken,
) -> Result<Answers<proto::KeepAliveResponse>, Problem> {
    const RPC: &str = "KeepAlive";
    let (visitor, items) = desk.open(RPC, request)?;
    visitor.permit(RPC, true).inspect_err(|problem| desk.refused(&visitor, RPC, "", problem))?;
    let seat = seats.take(&visitor)?;
    let end = End::new(stop, &visitor, RPC);
    let desk = desk.clone();
    let answers = end
        .cuts(items)
        .map(move |item| {
            let (desk, visitor) = (desk.clone(), visitor.clone());
            async move {
                match item {
                    Ok(item) => Ok(answer(&desk, &visitor, item).await),
                    // The stream is broken: nothing after this can be read.
                    Err(status) => Err(edge::complete(&status)),
                }
            }
        })
        .buffered(IN_FLIGHT);
    Ok(streams::answers(answers, seat, end))
}

async fn answer(desk: &Desk, visitor: &Visitor, item: proto::KeepAliveRequest) -> proto::KeepAliveResponse {
    // As it was sent, even if malformed, but no longer than any id.
    let task_id = super::status::cut(item.task_id.clone(), 2 * crate::domain::bounds::ID_BYTES);
    match desk.heartbeat(visitor, item).await {
        Ok(answer) => proto::KeepAliveResponse {
            task_id,
            lease: Some(answer.lease),
            directive: directive(answer.cancel_reason.is_some()).into(),
            cancel_reason: answer.cancel_reason.map(|reason| reason.to_string()).unwrap_or_default(),
            code: 0,
            reason: String::new(),
            message: String::new(),
        },
        Err(problem) => refused(task_id, problem),
    }
}

fn refused(task_id: String, problem: Problem) -> proto::KeepAliveResponse {
    let (directive, cancel_reason) = match problem.directive.map(|directive| *directive) {
        None => (Directive::Unspecified, String::new()),
        Some(refusal::Directive::Continue) => (Directive::Continue, String::new()),
        Some(refusal::Directive::Cancel(why)) => (Directive::Cancel, why.to_string()),
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
pub(super) fn heartbeat(Beat { lease, cancel_reason }: Beat) -> proto::HeartbeatResponse {
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
