//! What a turn is going to ask its backend for, as far as that can be told before it begins: a backend behind a network
//! loads it in one round trip instead of one for each call.

use std::collections::{HashMap, HashSet};

use crate::domain::{
    command::{ClaimNext, Command},
    ids::QueueName,
    lease::LeasePurpose,
    time::Timestamp,
};

use super::{Call, Caller, Coordinator, LoadKey, RowId};

/// Most sagas that are loaded ahead because something is due to them or because they are the next of a queue: what a
/// turn gets to at all.
const MOST: usize = 1024;

/// What to load.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct LoadAhead {
    /// The sagas.
    pub(super) keys: Vec<LoadKey>,
    /// The requests whose stored answers are wanted.
    pub(super) answers: Vec<[u8; 16]>,
}

impl<C: Caller> Coordinator<C> {
    /// What these calls, and what is due by `now`, are going to need and memory doesn't have.
    pub(super) fn load_ahead(&self, calls: &[Call<C>], now: Timestamp) -> LoadAhead {
        let (mut keys, mut rows) = (HashSet::new(), HashSet::new());
        let mut claimed: HashMap<(LeasePurpose, &QueueName), usize> = HashMap::new();
        for call in calls {
            match &call.request.command {
                Command::Create(creations) => keys.extend(creations.iter().flat_map(|creation| {
                    [LoadKey::Task(creation.task_id.clone()), LoadKey::Saga(creation.saga_id.clone())]
                })),
                Command::Change(change) => match self.cache.place(&change.task_id) {
                    Some(id) => drop(rows.insert(id)),
                    None => drop(keys.insert(LoadKey::Task(change.task_id.clone()))),
                },
                Command::ClaimNext(ClaimNext { queues, purpose, max_sagas, .. }) => {
                    queues.iter().for_each(|queue| *claimed.entry((*purpose, queue)).or_default() += max_sagas);
                }
                Command::SetPaused(_) | Command::Purge(_) => {}
            }
        }
        for ((purpose, queue), sagas) in claimed {
            rows.extend(self.windows.known(purpose, queue).take(sagas.min(MOST)));
        }
        rows.extend(self.due_index.all_due_by(now).take(MOST));
        let is_missing = |id: &RowId| self.cache.saga(*id).is_none();
        keys.extend(rows.into_iter().filter(is_missing).map(LoadKey::Row));
        let answers = calls.iter().filter_map(|call| call.request.key).map(|key| key.id);
        LoadAhead { keys: keys.into_iter().collect(), answers: answers.collect() }
    }
}
