//! Checks the caller's queues.

use std::sync::Arc;

use crate::{
    domain::{
        command::{Command, Request},
        ids::QueueName,
        principal::{Requester, Scope},
        rejection::{CommandRefusal, Rejection},
    },
    mutants::{self, Mutant},
};

use super::{CallOutcome, call::refuse};

/// Why the caller may not act on a saga of this queue, if so. A caller that may not even see it is told that there is
/// none.
pub(super) fn saga_refusal(by: &Option<Arc<Requester>>, queue: &QueueName) -> Option<Rejection> {
    let sees_it = by.as_ref().is_none_or(|by| by.sees_all);
    denied(by, queue).map(|denial| if sees_it { denial } else { Rejection::SagaNotFound })
}

/// Why the caller may not use a queue that it names, if so.
fn denied(by: &Option<Arc<Requester>>, queue: &QueueName) -> Option<Rejection> {
    match by.as_ref().map(|by| &by.scope) {
        _ if mutants::on(Mutant::ScopesIgnored) => None,
        None | Some(Scope::All) => None,
        Some(scope @ Scope::Only(_)) => {
            (!scope.allows(queue)).then(|| Rejection::NotPermitted { queue: queue.clone() })
        }
    }
}

/// Refuses a request that names a queue outside the caller's scope. This comes before the check whether it was
/// answered before.
pub fn out_of_scope(request: &Request) -> Option<CallOutcome> {
    match &request.command {
        Command::Create(creations) => creations.iter().enumerate().find_map(|(index, creation)| {
            let why = denied(&request.by, &creation.queue)?;
            let task_id = Some(creation.task_id.clone());
            Some(refuse(CommandRefusal { task_id, state: None, index: Some(index), why }))
        }),
        Command::ClaimNext(claim) => {
            let why = claim.queues.iter().find_map(|queue| denied(&request.by, queue))?;
            Some(refuse(CommandRefusal::plain(why)))
        }
        Command::SetPaused(pause) => denied(&request.by, &pause.queue).map(|why| refuse(CommandRefusal::plain(why))),
        // A saga's queue is known once it is loaded; a purge covers all queues.
        Command::Change(_) | Command::Purge(_) => None,
    }
}
