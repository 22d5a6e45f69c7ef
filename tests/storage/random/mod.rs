//! The same commands at random against both backends, every answer and everything stored compared.
//!
//! `CONFORMANCE_COMMANDS=n` runs more of them, `CONFORMANCE_SEED=s` other ones; a failure names both.

mod commands;
mod dice;
pub mod sides;

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
    commands::{QUEUES, TASKS, name},
    dice::Dice,
    sides::{MemoryDisk, Side, SqliteDisk},
};
use super::build::{key_of, labels, owner, queue, task};

/// Commands of one run: then the stores begin anew, so that a failure is near its beginning.
const RUN: usize = 2000;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

#[test]
fn random_commands_have_the_same_outcome() {
    let first_seed = setting("CONFORMANCE_SEED", 1);
    let wanted = setting("CONFORMANCE_COMMANDS", 10_000) as usize;
    let mut seen = BTreeSet::new();
    for (seed, begun) in (first_seed..).zip((0..wanted).step_by(RUN)) {
        let _named = Named { seed, commands: RUN.min(wanted - begun) };
        let mut twins = Twins::new(seed);
        twins.run(RUN.min(wanted - begun));
        seen.append(&mut twins.seen);
        twins.finish();
    }
    if wanted >= 10_000 {
        // Else it compares less than it seems to.
        let missing: Vec<_> = WORTH_SEEING.iter().filter(|what| !seen.contains(**what)).collect();
        assert!(missing.is_empty(), "never happened: {missing:?}");
    }
}

/// What must have happened in a run of some length: every event, every refusal but one that takes 128 compensations.
const WORTH_SEEING: &[&str] = &[
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
    "a turn that is lost",
    "a sweep that left something",
];

/// Says how to repeat a run that fails.
struct Named {
    seed: u64,
    commands: usize,
}

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("to repeat it: CONFORMANCE_SEED={} CONFORMANCE_COMMANDS={}", self.seed, self.commands);
        }
    }
}

/// Two stores that must not differ.
struct Twins {
    dice: Dice,
    now: Timestamp,
    memory: Side<MemoryDisk>,
    sqlite: Side<SqliteDisk>,
    /// Lately executed requests with a `request_id`, for repeating them.
    requests: Vec<Request>,
    executed: usize,
    compared_through: Revision,
    /// What happened, by name.
    seen: BTreeSet<String>,
}

impl Twins {
    fn new(seed: u64) -> Self {
        let now = super::bench::START;
        let grace = RestartGrace { returned_at: now, length: Span::ZERO };
        Twins {
            dice: Dice(seed),
            now,
            memory: Side::open(MemoryDisk::default(), grace),
            sqlite: Side::open(SqliteDisk::default(), grace),
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
            if self.dice.once_in(40) {
                self.be_away();
            }
            if self.dice.once_in(80) {
                self.reopen();
            }
            if self.dice.once_in(30) {
                self.compare_all();
            }
        }
    }

    fn finish(mut self) {
        self.compare_all();
        self.reopen();
        self.compare_all();
        self.sqlite.disk.verify();
    }

    /// Often to the very instant at which something is due, or next to it.
    fn pass_time(&mut self) {
        let next = self.memory.coordinator().due_index().next();
        assert_eq!(next, self.sqlite.coordinator().due_index().next(), "at {}", self.executed);
        let step = match self.dice.below(8) {
            0..=2 => Span::ZERO,
            3 => Span::from_micros(1).unwrap(),
            4 | 5 => next.map_or(Span::ZERO, |at| at.since(self.now)),
            6 => next.map_or(Span::ZERO, |at| Span::from_micros((at.since(self.now).micros() - 1).max(0)).unwrap()),
            _ => self.dice.span(),
        };
        // What is due in a month is not waited for, or everything would be over at once.
        if step <= Span::from_secs(2 * 3600) {
            self.now = self.now.plus(step);
        }
        self.memory.let_go_overdue(self.now);
        self.sqlite.let_go_overdue(self.now);
        if self.dice.once_in(20) {
            self.memory.lose_a_caller();
            self.sqlite.lose_a_caller();
        }
    }

    fn known(&self) -> Vec<Option<Saga>> {
        (0..TASKS).map(|n| self.memory.reader().get(&SagaKey::Task(task(&name(n)))).unwrap()).collect()
    }

    fn request(&mut self, known: &[Option<Saga>]) -> Request {
        if !self.requests.is_empty() && self.dice.once_in(12) {
            return self.dice.pick(&self.requests).clone();
        }
        let command = commands::command(&mut self.dice, known);
        let key = match &command {
            // These have no request_id in the contract.
            Command::SetPaused(_) | Command::Purge(_) => None,
            Command::Create(_) | Command::ClaimNext(_) | Command::Change(_) if self.dice.once_in(3) => {
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

    /// Mostly a new id, at times one that is in use.
    fn key(&mut self, command: &Command) -> RequestKey {
        let id = if self.dice.once_in(6) { self.dice.below(3) } else { self.dice.below(250) };
        key_of(id as u8, command)
    }

    fn transaction(&mut self) {
        let known = self.known();
        // Mostly so little that what is due is left to later turns, if not to the calls that it concerns.
        let budget = *self.dice.pick(&[0, 0, 0, 2, 6, 1 << 20]);
        let requests: Vec<_> = (0..1 + self.dice.below(8)).map(|_| self.request(&known)).collect();
        self.executed += requests.len();
        let (expected, found) = if self.dice.once_in(10) {
            self.seen.insert("a turn that is lost".to_owned());
            let expected = self.memory.lose_turn(budget, &requests, self.now);
            (expected, self.sqlite.lose_turn(budget, &requests, self.now))
        } else {
            let expected = self.memory.turn(budget, &requests, self.now);
            (expected, self.sqlite.turn(budget, &requests, self.now))
        };
        assert_eq!(found, expected, "the turn up to command {}: {requests:#?}", self.executed);
        expected.executed.iter().for_each(|executed| self.note(executed));
        self.seen.extend(expected.events.iter().map(|event| format!("{:?}", event.kind)));
        if !expected.complete {
            self.seen.insert("a sweep that left something".to_owned());
        }
        assert_eq!(self.sqlite.coordinator().next_revision(), self.memory.coordinator().next_revision());
        self.compare_sagas();
    }

    fn note(&mut self, (outcome, served): &sides::Executed) {
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
        self.now = self.now.plus(self.dice.span());
        let grace = *self.dice.pick(&[Span::ZERO, Span::from_secs(10)]);
        let grace = RestartGrace { returned_at: self.now, length: grace };
        self.memory.returned(grace);
        self.sqlite.returned(grace);
    }

    /// In good order, or with what was not committed lost.
    fn reopen(&mut self) {
        let in_order = self.dice.once_in(2);
        let mid_turn = !in_order && self.dice.once_in(2);
        if mid_turn {
            let (known, now) = (self.known(), self.now);
            let request = Request { command: commands::command(&mut self.dice, &known), key: None, by: None };
            let expected = self.memory.lose_turn(1 << 20, std::slice::from_ref(&request), now);
            assert_eq!(self.sqlite.lose_turn(1 << 20, &[request], now), expected);
        }
        let grace = RestartGrace { returned_at: self.now, length: Span::from_secs(1) };
        let expected = self.memory.reopen(in_order, self.now, grace);
        assert_eq!(self.sqlite.reopen(in_order, self.now, grace), expected, "opened after {}", self.executed);
        assert!(expected.last_time <= self.now.plus(Span::from_micros(1).unwrap()));
        self.compare_sagas();
    }

    /// Every saga, and what is new in the history.
    fn compare_sagas(&mut self) {
        for n in 0..TASKS + 3 {
            let key = SagaKey::Task(task(&name(n)));
            assert_eq!(self.sqlite.reader().get(&key), self.memory.reader().get(&key), "after {}", self.executed);
        }
        let new = EventQuery { after: self.compared_through, whole: true, ..everything() };
        let (expected, found) =
            (self.memory.reader().events(&new).unwrap(), self.sqlite.reader().events(&new).unwrap());
        assert_eq!(found, expected, "the history after {}", self.executed);
        self.compared_through = expected.found.last().map_or(self.compared_through, |event| event.revision);
    }

    /// All that can be asked, with questions at random.
    fn compare_all(&mut self) {
        let read_time = ReadTime { now: self.now, grace: self.memory.coordinator().grace() };
        let (a, b) = (self.memory.reader(), self.sqlite.reader());
        assert_eq!(b.counts(&read_time), a.counts(&read_time), "after {}", self.executed);
        for (after, limit) in [(None, 100), (None, 2), (Some(queue(self.dice.word(&QUEUES))), 2)] {
            assert_eq!(b.queues(after.as_ref(), limit), a.queues(after.as_ref(), limit));
        }
        let whole = EventQuery { whole: true, ..everything() };
        assert_eq!(b.events(&whole), a.events(&whole));
        let dice = &mut self.dice;
        for _ in 0..8 {
            let list = list_query(dice, read_time);
            assert_eq!(all_pages(b, &list), all_pages(a, &list), "{list:?}");
            let events = event_query(dice, self.compared_through);
            assert_eq!(b.events(&events), a.events(&events), "{events:?}");
            let queues: Vec<_> = dice.some(&QUEUES).into_iter().map(queue).collect();
            let after = Revision(dice.below(1 + self.compared_through.0 as usize) as i64);
            let through = Revision(after.0 + dice.below(500) as i64);
            let limit = 1 + dice.below(5);
            // Most of these sagas are a few hundred bytes.
            let bounds = PageBounds { sagas: limit, bytes: dice.below(4000) };
            assert_eq!(b.stale(&queues, after, through, bounds), a.stale(&queues, after, through, bounds));
        }
        for saga in all_pages(a, &ListQuery { filter: Filter::default(), ..list_query(dice, read_time) }) {
            let key = SagaKey::Saga(saga.spec.saga_id.clone());
            assert_eq!(b.get(&key), a.get(&key));
        }
    }
}

fn everything() -> EventQuery {
    EventQuery { through: Revision(i64::MAX), limit: usize::MAX >> 1, ..EventQuery::default() }
}

fn event_query(dice: &mut Dice, newest: Revision) -> EventQuery {
    let near = Revision((newest.0 + 2 - dice.below(60) as i64).max(0));
    EventQuery {
        task_id: dice.once_in(2).then(|| task(&name(dice.below(TASKS)))),
        queues: dice.some(&QUEUES).into_iter().map(queue).collect(),
        marked_only: dice.once_in(2),
        after: near,
        through: if dice.once_in(2) { Revision(i64::MAX) } else { Revision(near.0 + dice.below(30) as i64) },
        limit: *dice.pick(&[1, 3, 1000]),
        whole: dice.once_in(2),
    }
}

fn list_query(dice: &mut Dice, read_time: ReadTime) -> ListQuery {
    let owners: Vec<OwnerId> = ["w0", "w1"].into_iter().map(owner).collect();
    let filter = Filter {
        states: if dice.once_in(3) { dice.some(&State::ALL) } else { Vec::new() },
        queues: if dice.once_in(3) { dice.some(&QUEUES).into_iter().map(queue).collect() } else { Vec::new() },
        owner: dice.once_in(3).then(|| dice.pick(&owners).clone()),
        held_by: dice.once_in(3).then(|| dice.pick(&owners).clone()),
        labels: if dice.once_in(3) { labels(&[("team", "a")]) } else { Labels::default() },
        issue: dice.once_in(3).then_some(0),
        stale_only: dice.once_in(3),
        in_flight_only: dice.once_in(3),
    };
    ListQuery { filter, newest_first: dice.once_in(2), after: None, limit: *dice.pick(&[1, 2, 100]), read_time }
}

/// Backends may divide a list into pages differently: what counts is what is in all of them.
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
