//! Held `ClaimNext` calls, served in order of arrival. A call that waits is on no disk: when the coordinator ends, it is
//! answered that it did not happen.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    sync::Arc,
};

use crate::domain::{
    command::{ClaimNext, RequestKey},
    ids::{OwnerId, QueueName},
    lease::LeasePurpose,
    principal::Behalf,
    text::Kind,
    time::Timestamp,
};

use super::post::Reply;

/// How many calls are looked at for whether their callers are gone: so few that it costs the writer nothing to speak of.
const LOOK_AT: usize = 128;

/// A held call.
pub struct Waiter {
    /// What it wants.
    pub wish: ClaimNext,
    /// Its `request_id`, if given.
    pub key: Option<RequestKey>,
    /// On whose behalf, if that is known.
    pub by: Option<Arc<Behalf>>,
    /// When it is answered that there was none.
    pub deadline: Timestamp,
    /// Where its answer goes.
    pub answer: Reply,
}

/// What became claimable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Wake {
    /// Something in a queue, by anyone.
    Ready(LeasePurpose, QueueName),
    /// Something in a queue, by one owner.
    Reserved(OwnerId, QueueName),
    /// Whatever is in a queue that was paused.
    Resumed(QueueName),
}

impl Wake {
    /// Whether a call that finds nothing shows that no other call finds anything.
    pub fn is_for_anyone(&self) -> bool {
        match self {
            Wake::Ready(..) => true,
            Wake::Reserved(..) | Wake::Resumed(_) => false,
        }
    }
}

/// Queues and purposes that are told apart, kinds of each, and calls that are looked at for their kinds: so few that
/// telling takes the writer about a millisecond at most.
const TOLD: usize = 1_000;
const KINDS_TOLD: usize = 64;

/// Held calls that wait for a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The queue.
    pub queue: QueueName,
    /// What they want to do.
    pub purpose: LeasePurpose,
    /// How many. A call that waits for several queues counts for each.
    pub count: usize,
    /// The kinds of compensations that they take, all together; none: no call that is for compensation, or any kind.
    pub kinds: BTreeSet<Kind>,
}

/// The held calls.
#[derive(Default)]
pub struct Waiters {
    calls: BTreeMap<u64, Waiter>,
    by_queue: HashMap<(LeasePurpose, QueueName), BTreeSet<u64>>,
    deadlines: BTreeSet<(Timestamp, u64)>,
    arrived: u64,
    /// The last call that was looked at for whether its caller is gone.
    looked_at: u64,
}

impl Waiters {
    /// Holds a call.
    pub fn hold(&mut self, waiter: Waiter) {
        self.arrived += 1;
        for queue in &waiter.wish.queues {
            self.by_queue.entry((waiter.wish.purpose, queue.clone())).or_default().insert(self.arrived);
        }
        self.deadlines.insert((waiter.deadline, self.arrived));
        self.calls.insert(self.arrived, waiter);
    }

    /// Which calls are held, by queue and purpose; in no order.
    pub fn tell(&self) -> Vec<Waiting> {
        let told = self.by_queue.iter().take(TOLD).map(|((purpose, queue), calls)| {
            let wishes = calls.iter().take(TOLD).filter_map(|call| self.calls.get(call)).map(|call| &call.wish);
            let kinds = if wishes.clone().any(|wish| wish.kinds.is_empty()) {
                BTreeSet::new()
            } else {
                wishes.flat_map(|wish| &wish.kinds).take(TOLD).cloned().collect::<BTreeSet<_>>()
            };
            let kinds = kinds.into_iter().take(KINDS_TOLD).collect();
            Waiting { queue: queue.clone(), purpose: *purpose, count: calls.len(), kinds }
        });
        told.collect()
    }

    /// Whether no call is held.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// How many calls are held.
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// When the next held call is to be answered that there was none.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// The calls that what became claimable may serve, in order of arrival.
    pub fn interested(&self, wake: &Wake) -> Vec<u64> {
        let waiting_for = |purpose: LeasePurpose, queue: &QueueName| {
            self.by_queue.get(&(purpose, queue.clone())).into_iter().flatten().copied()
        };
        match wake {
            Wake::Ready(purpose, queue) => waiting_for(*purpose, queue).collect(),
            Wake::Reserved(owner, queue) => {
                waiting_for(LeasePurpose::Execute, queue).filter(|call| self.calls[call].wish.owner == *owner).collect()
            }
            Wake::Resumed(queue) => {
                let either =
                    waiting_for(LeasePurpose::Execute, queue).chain(waiting_for(LeasePurpose::Compensate, queue));
                either.collect::<BTreeSet<_>>().into_iter().collect()
            }
        }
    }

    /// A held call, unless its caller has gone away: such a call is let go.
    pub fn get(&mut self, call: u64) -> Option<&Waiter> {
        if self.calls.get(&call)?.answer.is_closed() {
            self.take(call);
            return None;
        }
        self.calls.get(&call)
    }

    /// Lets a call go.
    pub fn take(&mut self, call: u64) -> Option<Waiter> {
        let waiter = self.calls.remove(&call)?;
        self.deadlines.remove(&(waiter.deadline, call));
        for queue in &waiter.wish.queues {
            let key = (waiter.wish.purpose, queue.clone());
            if let Some(calls) = self.by_queue.get_mut(&key) {
                calls.remove(&call);
                if calls.is_empty() {
                    self.by_queue.remove(&key);
                }
            }
        }
        Some(waiter)
    }

    /// Looks at some of the calls, at others each time, and lets those go whose callers have gone away; returns whether
    /// there were any.
    pub fn forget_gone(&mut self) -> bool {
        let behind = (Bound::Excluded(self.looked_at), Bound::Unbounded);
        let calls = self.calls.range(behind).chain(self.calls.range(..=self.looked_at)).take(LOOK_AT);
        let looked_at: Vec<_> = calls.map(|(call, waiter)| (*call, waiter.answer.is_closed())).collect();
        self.looked_at = looked_at.last().map_or(0, |(call, _)| *call);
        let before = self.calls.len();
        for (call, _) in looked_at.into_iter().filter(|(_, is_gone)| *is_gone) {
            self.take(call);
        }
        self.calls.len() < before
    }

    /// Lets a call go whose time is up by `now`.
    pub fn take_overdue(&mut self, now: Timestamp) -> Option<Waiter> {
        let (_, call) = *self.deadlines.first().filter(|(at, _)| *at <= now)?;
        self.take(call)
    }

    /// Lets every call go.
    pub fn take_all(&mut self) -> Vec<Waiter> {
        self.by_queue.clear();
        self.deadlines.clear();
        std::mem::take(&mut self.calls).into_values().collect()
    }
}
