//! Counters by queue, and which kinds of compensations somebody handles there. Both are bounded: a caller that makes
//! up queue names gets no memory for it.

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;

use crate::domain::{
    command::ClaimNext,
    ids::QueueName,
    text::Kind,
    time::{Span, Timestamp},
};

use super::batch_events::QueueEvent;

/// Most queues with counters of their own. The others are counted together.
const QUEUES: usize = 200;
/// Most kinds of compensations kept for a queue.
const KINDS: usize = 64;
/// A claim for compensation is dropped after this: a handler claims again within seconds.
const ASKED_KEPT: Span = Span::from_secs(3600);

/// How many events of each kind a queue has had since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueEventCounts {
    /// Leases for execution that ran out.
    pub execution_expired: u64,
    /// Leases for compensation that ran out.
    pub compensation_expired: u64,
    /// Sagas that were quarantined.
    pub quarantined: u64,
}

impl QueueEventCounts {
    fn count(&mut self, what: QueueEvent) {
        match what {
            QueueEvent::ExecutionExpired => self.execution_expired += 1,
            QueueEvent::CompensationExpired => self.compensation_expired += 1,
            QueueEvent::Quarantined => self.quarantined += 1,
        }
    }
}

/// A kind that a `ClaimNext` for compensation asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandledKind {
    /// In which queue.
    pub queue: QueueName,
    /// Which kind; none: any.
    pub kind: Option<Kind>,
    /// When it was last asked for.
    pub last: Timestamp,
}

#[derive(Debug, Default)]
pub(crate) struct QueueCounters {
    counts: Mutex<(HashMap<QueueName, QueueEventCounts>, QueueEventCounts)>,
    asked: Mutex<HashMap<QueueName, HashMap<Option<Kind>, Timestamp>>>,
}

impl QueueCounters {
    pub(crate) fn count(&self, queue: &QueueName, what: QueueEvent) {
        let (queues, others) = &mut *self.counts.lock();
        if queues.len() < QUEUES || queues.contains_key(queue) {
            queues.entry(queue.clone()).or_default().count(what);
        } else {
            others.count(what);
        }
    }

    pub(crate) fn asked(&self, claim: &ClaimNext, now: Timestamp) {
        let mut asked = self.asked.lock();
        for queue in &claim.queues {
            if asked.len() >= QUEUES && !asked.contains_key(queue) {
                asked.retain(|_, kinds| kinds.values().any(|last| now.since(*last) < ASKED_KEPT));
                if asked.len() >= QUEUES {
                    continue;
                }
            }
            let kinds = asked.entry(queue.clone()).or_default();
            let any = claim.kinds.is_empty().then_some(None);
            for kind in any.into_iter().chain(claim.kinds.iter().cloned().map(Some)) {
                if kinds.len() >= KINDS && !kinds.contains_key(&kind) {
                    kinds.retain(|_, last| now.since(*last) < ASKED_KEPT);
                }
                if kinds.len() < KINDS || kinds.contains_key(&kind) {
                    kinds.insert(kind, now);
                }
            }
        }
    }

    /// The counters by queue, in order of name; those of all other queues; and the handled kinds.
    pub(crate) fn read(&self) -> (Vec<(QueueName, QueueEventCounts)>, QueueEventCounts, Vec<HandledKind>) {
        let (queues, others) = {
            let counts = self.counts.lock();
            (counts.0.iter().map(|(queue, counts)| (queue.clone(), *counts)).collect::<BTreeMap<_, _>>(), counts.1)
        };
        let mut handled_kinds: Vec<_> = self
            .asked
            .lock()
            .iter()
            .flat_map(|(queue, kinds)| {
                kinds.iter().map(|(kind, last)| HandledKind { queue: queue.clone(), kind: kind.clone(), last: *last })
            })
            .collect();
        handled_kinds.sort_by(|a, b| (&a.queue, &a.kind).cmp(&(&b.queue, &b.kind)));
        (queues.into_iter().collect(), others, handled_kinds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ids::OwnerId, lease::LeasePurpose};

    fn queue(number: usize) -> QueueName {
        QueueName::parse(&format!("q{number:04}")).unwrap()
    }

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_micros(secs * 1_000_000)
    }

    #[test]
    fn p10_only_so_many_queues_are_counted_separately_and_no_event_is_lost() {
        let queues = QueueCounters::default();
        for number in 0..1000 {
            queues.count(&queue(number), QueueEvent::ExecutionExpired);
            queues.count(&queue(0), QueueEvent::Quarantined);
        }
        let (told, others, _) = queues.read();
        assert_eq!((told.len(), told[0].0.clone()), (QUEUES, queue(0)));
        assert_eq!(told[0].1, QueueEventCounts { execution_expired: 1, compensation_expired: 0, quarantined: 1000 });
        assert_eq!(others.execution_expired, 1000 - QUEUES as u64);
    }

    fn claim(queues: impl IntoIterator<Item = usize>, kinds: &[&str]) -> ClaimNext {
        ClaimNext {
            queues: queues.into_iter().map(queue).collect(),
            owner: OwnerId::parse("w").unwrap(),
            ttl: Span::from_secs(1),
            max_sagas: 1,
            wait: Span::ZERO,
            purpose: LeasePurpose::Compensate,
            kinds: kinds.iter().map(|kind| Kind::parse(kind).unwrap()).collect(),
        }
    }

    #[test]
    fn p10_handled_kinds_are_bounded_and_forgotten_after_a_while() {
        let queues = QueueCounters::default();
        queues.asked(&claim([0], &["a", "b"]), at(1));
        queues.asked(&claim([0], &["a"]), at(2));
        queues.asked(&claim([1], &[]), at(3));
        let told = |queues: &QueueCounters| {
            let (_, _, handled_kinds) = queues.read();
            handled_kinds
                .into_iter()
                .map(|a| (a.queue, a.kind.map(|kind| kind.to_string()), a.last))
                .collect::<Vec<_>>()
        };
        let (a, b) = (Some("a".to_owned()), Some("b".to_owned()));
        assert_eq!(told(&queues), [(queue(0), a, at(2)), (queue(0), b, at(1)), (queue(1), None, at(3))]);
        for number in 0..500 {
            queues.asked(&claim([number], &[]), at(4));
            queues.asked(&claim([0], &[&format!("k{number}")]), at(4));
        }
        let (_, _, handled_kinds) = queues.read();
        assert_eq!(handled_kinds.iter().filter(|a| a.queue == queue(0)).count(), KINDS);
        assert_eq!(handled_kinds.len(), KINDS + QUEUES - 1);
        queues.asked(&claim([700], &["new"]), at(5000));
        assert!(told(&queues).iter().any(|(name, _, _)| *name == queue(700)), "those of long ago make room");
        assert_eq!(told(&queues).len(), 1);
    }
}
