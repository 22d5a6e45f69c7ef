//! [`HeldClaims`]: held `ClaimNext` calls, answered in order of arrival. They are in memory only: when the coordinator
//! shuts down, they are answered that they did not happen.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    sync::Arc,
};

use crate::domain::{
    command::{ClaimNext, RequestKey},
    ids::{OwnerId, QueueName},
    lease::LeasePurpose,
    principal::Requester,
    text::Kind,
    time::Timestamp,
};

use super::{Caller, CallerKey, KindSet, ready_index::remove_from};

/// How many calls are checked at once for callers that are gone: few enough that the cost doesn't matter.
const GONE_CHECKS: usize = 128;

/// A held call.
pub struct HeldClaim<C> {
    /// The claim.
    pub claim: ClaimNext,
    /// Its `request_id`, if given.
    pub key: Option<RequestKey>,
    /// Who asks, if known.
    pub by: Option<Arc<Requester>>,
    /// Until when it is held.
    pub until: HeldUntil,
    /// Whose quota it counts against; none: nobody's.
    pub share: Option<CallerKey>,
    /// Who waits.
    pub caller: C,
}

/// The fair share of held calls of one principal, or of one connection if callers are not authenticated: once three
/// quarters of all places are taken, callers that hold more get none of the last quarter. The same rule as for calls
/// (`max_calls`).
pub const FAIR_HELD_CLAIMS: usize = 64;

/// When a held call is answered with nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldUntil {
    /// At this time.
    Deadline(Timestamp),
    /// Once everything has been applied that was due by this time and that it may get.
    Swept(Timestamp),
}

/// Most calls held until a sweep that are checked in one turn. They are answered in order of arrival, and there are
/// few: a call is held so only while thousands of sagas are due at once.
const SWEPT_CHECKS: usize = 256;

/// What became claimable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Claimable {
    /// A saga that any caller may execute.
    ToExecute(QueueName),
    /// A saga to be compensated by a caller that handles all of these kinds.
    ToCompensate(QueueName, KindSet),
    /// A saga reserved for one owner.
    Reserved(OwnerId, QueueName),
    /// Everything ready in a queue that was paused.
    Resumed(QueueName),
}

/// Bounds of the summaries: queues and purposes, calls examined for their kinds, and kinds of each. With these the
/// writer takes about a millisecond at most.
const SUMMARY_ITEMS: usize = 1_000;
const SUMMARY_KINDS: usize = 64;

/// A summary of the held calls of one queue and purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldClaimSummary {
    /// The queue.
    pub queue: QueueName,
    /// What they want to do.
    pub purpose: LeasePurpose,
    /// How many calls. A call that waits for several queues counts for each.
    pub count: usize,
    /// The kinds of compensations that they handle together; empty: the calls don't compensate, or one handles any
    /// kind.
    pub kinds: BTreeSet<Kind>,
}

/// All held calls.
pub struct HeldClaims<C> {
    calls: BTreeMap<u64, HeldClaim<C>>,
    index: HeldClaimIndex,
    arrived: u64,
    /// The last call that was checked for a caller that is gone.
    looked_at: u64,
}

/// Where the held calls are found.
#[derive(Default)]
struct HeldClaimIndex {
    by_queue: HashMap<(LeasePurpose, QueueName), BTreeSet<u64>>,
    /// Calls that want to execute.
    by_owner: HashMap<OwnerId, BTreeSet<u64>>,
    /// Calls that want to compensate, by each kind that they handle; under none: those that handle any kind. One set,
    /// since there can be over a million entries, and a set for each kind would take several times the memory.
    by_kind: BTreeSet<(Option<Kind>, u64)>,
    deadlines: BTreeSet<(Timestamp, u64)>,
    /// Calls that are held until a sweep.
    until_swept: BTreeSet<u64>,
    /// The number of calls of each caller.
    shares: HashMap<CallerKey, usize>,
}

impl<C> Default for HeldClaims<C> {
    fn default() -> Self {
        HeldClaims { calls: BTreeMap::new(), index: HeldClaimIndex::default(), arrived: 0, looked_at: 0 }
    }
}

impl<C: Caller> HeldClaims<C> {
    /// Holds a call.
    pub fn hold(&mut self, held: HeldClaim<C>) {
        self.arrived += 1;
        for queue in &held.claim.queues {
            self.index.by_queue.entry((held.claim.purpose, queue.clone())).or_default().insert(self.arrived);
        }
        match held.claim.purpose {
            LeasePurpose::Execute => {
                self.index.by_owner.entry(held.claim.owner.clone()).or_default().insert(self.arrived);
            }
            LeasePurpose::Compensate => {
                self.index.by_kind.extend(kinds_taken(&held.claim).map(|kind| (kind, self.arrived)));
            }
        }
        match held.until {
            HeldUntil::Deadline(at) => self.index.deadlines.insert((at, self.arrived)),
            HeldUntil::Swept(_) => self.index.until_swept.insert(self.arrived),
        };
        if let Some(share) = &held.share {
            *self.index.shares.entry(share.clone()).or_default() += 1;
        }
        self.calls.insert(self.arrived, held);
    }

    /// Summaries of the held calls by queue and purpose, in no order.
    pub fn summaries(&self) -> Vec<HeldClaimSummary> {
        let summaries = self.index.by_queue.iter().take(SUMMARY_ITEMS).map(|((purpose, queue), calls)| {
            let claims =
                calls.iter().take(SUMMARY_ITEMS).filter_map(|call| self.calls.get(call)).map(|call| &call.claim);
            let kinds = if claims.clone().any(|claim| claim.kinds.is_empty()) {
                BTreeSet::new()
            } else {
                claims.flat_map(|claim| &claim.kinds).take(SUMMARY_ITEMS).cloned().collect::<BTreeSet<_>>()
            };
            let kinds = kinds.into_iter().take(SUMMARY_KINDS).collect();
            HeldClaimSummary { queue: queue.clone(), purpose: *purpose, count: calls.len(), kinds }
        });
        summaries.collect()
    }

    /// True if no call is held.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// How many calls are held.
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// When the next held call must be answered with nothing.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.index.deadlines.first().map(|(at, _)| *at)
    }

    /// The first call after `after`, in order of arrival, that can take what became claimable; none for a resumed
    /// queue, which is offered part by part.
    pub fn next_eligible(&self, claimable: &Claimable, after: u64) -> Option<u64> {
        match claimable {
            Claimable::ToExecute(queue) => first_common(&[self.waiting_for(LeasePurpose::Execute, queue)?], after),
            Claimable::Reserved(owner, queue) => {
                let of_owner = Calls::All(self.index.by_owner.get(owner)?);
                first_common(&[self.waiting_for(LeasePurpose::Execute, queue)?, of_owner], after)
            }
            Claimable::ToCompensate(queue, kinds) => {
                let waiting = self.waiting_for(LeasePurpose::Compensate, queue)?;
                let of_kind = |kind| Calls::OfKind(&self.index.by_kind, kind);
                let any = first_common(&[waiting.clone(), of_kind(None)], after);
                let of_all: Vec<_> =
                    [waiting].into_iter().chain(kinds.iter().cloned().map(Some).map(of_kind)).collect();
                any.into_iter().chain(first_common(&of_all, after)).min()
            }
            Claimable::Resumed(_) => None,
        }
    }

    fn waiting_for(&self, purpose: LeasePurpose, queue: &QueueName) -> Option<Calls<'_>> {
        self.index.by_queue.get(&(purpose, queue.clone())).map(Calls::All)
    }

    /// True if a call is held until a sweep.
    pub fn has_until_swept(&self) -> bool {
        !self.index.until_swept.is_empty()
    }

    /// The first calls that are held until a sweep.
    pub fn calls_until_swept(&self) -> Vec<u64> {
        self.index.until_swept.iter().take(SWEPT_CHECKS).copied().collect()
    }

    /// A held call, unless its caller is gone; then it is removed.
    pub fn get(&mut self, call: u64) -> Option<&HeldClaim<C>> {
        if self.calls.get(&call)?.caller.is_gone() {
            self.take(call);
            return None;
        }
        self.calls.get(&call)
    }

    /// Removes a call.
    pub fn take(&mut self, call: u64) -> Option<HeldClaim<C>> {
        let held = self.calls.remove(&call)?;
        match held.until {
            HeldUntil::Deadline(at) => self.index.deadlines.remove(&(at, call)),
            HeldUntil::Swept(_) => self.index.until_swept.remove(&call),
        };
        if let Some(share) = &held.share
            && let Some(count) = self.index.shares.get_mut(share)
        {
            *count -= 1;
            if *count == 0 {
                self.index.shares.remove(share);
            }
        }
        for queue in &held.claim.queues {
            remove_from(&mut self.index.by_queue, &(held.claim.purpose, queue.clone()), &call);
        }
        match held.claim.purpose {
            LeasePurpose::Execute => remove_from(&mut self.index.by_owner, &held.claim.owner, &call),
            LeasePurpose::Compensate => {
                for kind in kinds_taken(&held.claim) {
                    self.index.by_kind.remove(&(kind, call));
                }
            }
        }
        Some(held)
    }

    /// True if there is a place for a call when `most` may be held. If there is none at first, calls of callers that
    /// are gone are removed.
    pub fn have_room(&mut self, held: &HeldClaim<C>, most: usize) -> bool {
        self.has_place(held, most) || (self.drop_gone() && self.has_place(held, most))
    }

    fn has_place(&self, held: &HeldClaim<C>, most: usize) -> bool {
        let mine = held.share.as_ref().and_then(|share| self.index.shares.get(share)).copied().unwrap_or(0);
        let is_greedy = self.len() >= most / 4 * 3 && mine >= FAIR_HELD_CLAIMS;
        self.len() < most && !is_greedy
    }

    /// Checks some of the calls, others each time, and removes those whose callers are gone; returns true if there
    /// were any.
    pub fn drop_gone(&mut self) -> bool {
        let behind = (Bound::Excluded(self.looked_at), Bound::Unbounded);
        let calls = self.calls.range(behind).chain(self.calls.range(..=self.looked_at)).take(GONE_CHECKS);
        let looked_at: Vec<_> = calls.map(|(call, held)| (*call, held.caller.is_gone())).collect();
        self.looked_at = looked_at.last().map_or(0, |(call, _)| *call);
        let before = self.calls.len();
        for (call, _) in looked_at.into_iter().filter(|(_, is_gone)| *is_gone) {
            self.take(call);
        }
        self.calls.len() < before
    }

    /// Removes a call whose deadline is not after `now`.
    pub fn take_overdue(&mut self, now: Timestamp) -> Option<HeldClaim<C>> {
        let (_, call) = *self.index.deadlines.first().filter(|(at, _)| *at <= now)?;
        self.take(call)
    }

    /// Removes calls whose callers were revoked. Checks every call: a millisecond with the most that can be held, and
    /// only after a revocation.
    pub fn take_revoked(&mut self) -> Vec<HeldClaim<C>> {
        let revoked = self.calls.iter().filter(|(_, held)| held.caller.is_revoked()).map(|(call, _)| *call);
        let revoked: Vec<_> = revoked.collect();
        revoked.into_iter().filter_map(|call| self.take(call)).collect()
    }

    /// Removes all calls that are held until a sweep.
    pub fn take_until_swept(&mut self) -> Vec<HeldClaim<C>> {
        let calls: Vec<_> = self.index.until_swept.iter().copied().collect();
        calls.into_iter().filter_map(|call| self.take(call)).collect()
    }

    /// Removes all calls.
    pub fn take_all(&mut self) -> Vec<HeldClaim<C>> {
        self.index = HeldClaimIndex::default();
        std::mem::take(&mut self.calls).into_values().collect()
    }
}

/// The index keys of a call that wants to compensate: each kind that it handles; none: any kind.
fn kinds_taken(claim: &ClaimNext) -> impl Iterator<Item = Option<Kind>> {
    let any = claim.kinds.is_empty().then_some(None);
    any.into_iter().chain(claim.kinds.iter().cloned().map(Some))
}

/// A subset of the held calls, in order of arrival.
#[derive(Clone)]
enum Calls<'a> {
    All(&'a BTreeSet<u64>),
    OfKind(&'a BTreeSet<(Option<Kind>, u64)>, Option<Kind>),
}

impl Calls<'_> {
    /// The first of them whose number is not below `call`.
    fn first_from(&self, call: u64) -> Option<u64> {
        match self {
            Calls::All(calls) => calls.range(call..).next().copied(),
            Calls::OfKind(calls, kind) => {
                let (of, call) = calls.range((kind.clone(), call)..).next()?;
                (of == kind).then_some(*call)
            }
        }
    }
}

/// The first call after `after` that is in all of these subsets. Each subset is searched from the highest call found
/// so far, so calls that are in one subset only are skipped together.
fn first_common(all: &[Calls<'_>], after: u64) -> Option<u64> {
    let mut candidate = after.checked_add(1)?;
    loop {
        let begun = candidate;
        for calls in all {
            candidate = calls.first_from(candidate)?;
        }
        if candidate == begun {
            return Some(candidate);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::time::Span;

    fn queue(n: usize) -> QueueName {
        QueueName::parse(&format!("q{n}")).unwrap()
    }

    fn owner(n: usize) -> OwnerId {
        OwnerId::parse(&format!("w{n}")).unwrap()
    }

    fn kinds(of: &[usize]) -> Vec<Kind> {
        of.iter().map(|n| Kind::parse(&format!("k{n}")).unwrap()).collect()
    }

    type CanBeGiven<'a> = &'a dyn Fn(&ClaimNext) -> bool;

    impl Caller for () {}

    fn held(claim: ClaimNext) -> HeldClaim<()> {
        let until = HeldUntil::Deadline(Timestamp::ZERO);
        HeldClaim { claim, key: None, by: None, until, share: None, caller: () }
    }

    fn few(below: usize, most: usize) -> impl Strategy<Value = Vec<usize>> {
        prop::collection::vec(0..below, 0..most)
    }

    proptest! {
        #[test]
        fn exactly_the_eligible_held_claims_are_found(
            calls in prop::collection::vec((any::<bool>(), few(3, 3), 0..3usize, few(5, 4)), 0..30),
            gone in few(30, 10),
            wanted in (0..3usize, 0..3usize, few(5, 4)),
        ) {
            let mut held_claims = HeldClaims::default();
            let mut claims = BTreeMap::new();
            for (number, (executes, queues, by, of)) in (1..).zip(calls) {
                let purpose = if executes { LeasePurpose::Execute } else { LeasePurpose::Compensate };
                let claim = ClaimNext {
                    queues: queues.into_iter().map(queue).collect(),
                    owner: owner(by),
                    ttl: Span::from_secs(1),
                    max_sagas: 1,
                    wait: Span::from_secs(1),
                    purpose,
                    kinds: kinds(&of),
                };
                held_claims.hold(held(claim.clone()));
                claims.insert(number, claim);
            }
            for call in gone {
                held_claims.take(call as u64);
                claims.remove(&(call as u64));
            }
            let (of_queue, by, pending) = (queue(wanted.0), owner(wanted.1), kinds(&wanted.2));
            let waits = |claim: &ClaimNext, purpose| claim.purpose == purpose && claim.queues.contains(&of_queue);
            let takes = |claim: &ClaimNext| claim.kinds.is_empty() || pending.iter().all(|kind| claim.kinds.contains(kind));
            let set: KindSet = pending.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect();
            let cases: [(Claimable, CanBeGiven<'_>); 3] = [
                (Claimable::ToExecute(of_queue.clone()), &|claim| waits(claim, LeasePurpose::Execute)),
                (Claimable::Reserved(by.clone(), of_queue.clone()), &|claim| waits(claim, LeasePurpose::Execute) && claim.owner == by),
                (Claimable::ToCompensate(of_queue.clone(), set), &|claim| waits(claim, LeasePurpose::Compensate) && takes(claim)),
            ];
            for (claimable, can_be_given) in cases {
                let expected: Vec<u64> = claims.iter().filter(|(_, claim)| can_be_given(claim)).map(|(n, _)| *n).collect();
                let mut found = Vec::new();
                while let Some(call) = held_claims.next_eligible(&claimable, found.last().copied().unwrap_or(0)) {
                    found.push(call);
                }
                prop_assert_eq!(found, expected, "{:?}", claimable);
            }
            for call in claims.into_keys() {
                held_claims.take(call);
            }
            prop_assert!(held_claims.is_empty() && held_claims.index.by_queue.is_empty());
            prop_assert!(held_claims.index.by_owner.is_empty() && held_claims.index.by_kind.is_empty());
        }
    }
}
