//! Who may touch what: the queues of whoever calls.

use std::sync::Arc;

use crate::{
    domain::{
        command::{Command, Request},
        ids::QueueName,
        principal::{Behalf, Scope},
        rejection::{Refusal, Rejection},
    },
    mutants::{self, Mutant},
};

use super::{Outcome, judge::refuse};

/// Why somebody may not touch a saga of this queue, if so. Who may not even look at it is told that there is none.
pub(super) fn out_of_reach(by: &Option<Arc<Behalf>>, queue: &QueueName) -> Option<Rejection> {
    let sees_it = by.as_ref().is_none_or(|by| by.sees_all);
    denied(by, queue).map(|denial| if sees_it { denial } else { Rejection::SagaNotFound })
}

/// Why somebody may not touch a queue that it names, if so.
fn denied(by: &Option<Arc<Behalf>>, queue: &QueueName) -> Option<Rejection> {
    match by.as_ref().map(|by| &by.scope) {
        _ if mutants::on(Mutant::ScopesIgnored) => None,
        None | Some(Scope::All) => None,
        Some(scope @ Scope::Only(_)) => {
            (!scope.allows(queue)).then(|| Rejection::NotPermitted { queue: queue.clone() })
        }
    }
}

/// Refuses what names a foreign queue, before it is looked whether it was asked before or can be done.
pub fn out_of_scope(request: &Request) -> Option<Outcome> {
    match &request.command {
        Command::Create(creations) => creations.iter().enumerate().find_map(|(index, creation)| {
            let why = denied(&request.by, &creation.queue)?;
            let task_id = Some(creation.task_id.clone());
            Some(refuse(Refusal { task_id, state: None, index: Some(index), why }))
        }),
        Command::ClaimNext(wish) => {
            let why = wish.queues.iter().find_map(|queue| denied(&request.by, queue))?;
            Some(refuse(Refusal::plain(why)))
        }
        Command::SetPaused(wish) => denied(&request.by, &wish.queue).map(|why| refuse(Refusal::plain(why))),
        // The saga tells its queue once it is loaded; a purge goes over all of them.
        Command::Change(_) | Command::Purge(_) => None,
    }
}
