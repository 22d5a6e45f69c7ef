//! [`EarlierLease`]: a lease before the last one, as the history tells of it.

use super::{
    event::{Event, EventType},
    ids::{FencingToken, OwnerId},
    lease::HolderEnd,
};

/// A lease before the last one: who held it, and how they ended it, if they did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EarlierLease {
    /// Its owner.
    pub owner: OwnerId,
    /// How its holder ended it.
    pub end: Option<HolderEnd>,
}

impl EarlierLease {
    /// Among how many of a saga's newest events it is looked for how an earlier lease ended. A call that is repeated comes soon
    /// after the answer that got lost; and a late call must not cost more the longer the saga's history is.
    pub const LOOKS_AT: usize = 1000;

    /// Reads the lease with this token off its `claimed` event and the one that says how its holder ended it, if there is one;
    /// `None` if there is no such lease.
    pub fn from_events(events: &[Event], token: FencingToken) -> Option<Self> {
        let mut of_lease = events.iter().filter(|event| event.token == Some(token));
        let claimed = of_lease.clone().find(|event| event.kind == EventType::Claimed)?;
        let owner = OwnerId::parse(claimed.actor.as_ref()?.as_str()).ok()?;
        let end = of_lease.find_map(|event| HolderEnd::parse(event.details.get("ended_by")?));
        Some(EarlierLease { owner, end })
    }
}
