//! The same random commands on the reference in memory and on another backend; every answer and all stored data are compared.
//!
//! `CONFORMANCE_COMMANDS=n` sets their number, `CONFORMANCE_SEED=s` the seed; a failure prints both.

pub mod compared_store;
mod random_commands;
mod rng;

use std::collections::BTreeSet;

use sagad::{
    domain::{
        command::{Answer, Command, Request, RequestKey},
        ids::{OwnerId, Revision},
        lease::RestartGrace,
        saga::{Saga, State},
        text::Labels,
        time::{Span, Timestamp},
    },
    store::{Cursor, EventQuery, Filter, ListQuery, PageBounds, ReadTime, Reader, SagaKey, StoreError},
};

use self::{
    compared_store::{ComparedStore, MemoryDisk, PostgresDisk, SqliteDisk, StoreDisk},
    random_commands::{QUEUES, TASKS, name},
    rng::Rng,
};
use super::{
    builders::{key_of, labels, owner, queue, task},
    postgres,
};

/// Commands of one run on new stores: a failure then comes soon after the start of its run.
const RUN: usize = 2000;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

#[test]
fn sqlite_answers_random_commands_like_the_reference() {
    compare(SqliteDisk::default);
}

#[test]
fn postgres_answers_random_commands_like_the_reference() {
    if postgres::is_there() {
        compare(PostgresDisk::default);
    }
}

fn compare<D: StoreDisk>(new_store: impl Fn() -> D) {
    let first_seed = setting("CONFORMANCE_SEED", 1);
    let wanted = setting("CONFORMANCE_COMMANDS", 10_000) as usize;
    let mut seen = BTreeSet::new();
    for (seed, begun) in (first_seed..).zip((0..wanted).step_by(RUN)) {
        let _named = RepeatHint { seed, commands: RUN.min(wanted - begun) };
        let mut twins = StorePair::new(seed, new_store());
        twins.run(RUN.min(wanted - begun));
        seen.append(&mut twins.seen);
        twins.finish();
    }
    if wanted >= 10_000 {
        // Otherwise the comparison covers less than intended.
        let missing: Vec<_> = EXPECTED.iter().filter(|what| !seen.contains(**what)).collect();
        assert!(missing.is_empty(), "these never happened: {missing:?}");
    }
}

/// What must happen in a long run: every event, and every refusal except the one that needs 128 compensations.
const EXPECTED: &[&str] = &[
    "Created",
    "Dispatched",
    "Claimed",
    "Released",
    "Requeued",
    "LeaseExpired",
    "RecoveryDecided",
    "CancelRequested",
    "CompensationRegistered",
    "CompensationSettled",
    "Compensating",
    "Completed",
    "Failed",
    "RetryScheduled",
    "Compensated",
    "Quarantined",
    "Annotated",
    "SagaNotFound",
    "CompensationNotFound",
    "SagaExists",
    "RequestIdReused",
    "SagaTerminal",
    "LeaseHeld",
    "DispatchedElsewhere",
    "NotReady",
    "Settling",
    "WrongState",
    "NotStale",
    "CompensationRequired",
    "CompensationPending",
    "CompensationOrder",
    "LeaseNotExtended",
    "ExecutionTimeout",
    "ProgressTimeout",
    "LeaseExpired",
    "LeaseSuperseded",
    "NotOwner",
    "NoLease",
    "a held call is answered",
    "a purge",
    "a lost turn",
    "an incomplete sweep",
];

/// Prints how to repeat a failed run.
struct RepeatHint {
    seed: u64,
    commands: usize,
}

impl Drop for RepeatHint {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("to repeat it: CONFORMANCE_SEED={} CONFORMANCE_COMMANDS={}", self.seed, self.commands);
        }
    }
}

/// The two stores that are compared.
struct StorePair<D: StoreDisk> {
    rng: Rng,
    now: Timestamp,
    memory: ComparedStore<MemoryDisk>,
    stored: ComparedStore<D>,
    /// Recent requests with a `request_id`, to repeat them.
    requests: Vec<Request>,
    executed: usize,
    compared_through: Revision,
    /// What happened, by name.
    seen: BTreeSet<String>,
}

impl<D: StoreDisk> StorePair<D> {
    fn new(seed: u64, stored: D) -> Self {
        let now = super::test_store::START;
        let grace = RestartGrace { returned_at: now, length: Span::ZERO };
        StorePair {
            rng: Rng(seed),
            now,
            memory: ComparedStore::open(stored.reference(), grace),
            stored: ComparedStore::open(stored, grace),
            requests: Vec::new(),
            executed: 0,
            compared_through: Revision::ZERO,
            seen: BTreeSet::new(),
        }
    }

    fn run(&mut self, commands: usize) {
        while self.executed < commands {
            self.pass_time();
            self.transaction();
            if self.rng.once_in(40) {
                self.be_away();
            }
            if self.rng.once_in(80) {
                self.reopen();
            }
            if self.rng.once_in(30) {
                self.compare_all();
            }
        }
    }

    fn finish(mut self) {
        self.compare_all();
        self.reopen();
        self.compare_all();
        self.stored.disk.verify();
    }

    /// Often to a deadline or a microsecond beside it.
    fn pass_time(&mut self) {
        let next = self.memory.coordinator().due_index().next();
        assert_eq!(next, self.stored.coordinator().due_index().next(), "at {}", self.executed);
        let step = match self.rng.below(8) {
            0..=2 => Span::ZERO,
            3 => Span::from_micros(1).unwrap(),
            4 | 5 => next.map_or(Span::ZERO, |at| at.since(self.now)),
            6 => next.map_or(Span::ZERO, |at| Span::from_micros((at.since(self.now).micros() - 1).max(0)).unwrap()),
            _ => self.rng.span(),
        };
        // Deadlines a month away are not waited for; otherwise all sagas would end at once.
        if step <= Span::from_secs(2 * 3600) {
            self.now = self.now.plus(step);
        }
        self.memory.answer_overdue(self.now);
        self.stored.answer_overdue(self.now);
        if self.rng.once_in(20) {
            self.memory.cancel_a_call();
            self.stored.cancel_a_call();
        }
    }

    fn known(&self) -> Vec<Option<Saga>> {
        (0..TASKS).map(|n| self.memory.reader().get(&SagaKey::Task(task(&name(n)))).unwrap()).collect()
    }

    fn request(&mut self, known: &[Option<Saga>]) -> Request {
        if !self.requests.is_empty() && self.rng.once_in(12) {
            return self.rng.pick(&self.requests).clone();
        }
        let command = random_commands::command(&mut self.rng, known);
        let key = match &command {
            // These have no request_id in the contract.
            Command::SetPaused(_) | Command::Purge(_) => None,
            Command::Create(_) | Command::ClaimNext(_) | Command::Change(_) if self.rng.once_in(3) => {
                Some(self.key(&command))
            }
            Command::Create(_) | Command::ClaimNext(_) | Command::Change(_) => None,
        };
        let request = Request { command, key, by: None };
        if request.key.is_some() {
            if self.requests.len() == 8 {
                self.requests.remove(0);
            }
            self.requests.push(request.clone());
        }
        request
    }

    /// Mostly a new id, sometimes a used one.
    fn key(&mut self, command: &Command) -> RequestKey {
        let id = if self.rng.once_in(6) { self.rng.below(3) } else { self.rng.below(250) };
        key_of(id as u8, command)
    }

    fn transaction(&mut self) {
        let known = self.known();
        // Mostly a small budget, so that due changes are left to later turns or to the calls for their sagas.
        let budget = *self.rng.pick(&[0, 0, 0, 2, 6, 1 << 20]);
        let requests: Vec<_> = (0..1 + self.rng.below(8)).map(|_| self.request(&known)).collect();
        self.executed += requests.len();
        let (expected, found) = if self.rng.once_in(10) {
            self.seen.insert("a lost turn".to_owned());
            let expected = self.memory.lose_turn(budget, &requests, self.now);
            (expected, self.stored.lose_turn(budget, &requests, self.now))
        } else {
            let expected = self.memory.turn(budget, &requests, self.now);
            (expected, self.stored.turn(budget, &requests, self.now))
        };
        assert_eq!(found, expected, "the turn up to command {}: {requests:#?}", self.executed);
        expected.executed.iter().for_each(|executed| self.note(executed));
        self.seen.extend(expected.events.iter().map(|event| format!("{:?}", event.kind)));
        if !expected.complete {
            self.seen.insert("an incomplete sweep".to_owned());
        }
        assert_eq!(self.stored.coordinator().next_revision(), self.memory.coordinator().next_revision());
        self.compare_sagas();
    }

    fn note(&mut self, (outcome, served): &compared_store::CallResult) {
        if served.iter().any(|(_, outcome)| outcome.is_ok()) {
            self.seen.insert("a held call is answered".to_owned());
        }
        match outcome {
            Some(Err(StoreError::Refused(refusal))) => {
                let name = format!("{:?}", refusal.why);
                self.seen.extend(name.split([' ', '(', '{']).next().map(str::to_owned));
            }
            Some(Ok(Answer::Purged(purged))) if purged.through > Revision::ZERO => {
                self.seen.insert("a purge".to_owned());
            }
            Some(Ok(_)) | None => {}
            Some(Err(other)) => panic!("{other:?}"),
        }
    }

    fn be_away(&mut self) {
        self.now = self.now.plus(self.rng.span());
        let grace = *self.rng.pick(&[Span::ZERO, Span::from_secs(10)]);
        let grace = RestartGrace { returned_at: self.now, length: grace };
        self.memory.returned(grace);
        self.stored.returned(grace);
    }

    /// Closes the stores cleanly, or loses what was not committed.
    fn reopen(&mut self) {
        let in_order = self.rng.once_in(2);
        let mid_turn = !in_order && self.rng.once_in(2);
        if mid_turn {
            let (known, now) = (self.known(), self.now);
            let request = Request { command: random_commands::command(&mut self.rng, &known), key: None, by: None };
            let expected = self.memory.lose_turn(1 << 20, std::slice::from_ref(&request), now);
            assert_eq!(self.stored.lose_turn(1 << 20, &[request], now), expected);
        }
        let grace = RestartGrace { returned_at: self.now, length: Span::from_secs(1) };
        let expected = self.memory.reopen(in_order, self.now, grace);
        assert_eq!(self.stored.reopen(in_order, self.now, grace), expected, "opened after {}", self.executed);
        assert!(expected.last_time <= self.now.plus(Span::from_micros(1).unwrap()));
        self.compare_sagas();
    }

    /// Compares every saga and the new events.
    fn compare_sagas(&mut self) {
        for n in 0..TASKS + 3 {
            let key = SagaKey::Task(task(&name(n)));
            assert_eq!(self.stored.reader().get(&key), self.memory.reader().get(&key), "after {}", self.executed);
        }
        let new = EventQuery { after: self.compared_through, whole: true, ..everything() };
        let (expected, found) =
            (self.memory.reader().events(&new).unwrap(), self.stored.reader().events(&new).unwrap());
        assert_eq!(found, expected, "the history after {}", self.executed);
        self.compared_through = expected.found.last().map_or(self.compared_through, |event| event.revision);
    }

    /// Compares the answers of random reads.
    fn compare_all(&mut self) {
        let read_time = ReadTime { now: self.now, grace: self.memory.coordinator().grace() };
        let (a, b) = (self.memory.reader(), self.stored.reader());
        assert_eq!(b.counts(&read_time), a.counts(&read_time), "after {}", self.executed);
        for (after, limit) in [(None, 100), (None, 2), (Some(queue(self.rng.word(&QUEUES))), 2)] {
            assert_eq!(b.queues(after.as_ref(), limit), a.queues(after.as_ref(), limit));
        }
        let whole = EventQuery { whole: true, ..everything() };
        assert_eq!(b.events(&whole), a.events(&whole));
        let rng = &mut self.rng;
        for _ in 0..8 {
            let list = list_query(rng, read_time);
            assert_eq!(all_pages(b, &list), all_pages(a, &list), "{list:?}");
            let events = event_query(rng, self.compared_through);
            assert_eq!(b.events(&events), a.events(&events), "{events:?}");
            let queues: Vec<_> = rng.some(&QUEUES).into_iter().map(queue).collect();
            let after = Revision(rng.below(1 + self.compared_through.0 as usize) as i64);
            let through = Revision(after.0 + rng.below(500) as i64);
            let limit = 1 + rng.below(5);
            // Most of these sagas have a few hundred bytes.
            let bounds = PageBounds { sagas: limit, bytes: rng.below(4000) };
            assert_eq!(b.stale(&queues, after, through, bounds), a.stale(&queues, after, through, bounds));
        }
        for saga in all_pages(a, &ListQuery { filter: Filter::default(), ..list_query(rng, read_time) }) {
            let key = SagaKey::Saga(saga.spec.saga_id.clone());
            assert_eq!(b.get(&key), a.get(&key));
        }
    }
}

fn everything() -> EventQuery {
    EventQuery { through: Revision(i64::MAX), limit: usize::MAX >> 1, ..EventQuery::default() }
}

fn event_query(rng: &mut Rng, newest: Revision) -> EventQuery {
    let near = Revision((newest.0 + 2 - rng.below(60) as i64).max(0));
    EventQuery {
        task_id: rng.once_in(2).then(|| task(&name(rng.below(TASKS)))),
        queues: rng.some(&QUEUES).into_iter().map(queue).collect(),
        marked_only: rng.once_in(2),
        after: near,
        through: if rng.once_in(2) { Revision(i64::MAX) } else { Revision(near.0 + rng.below(30) as i64) },
        limit: *rng.pick(&[1, 3, 1000]),
        whole: rng.once_in(2),
    }
}

fn list_query(rng: &mut Rng, read_time: ReadTime) -> ListQuery {
    let owners: Vec<OwnerId> = ["w0", "w1"].into_iter().map(owner).collect();
    let filter = Filter {
        states: if rng.once_in(3) { rng.some(&State::ALL) } else { Vec::new() },
        queues: if rng.once_in(3) { rng.some(&QUEUES).into_iter().map(queue).collect() } else { Vec::new() },
        owner: rng.once_in(3).then(|| rng.pick(&owners).clone()),
        held_by: rng.once_in(3).then(|| rng.pick(&owners).clone()),
        labels: if rng.once_in(3) { labels(&[("team", "a")]) } else { Labels::default() },
        issue: rng.once_in(3).then_some(0),
        stale_only: rng.once_in(3),
        in_flight_only: rng.once_in(3),
    };
    ListQuery { filter, newest_first: rng.once_in(2), after: None, limit: *rng.pick(&[1, 2, 100]), read_time }
}

/// Backends may divide a list into pages differently, so all pages are compared together.
fn all_pages(reader: &dyn Reader, query: &ListQuery) -> Vec<Saga> {
    let (mut all, mut after) = (Vec::new(), None::<Cursor>);
    loop {
        let page = reader.list(&ListQuery { after, ..query.clone() }).unwrap();
        all.extend(page.sagas.into_iter().map(|(_, saga)| saga));
        after = page.next;
        if after.is_none() {
            return all;
        }
    }
}
