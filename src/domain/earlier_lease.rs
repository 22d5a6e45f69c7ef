//! [`EarlierLease`]: a lease before the current one, read from the history.

use super::{
    event::{Event, EventType},
    ids::{FencingToken, OwnerId},
    lease::HolderEnd,
};

/// A lease before the current one: who held it, and how its holder ended it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EarlierLease {
    /// Its owner.
    pub owner: OwnerId,
    /// How its holder ended it.
    pub end: Option<HolderEnd>,
}

impl EarlierLease {
    /// How many of a saga's newest events are searched for the end of an earlier lease. A call is repeated soon after
    /// its answer was lost, and a late call must not cost more the longer the history is.
    pub const EVENTS_SEARCHED: usize = 1000;

    /// Reads the lease with this token from its `claimed` event and, if there is one, the event by which its holder
    /// ended it; `None` if there is no such lease.
    pub fn from_events(events: &[Event], token: FencingToken) -> Option<Self> {
        let mut of_lease = events.iter().filter(|event| event.token == Some(token));
        let claimed = of_lease.clone().find(|event| event.kind == EventType::Claimed)?;
        let owner = OwnerId::parse(claimed.actor.as_ref()?.as_str()).ok()?;
        let end = of_lease.find_map(|event| HolderEnd::parse(event.details.get("ended_by")?));
        Some(EarlierLease { owner, end })
    }
}
