//! [`Call`]: what reaches the coordinator, and [`Caller`]: whoever waits for what becomes of it.

use std::sync::Arc;

use crate::domain::{
    command::{Answer, Request},
    principal::Behalf,
    time::Timestamp,
};

use super::StoreError;

/// What a call came to.
pub type Outcome = Result<Answer, StoreError>;

/// A call for the coordinator.
pub struct Call<C> {
    /// What is asked.
    pub request: Request,
    /// When it came, on the coordinator's clock: it is not judged at an earlier time.
    pub arrival: Timestamp,
    /// Who waits for the answer.
    pub caller: C,
}

/// Whoever waits for an answer, as far as a turn looks at it.
pub trait Caller {
    /// Whether nobody waits any more.
    fn is_gone(&self) -> bool {
        false
    }
    /// Whether nothing may be handed out to it any more: its credentials are over.
    fn is_revoked(&self) -> bool {
        false
    }
    /// Among whose calls it counts when held; none: nobody's. `by`: on whose behalf it calls, if that is known.
    fn share(&self, _by: Option<&Behalf>) -> Option<Share> {
        None
    }
    /// Its call is about to be judged.
    fn taken(&self) {}
    /// Its call has been judged, or is held.
    fn judged(&self) {}
    /// Its call is held, and takes none of the room of those that are written.
    fn held(&self) {}
    /// Its call can't be held: too many are.
    fn turned_away(&self) {}
    /// An answer of so many bytes is on its way to it, once the turn is committed.
    fn answered(&self, _bytes: usize) {}
}

/// Whose a call is, for sharing places and turns.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Share {
    /// A principal's, over whatever connections it calls.
    Principal(Arc<str>),
    /// A connection's, where callers are not known.
    Connection(u64),
}

impl Share {
    /// A principal's, or else a connection's.
    pub fn of_caller(principal: Option<&str>, connection: Option<u64>) -> Option<Self> {
        match principal {
            Some(name) => Some(Share::Principal(name.into())),
            None => connection.map(Share::Connection),
        }
    }
}
