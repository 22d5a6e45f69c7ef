//! [`Sort`]: the order of the sagas on a page.

use std::cmp::Ordering;

use crate::{cli::text::micros, proto::Saga};

/// How the sagas of a page are ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// The coordinator's order: by creation.
    #[default]
    Created,
    /// By the remaining time of their leases, the shortest first.
    Left,
    /// By their last change.
    Updated,
    /// By queue.
    Queue,
    /// By owner.
    Owner,
    /// By attempt, the most first.
    Attempt,
}

impl Sort {
    /// The next order, at the end again the first.
    pub fn next(self) -> Self {
        const ALL: [Sort; 6] = [Sort::Created, Sort::Left, Sort::Updated, Sort::Queue, Sort::Owner, Sort::Attempt];
        ALL[(self as usize + 1) % ALL.len()]
    }

    /// Its name on the screen.
    pub fn name(self) -> &'static str {
        match self {
            Sort::Created => "created",
            Sort::Left => "time left",
            Sort::Updated => "updated",
            Sort::Queue => "queue",
            Sort::Owner => "owner",
            Sort::Attempt => "attempt",
        }
    }

    /// How two sagas compare.
    pub fn compare(self, a: &Saga, b: &Saga) -> Ordering {
        let expiry = |saga: &Saga| {
            let lease = saga.lease.as_ref().and_then(|lease| lease.expire_time.as_ref());
            lease.map_or(i64::MAX, micros)
        };
        let owner = |saga: &Saga| saga.lease.as_ref().map(|lease| lease.owner_id.clone());
        match self {
            Sort::Created => Ordering::Equal,
            Sort::Left => expiry(a).cmp(&expiry(b)),
            Sort::Updated => b.update_time.as_ref().map(micros).cmp(&a.update_time.as_ref().map(micros)),
            Sort::Queue => a.queue.cmp(&b.queue),
            Sort::Owner => owner(a).cmp(&owner(b)),
            Sort::Attempt => b.attempt.cmp(&a.attempt),
        }
    }
}
