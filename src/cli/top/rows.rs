//! The rows of a page: their order, and the selected one.

use std::cmp::Ordering;

use super::snapshot::micros;
use crate::proto::Saga;

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
    /// The next one.
    pub fn next(self) -> Self {
        match self {
            Sort::Created => Sort::Left,
            Sort::Left => Sort::Updated,
            Sort::Updated => Sort::Queue,
            Sort::Queue => Sort::Owner,
            Sort::Owner => Sort::Attempt,
            Sort::Attempt => Sort::Created,
        }
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

/// The selected row, identified by name, so that it stays selected when rows come and go.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Its name.
    pub name: Option<String>,
    /// Its last row number.
    pub row: usize,
    /// True once a row was selected; after that only keys select.
    begun: bool,
}

impl Selection {
    /// Finds its row among these names. If it is gone, nothing is selected, rather than its neighbour.
    pub fn follow<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        let names: Vec<&str> = names.collect();
        match self.name.as_deref().map(|name| names.iter().position(|other| *other == name)) {
            Some(Some(row)) => self.row = row,
            Some(None) => self.name = None,
            None if !self.begun => {
                self.name = names.first().map(|name| (*name).to_owned());
                self.begun = self.name.is_some();
            }
            None => {}
        }
    }

    /// Moves by so many rows.
    pub fn step<'a>(&mut self, by: isize, names: impl Iterator<Item = &'a str>) {
        let names: Vec<&str> = names.collect();
        // If the selected row is gone, the row in its place is next.
        let by = if self.name.is_none() && by.abs() == 1 { 0 } else { by };
        self.row = self.row.saturating_add_signed(by).min(names.len().saturating_sub(1));
        self.name = names.get(self.row).map(|name| (*name).to_owned());
        self.begun |= self.name.is_some();
    }
}
