//! [`Call`]: a request to the coordinator, and [`Caller`]: who waits for its outcome.

use std::sync::Arc;

use crate::domain::{
    command::{Answer, Request},
    principal::Requester,
    rejection::CommandRefusal,
    time::Timestamp,
};

use super::StoreError;

/// The result of a call.
pub type CallOutcome = Result<Answer, StoreError>;

/// A refusal as a call's outcome.
pub(super) fn refuse(refusal: CommandRefusal) -> CallOutcome {
    Err(StoreError::Refused(Box::new(refusal)))
}

/// A request to the coordinator.
pub struct Call<C> {
    /// What is asked.
    pub request: Request,
    /// When it arrived, on the coordinator's clock. It is never executed with an earlier time.
    pub arrival: Timestamp,
    /// Who waits for the answer.
    pub caller: C,
}

/// Who waits for an answer, as far as a turn needs to know.
pub trait Caller {
    /// True if nobody waits any more.
    fn is_gone(&self) -> bool {
        false
    }
    /// True if its credentials are no longer valid, so that it must not get anything any more.
    fn is_revoked(&self) -> bool {
        false
    }
    /// Whose quota of held calls it counts against; none: nobody's. `by`: who asks, if known.
    fn share(&self, _by: Option<&Requester>) -> Option<CallerKey> {
        None
    }
    /// Called before its call is executed.
    fn on_taken(&self) {}
    /// Called when its call has been executed or is held.
    fn on_judged(&self) {}
    /// Called when its call is held: it no longer counts against the memory of pending changes.
    fn on_held(&self) {}
    /// Called when its call can't be held because too many are.
    fn on_hold_refused(&self) {}
    /// Called when its answer, of this size, is ready to be sent once the turn is committed.
    fn on_answered(&self, _bytes: usize) {}
}

/// Identifies a caller, so that places and reads are shared fairly among callers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CallerKey {
    /// A principal, over all its connections.
    Principal(Arc<str>),
    /// A connection, if callers are not authenticated.
    Connection(u64),
}

impl CallerKey {
    /// The principal if there is one, else the connection.
    pub fn of_caller(principal: Option<&str>, connection: Option<u64>) -> Option<Self> {
        match principal {
            Some(name) => Some(CallerKey::Principal(name.into())),
            None => connection.map(CallerKey::Connection),
        }
    }
}
