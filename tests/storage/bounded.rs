//! What one transaction does, and what one claim looks at, is bounded, whatever is stored. Counted, not timed.

use std::collections::HashSet;

use sagad::domain::{
    command::{Answer, ClaimNext, Command, Request, SetPaused},
    event::Event,
    lease::RestartGrace,
    policy::{Policy, StaleAction},
    text::Text,
    time::{Span, Timestamp},
};

use super::{
    bench::{START, sagas_of},
    build::*,
    random::sides::{Executed, MemoryDisk, Report, Side},
};

/// More than one transaction sweeps.
const MANY: usize = 1200;
/// Most sagas that one transaction may sweep.
const SLICE: usize = 512;

fn open() -> Side<MemoryDisk> {
    Side::open(MemoryDisk::default(), RestartGrace::default())
}

fn request(command: impl ToCommand) -> Request {
    Request { command: command.command(), key: None, by: None }
}

/// One transaction with these commands and the sweep behind them.
struct Turn {
    executed: Vec<Executed>,
    answered_by_sweep: Vec<(ClaimNext, Vec<String>)>,
    events: Vec<Event>,
    complete: bool,
}

impl Turn {
    fn of(side: &mut Side<MemoryDisk>, commands: Vec<Command>, now: Timestamp) -> Self {
        let requests: Vec<_> = commands.into_iter().map(request).collect();
        let Report { executed, served, complete, events } = side.turn(SLICE, &requests, now);
        let answered_by_sweep = served.into_iter().map(|(claim, outcome)| (claim, ids(outcome.unwrap()))).collect();
        Turn { executed, answered_by_sweep, events, complete }
    }

    fn sagas(&self) -> usize {
        self.events.iter().map(|event| &event.task_id).collect::<HashSet<_>>().len()
    }
}

fn ids(answer: Answer) -> Vec<String> {
    sagas_of(Ok(answer)).iter().map(|saga| saga.spec.task_id.to_string()).collect()
}

/// Creates sagas and lets their leases run out at one instant; none is swept yet.
fn due_at_once(side: &mut Side<MemoryDisk>, policy: Policy, in_queue: &str) -> Timestamp {
    for n in 0..MANY {
        let mut saga = placed(&format!("{in_queue}-{n}"), in_queue, 0);
        saga.policy = policy.clone();
        let claim = claim(&format!("{in_queue}-{n}"), "dead");
        Turn::of(side, vec![create([saga]), claim], START);
    }
    START.plus(TTL)
}

#[test]
fn p14_a_transaction_sweeps_a_slice_whatever_it_is_asked() {
    for on_stale in [StaleAction::Hold, StaleAction::Requeue] {
        let mut side = open();
        let now = due_at_once(&mut side, Policy { on_stale, ..Policy::default() }, "q");
        let asked = || (0..20).map(|n| next(&["q", "p"], &format!("w{n}")).command()).collect::<Vec<_>>();
        let mut turns = 0;
        let mut claimed = HashSet::new();
        loop {
            let turn = Turn::of(&mut side, asked(), now);
            turns += 1;
            assert!(turn.sagas() <= SLICE + 20, "{} sagas in one transaction", turn.sagas());
            for outcome in turn.executed.iter().filter_map(|(outcome, _)| outcome.clone()) {
                claimed.extend(ids(outcome.unwrap()));
            }
            if turn.complete {
                break;
            }
        }
        assert!(turns >= MANY / SLICE, "{turns}");
        assert_eq!(claimed.is_empty(), on_stale == StaleAction::Hold, "{on_stale:?}");
    }
}

#[test]
fn p14_a_claim_is_not_told_that_there_is_nothing_while_something_may_be_due_for_it() {
    let mut side = open();
    // Each of them can be claimed once its lease has been found to have run out.
    let policy = Policy { on_stale: StaleAction::Requeue, ..Policy::default() };
    let now = due_at_once(&mut side, policy, "q");
    let (calls, elsewhere) = (3, next(&["r"], "elsewhere").command());
    // Enough callers that the slice of this turn can't serve all, and one in a queue where nothing is due.
    let callers = (0..calls + 3).map(|n| next(&["q"], &format!("w{n}")).command());
    let requests: Vec<_> = callers.chain([elsewhere]).map(request).collect();
    let Report { mut executed, served: mut answered, .. } = side.turn(8, &requests, now);
    let (outcome, after) = executed.pop().unwrap();
    assert_eq!(ids(outcome.unwrap().unwrap()), [""; 0], "nothing that is due can be for it: it is answered at once");
    answered.extend(after);
    let mut held = 0;
    for (outcome, after) in executed {
        answered.extend(after);
        match outcome {
            Some(outcome) => assert_eq!(ids(outcome.unwrap()).len(), 1, "it was told that there is nothing"),
            None => held += 1,
        }
    }
    assert!(held > 0, "the slice was larger than it was to be");
    while answered.len() < held {
        answered.extend(side.turn(8, &[], now).served);
    }
    for (_, outcome) in answered {
        assert_eq!(ids(outcome.unwrap()).len(), 1);
    }
}

#[test]
fn p14_a_claim_that_gets_nothing_is_answered_when_what_was_due_is_done() {
    let mut side = open();
    // A delayed saga that is due to be reserved for somebody else may have been for this caller, too; it is not.
    for n in 0..40 {
        let mut late = creation(&format!("t{n}"));
        late.delay = secs(1);
        Turn::of(&mut side, vec![create([late]), dispatch(&format!("t{n}"), "other", secs(600))], START);
    }
    let now = START.plus(secs(1));
    let turn = side.turn(8, &[request(next(&["q"], "w"))], now);
    assert_eq!(turn.executed, [(None, Vec::new())], "it waits for the rest");
    assert!(turn.served.is_empty());
    let mut turns = 0;
    let answered = loop {
        turns += 1;
        let turn = Turn::of(&mut side, Vec::new(), now.plus(us(turns)));
        if let Some((_, tasks)) = turn.answered_by_sweep.into_iter().next() {
            break tasks;
        }
        assert!(turns < 20, "it is never answered");
    };
    assert_eq!(answered, [""; 0]);
    // The assignee finds them by the same sweep.
    let (_, got) = looks(&mut side, next(&["q"], "other"), now);
    assert_eq!(got, Some(vec!["t0".to_owned()]));
}

/// What the claim made the coordinator look at, and what it got.
fn looks(side: &mut Side<MemoryDisk>, claim: ClaimNext, now: Timestamp) -> (u64, Option<Vec<String>>) {
    let before = side.coordinator().looked_at;
    let (outcome, _) = Turn::of(side, vec![claim.command()], now).executed.remove(0);
    (side.coordinator().looked_at - before, outcome.map(|outcome| ids(outcome.unwrap())))
}

/// Sagas to be compensated, each with these kinds pending.
fn to_compensate(side: &mut Side<MemoryDisk>, count: usize, kinds: &[&str]) {
    for n in 0..count {
        let id = format!("{}-{n}", kinds.join("-"));
        Turn::of(side, vec![create([undoable(&id, kinds)]), claim(&id, "w"), cancel(&id)], START);
    }
}

#[test]
fn s12_a_claim_by_kinds_looks_at_nothing_that_it_cannot_take() {
    let mut side = open();
    to_compensate(&mut side, 300, &["stuck"]);
    to_compensate(&mut side, 300, &["branch", "stuck"]);
    let claim = |kinds: &[&str]| ClaimNext { max_sagas: 10, ..next_undo("w", kinds) };
    let (looked_at, got) = looks(&mut side, claim(&["branch", "worktree"]), START);
    assert_eq!(got, Some(Vec::new()));
    assert!(looked_at < 10, "{looked_at}");
    to_compensate(&mut side, 2, &["branch"]);
    to_compensate(&mut side, 1, &["worktree", "branch"]);
    let (looked_at, got) = looks(&mut side, claim(&["branch", "worktree"]), START);
    assert_eq!(got, Some(["branch-0", "branch-1", "worktree-branch-0"].map(str::to_owned).to_vec()));
    assert!(looked_at < 30, "{looked_at}");
    // Any kind is in the store's own order.
    let (looked_at, got) = looks(&mut side, ClaimNext { max_sagas: 2, ..next_undo("w", &[]) }, START);
    assert_eq!(got, Some(["stuck-0", "stuck-1"].map(str::to_owned).to_vec()));
    assert!(looked_at < 10, "{looked_at}");
}

#[test]
fn s12_waiters_with_the_same_wish_are_served_by_one_look() {
    let mut side = open();
    hold(&mut side, (0..40).map(|n| next_undo(&format!("u{n}"), &["branch"])));
    to_compensate(&mut side, 1, &["stuck"]);
    let before = side.coordinator().looked_at;
    to_compensate(&mut side, 1, &["branch", "stuck"]);
    let looked_at = side.coordinator().looked_at - before;
    assert!(looked_at <= 4, "{looked_at}: each of them looked");
    // And the first of them gets what is for it.
    let commands = vec![create([undoable("b", &["branch"])]), claim("b", "w"), cancel("b")];
    assert_eq!(wakes(&mut side, commands).1, [got("u0", "b")]);
}

/// Calls that are held in these tests.
const HELD: usize = 2000;

/// Holds these claims; nothing is there for them.
fn hold(side: &mut Side<MemoryDisk>, wishes: impl IntoIterator<Item = ClaimNext>) {
    let wishes = wishes.into_iter().map(|claim| ClaimNext { wait: secs(60), ..claim }.command()).collect();
    let turn = Turn::of(side, wishes, START);
    assert!(turn.executed.iter().all(|(outcome, _)| outcome.is_none()));
}

/// What was looked at while these commands were carried out, and who of those that were held got what.
fn wakes(side: &mut Side<MemoryDisk>, commands: Vec<Command>) -> (u64, Vec<(String, Vec<String>)>) {
    let before = side.coordinator().looked_at;
    let answered = Turn::of(side, commands, START).executed.into_iter().flat_map(|(_, served)| served);
    let answered = answered.map(|(claim, outcome)| (claim.owner.to_string(), ids(outcome.unwrap())));
    (side.coordinator().looked_at - before, answered.collect())
}

fn got(owner: &str, id: &str) -> (String, Vec<String>) {
    (owner.to_owned(), vec![id.to_owned()])
}

#[test]
fn s12_what_becomes_claimable_costs_what_it_serves_however_many_kinds_are_waited_for() {
    let mut side = open();
    // Each for kinds of its own, which nobody needs, and one of those that are wanted below.
    let own = |n: usize| {
        let (own, shared) = (format!("k{n}"), if n.is_multiple_of(2) { "branch" } else { "worktree" });
        next_undo(&format!("u{n}"), &[&own, shared])
    };
    hold(&mut side, (0..HELD).map(own));
    hold(&mut side, (0..2).map(|n| next_undo(&format!("both{n}"), &["worktree", "branch", "more"])));
    hold(&mut side, [next_undo("any", &[])]);
    let undone = |id: &str, kinds: &[&str]| vec![create([undoable(id, kinds)]), claim(id, "w"), cancel(id)];

    let (looked_at, answered) = wakes(&mut side, undone("a", &["branch", "worktree"]));
    assert_eq!(answered, [got("both0", "a")]);
    assert!(looked_at < 10, "{looked_at}");
    let (looked_at, answered) = wakes(&mut side, undone("b", &["k7"]));
    assert_eq!(answered, [got("u7", "b")]);
    assert!(looked_at < 10, "{looked_at}");
    let (looked_at, answered) = wakes(&mut side, undone("c", &["branch"]));
    assert_eq!(answered, [got("u0", "c")]);
    assert!(looked_at < 10, "{looked_at}");
    // What only one that takes any kind can have.
    let (looked_at, answered) = wakes(&mut side, undone("d", &["k1", "k2"]));
    assert_eq!(answered, [got("any", "d")]);
    assert!(looked_at < 10, "{looked_at}");
    let (looked_at, answered) = wakes(&mut side, undone("e", &["k1", "k2"]));
    assert_eq!(answered, []);
    assert!(looked_at < 10, "{looked_at}");
}

#[test]
fn s12_a_reservation_and_a_resumed_queue_cost_what_they_serve() {
    let mut side = open();
    hold(&mut side, (0..HELD).map(|n| next(&["q"], &format!("w{n}"))));
    hold(&mut side, (0..HELD).map(|n| next_undo(&format!("u{n}"), &[&format!("k{n}")])));
    let last = format!("w{}", HELD - 1);
    let pause = |paused| {
        let (queue, actor, reason) = (queue("q"), actor("op"), Text::default());
        Command::SetPaused(SetPaused { queue, paused, actor, reason, must_exist: false })
    };
    // Nothing is there yet.
    let (looked_at, answered) = wakes(&mut side, vec![pause(true), pause(false)]);
    assert_eq!(answered, []);
    assert!(looked_at < 10, "{looked_at}");
    // Reserved, to be executed, and to be compensated, all of it while the queue is paused.
    let commands = vec![
        pause(true),
        create([creation("r")]),
        dispatch("r", &last, secs(60)),
        create([creation("x")]),
        create([undoable("c", &["k9"])]),
        claim("c", "w"),
        cancel("c"),
    ];
    let (looked_at, answered) = wakes(&mut side, commands);
    assert_eq!(answered, []);
    assert!(looked_at < 10, "{looked_at}");
    let (looked_at, mut answered) = wakes(&mut side, vec![pause(false)]);
    answered.sort();
    assert_eq!(answered, [got("u9", "c"), got("w0", "x"), got(&last, "r")]);
    assert!(looked_at < 20, "{looked_at}");
    // A reservation by itself.
    let commands = vec![pause(true), create([creation("s")]), dispatch("s", "nobody", secs(60)), pause(false)];
    assert_eq!(wakes(&mut side, commands).1, []);
    let one = format!("w{}", HELD / 2);
    let (looked_at, answered) = wakes(&mut side, vec![dispatch("s", &one, secs(60))]);
    assert_eq!(answered, [got(&one, "s")]);
    assert!(looked_at < 10, "{looked_at}");
}

#[test]
fn s12_a_claim_looks_at_no_reservation_that_cannot_be_claimed() {
    let mut side = open();
    for n in 0..300 {
        let mut late = creation(&format!("t{n}"));
        late.delay = secs(600);
        let id = format!("t{n}");
        Turn::of(&mut side, vec![create([late]), dispatch(&id, "w", secs(900))], START);
    }
    let (looked_at, got) = looks(&mut side, next(&["q"], "w"), START);
    assert_eq!(got, Some(Vec::new()));
    assert_eq!(looked_at, 0);
    Turn::of(&mut side, vec![create([creation("now")]), dispatch("now", "w", secs(900))], START);
    let (looked_at, got) = looks(&mut side, next(&["q"], "w"), START);
    assert_eq!(got, Some(vec!["now".to_owned()]));
    assert!(looked_at < 5, "{looked_at}");
    // When their delay is over they are found, and no more of them are looked at than are wanted.
    let later = START.plus(secs(600));
    let (looked_at, got) = looks(&mut side, next(&["q"], "w"), later);
    assert_eq!(got, Some(vec!["t0".to_owned()]));
    assert!(looked_at < 5, "{looked_at}");
    // As they are after the store was opened again.
    side.reopen(false, later, RestartGrace { returned_at: later, length: Span::ZERO });
    let (looked_at, got) = looks(&mut side, ClaimNext { max_sagas: 3, ..next(&["q"], "w") }, later);
    assert_eq!(got, Some(["t1", "t2", "t3"].map(str::to_owned).to_vec()));
    assert!(looked_at < 10, "{looked_at}");
}

#[test]
fn p14_a_resumed_queue_serves_held_calls_a_slice_at_a_time() {
    let mut side = open();
    Turn::of(&mut side, vec![pause("q", true)], START);
    Turn::of(&mut side, (0..600).map(|n| create([creation(&format!("t{n}"))])).collect(), START);
    hold(&mut side, (0..600).map(|n| next(&["q"], &format!("w{n}"))));
    let turn = Turn::of(&mut side, vec![pause("q", false)], START);
    let mut served = turn.executed[0].1.len() + turn.answered_by_sweep.len();
    assert!(served < 300, "{served} in one transaction");
    let mut turns = 1;
    while served < 600 {
        assert!(side.coordinator().has_work(START) && turns < 10);
        served += Turn::of(&mut side, Vec::new(), START).answered_by_sweep.len();
        turns += 1;
    }
    let left = Turn::of(&mut side, Vec::new(), START);
    assert!(left.events.is_empty() && !side.coordinator().has_work(START));
}
