//! `KeepAlive`: heartbeats for many leases over one stream.
//!
//! The answers come in the order of the items. Up to [`IN_FLIGHT`] items are on their way to the writer at a time, so
//! that a client's heartbeats share the writer's batches; a client that doesn't read its answers is not read either.

use futures::StreamExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use crate::proto::{self, Directive};

use super::{
    desk::Desk,
    edge, refusal, render,
    status::Problem,
    streams::{self, Answers},
};

/// Heartbeats of one stream that are being carried out: a fraction of the writer's queue, so that one client can't
/// fill it.
const IN_FLIGHT: usize = 64;

/// Answers each item. What was taken up before `stop` is still answered.
pub(super) fn answers(
    desk: Desk,
    items: Streaming<proto::KeepAliveRequest>,
    seat: OwnedSemaphorePermit,
    stop: CancellationToken,
) -> Answers<proto::KeepAliveResponse> {
    let answers = streams::until_stopped(items, stop.clone())
        .map(move |item| {
            let desk = desk.clone();
            async move {
                match item {
                    Ok(item) => Ok(answer(&desk, item).await),
                    // The stream itself is broken: nothing behind this can be read.
                    Err(status) => Err(edge::complete(&status)),
                }
            }
        })
        .buffered(IN_FLIGHT);
    streams::answers(answers, seat, stop)
}

async fn answer(desk: &Desk, item: proto::KeepAliveRequest) -> proto::KeepAliveResponse {
    // As sent, also when it is malformed; though not when it is larger than any id.
    let task_id = super::status::cut(item.task_id.clone(), 2 * crate::domain::bounds::ID_BYTES);
    match desk.heartbeat(item).await {
        Ok(answer) => proto::KeepAliveResponse {
            task_id,
            lease: Some(render::saga::lease(&answer.lease)),
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

/// What a worker is to do.
pub(super) fn directive(cancelled: bool) -> Directive {
    if cancelled { Directive::Cancel } else { Directive::Continue }
}
