//! Bounds of one transaction's work and of the sagas that one claim examines. They are counted, not timed.

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
    builders::*,
    random::compared_store::{CallResult, ComparedStore, MemoryDisk, TurnReport},
    test_store::{START, sagas_of},
};

/// More sagas than one transaction sweeps.
const MANY: usize = 1200;
/// The most sagas that one transaction may sweep.
const SLICE: usize = 512;

fn open() -> ComparedStore<MemoryDisk> {
    ComparedStore::open(MemoryDisk::default(), RestartGrace::default())
}

fn request(command: impl ToCommand) -> Request {
    Request { command: command.command(), key: None, by: None }
}

/// The outcome of a transaction with some commands and the sweep after them.
struct TurnResult {
    executed: Vec<CallResult>,
    answered_by_sweep: Vec<(ClaimNext, Vec<String>)>,
    events: Vec<Event>,
    complete: bool,
}

impl TurnResult {
    fn of(store: &mut ComparedStore<MemoryDisk>, commands: Vec<Command>, now: Timestamp) -> Self {
        let requests: Vec<_> = commands.into_iter().map(request).collect();
        let TurnReport { executed, served, complete, events } = store.turn(SLICE, &requests, now);
        let answered_by_sweep = served.into_iter().map(|(claim, outcome)| (claim, ids(outcome.unwrap()))).collect();
        TurnResult { executed, answered_by_sweep, events, complete }
    }

    fn sagas(&self) -> usize {
        self.events.iter().map(|event| &event.task_id).collect::<HashSet<_>>().len()
    }
}

fn ids(answer: Answer) -> Vec<String> {
    sagas_of(Ok(answer)).iter().map(|saga| saga.spec.task_id.to_string()).collect()
}

/// Creates sagas whose leases expire at the same time; returns that time, before any sweep.
fn due_at_once(store: &mut ComparedStore<MemoryDisk>, policy: Policy, in_queue: &str) -> Timestamp {
    for n in 0..MANY {
        let mut saga = placed(&format!("{in_queue}-{n}"), in_queue, 0);
        saga.policy = policy.clone();
        let claim = claim(&format!("{in_queue}-{n}"), "dead");
        TurnResult::of(store, vec![create([saga]), claim], START);
    }
    START.plus(TTL)
}

#[test]
fn p14_a_transaction_sweeps_a_bounded_number_of_sagas() {
    for on_stale in [StaleAction::Hold, StaleAction::Requeue] {
        let mut store = open();
        let now = due_at_once(&mut store, Policy { on_stale, ..Policy::default() }, "q");
        let asked = || (0..20).map(|n| next(&["q", "p"], &format!("w{n}")).command()).collect::<Vec<_>>();
        let mut turns = 0;
        let mut claimed = HashSet::new();
        loop {
            let turn = TurnResult::of(&mut store, asked(), now);
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
fn p14_a_claim_is_held_while_something_due_may_be_for_it() {
    let mut store = open();
    // Each can be claimed once its expiry is applied.
    let policy = Policy { on_stale: StaleAction::Requeue, ..Policy::default() };
    let now = due_at_once(&mut store, policy, "q");
    let (calls, elsewhere) = (3, next(&["r"], "elsewhere").command());
    // More callers than the slice of this turn can serve, and one for a queue where nothing is due.
    let callers = (0..calls + 3).map(|n| next(&["q"], &format!("w{n}")).command());
    let requests: Vec<_> = callers.chain([elsewhere]).map(request).collect();
    let TurnReport { mut executed, served: mut answered, .. } = store.turn(8, &requests, now);
    let (outcome, after) = executed.pop().unwrap();
    assert_eq!(ids(outcome.unwrap().unwrap()), [""; 0], "nothing due can be for it, so it is answered at once");
    answered.extend(after);
    let mut held = 0;
    for (outcome, after) in executed {
        answered.extend(after);
        match outcome {
            Some(outcome) => assert_eq!(ids(outcome.unwrap()).len(), 1, "it was answered without a saga"),
            None => held += 1,
        }
    }
    assert!(held > 0, "the slice was larger than intended");
    while answered.len() < held {
        answered.extend(store.turn(8, &[], now).served);
    }
    for (_, outcome) in answered {
        assert_eq!(ids(outcome.unwrap()).len(), 1);
    }
}

#[test]
fn p14_a_claim_that_gets_nothing_is_answered_after_the_sweep() {
    let mut store = open();
    // A delayed saga that becomes ready for another assignee: before the sweep it could have been for this caller, too.
    for n in 0..40 {
        let mut late = creation(&format!("t{n}"));
        late.delay = secs(1);
        TurnResult::of(&mut store, vec![create([late]), dispatch(&format!("t{n}"), "other", secs(600))], START);
    }
    let now = START.plus(secs(1));
    let turn = store.turn(8, &[request(next(&["q"], "w"))], now);
    assert_eq!(turn.executed, [(None, Vec::new())], "it is held until the sweep is done");
    assert!(turn.served.is_empty());
    let mut turns = 0;
    let answered = loop {
        turns += 1;
        let turn = TurnResult::of(&mut store, Vec::new(), now.plus(us(turns)));
        if let Some((_, tasks)) = turn.answered_by_sweep.into_iter().next() {
            break tasks;
        }
        assert!(turns < 20, "it is not answered");
    };
    assert_eq!(answered, [""; 0]);
    // The assignee gets one after the same sweep.
    let (_, got) = examined(&mut store, next(&["q"], "other"), now);
    assert_eq!(got, Some(vec!["t0".to_owned()]));
}

/// The number of sagas that a claim examined, and its answer.
fn examined(store: &mut ComparedStore<MemoryDisk>, claim: ClaimNext, now: Timestamp) -> (u64, Option<Vec<String>>) {
    let before = store.coordinator().looked_at;
    let (outcome, _) = TurnResult::of(store, vec![claim.command()], now).executed.remove(0);
    (store.coordinator().looked_at - before, outcome.map(|outcome| ids(outcome.unwrap())))
}

/// Sagas to be compensated, each with these kinds pending.
fn to_compensate(store: &mut ComparedStore<MemoryDisk>, count: usize, kinds: &[&str]) {
    for n in 0..count {
        let id = format!("{}-{n}", kinds.join("-"));
        TurnResult::of(store, vec![create([undoable(&id, kinds)]), claim(&id, "w"), cancel(&id)], START);
    }
}

#[test]
fn s12_a_claim_by_kinds_examines_only_claimable_sagas() {
    let mut store = open();
    to_compensate(&mut store, 300, &["stuck"]);
    to_compensate(&mut store, 300, &["branch", "stuck"]);
    let claim = |kinds: &[&str]| ClaimNext { max_sagas: 10, ..next_undo("w", kinds) };
    let (looked_at, got) = examined(&mut store, claim(&["branch", "worktree"]), START);
    assert_eq!(got, Some(Vec::new()));
    assert!(looked_at < 10, "{looked_at}");
    to_compensate(&mut store, 2, &["branch"]);
    to_compensate(&mut store, 1, &["worktree", "branch"]);
    let (looked_at, got) = examined(&mut store, claim(&["branch", "worktree"]), START);
    assert_eq!(got, Some(["branch-0", "branch-1", "worktree-branch-0"].map(str::to_owned).to_vec()));
    assert!(looked_at < 30, "{looked_at}");
    // A claim for any kind follows the store's own order.
    let (looked_at, got) = examined(&mut store, ClaimNext { max_sagas: 2, ..next_undo("w", &[]) }, START);
    assert_eq!(got, Some(["stuck-0", "stuck-1"].map(str::to_owned).to_vec()));
    assert!(looked_at < 10, "{looked_at}");
}

#[test]
fn s12_equal_held_claims_are_checked_once() {
    let mut store = open();
    hold(&mut store, (0..40).map(|n| next_undo(&format!("u{n}"), &["branch"])));
    to_compensate(&mut store, 1, &["stuck"]);
    let before = store.coordinator().looked_at;
    to_compensate(&mut store, 1, &["branch", "stuck"]);
    let looked_at = store.coordinator().looked_at - before;
    assert!(looked_at <= 4, "{looked_at}: each held claim was checked");
    // The first held claim gets a saga that it can take.
    let commands = vec![create([undoable("b", &["branch"])]), claim("b", "w"), cancel("b")];
    assert_eq!(answered_by(&mut store, commands).1, [got("u0", "b")]);
}

/// The number of held claims in these tests.
const HELD: usize = 2000;

/// Submits claims for which there is no saga.
fn hold(store: &mut ComparedStore<MemoryDisk>, claims: impl IntoIterator<Item = ClaimNext>) {
    let claims = claims.into_iter().map(|claim| ClaimNext { wait: secs(60), ..claim }.command()).collect();
    let turn = TurnResult::of(store, claims, START);
    assert!(turn.executed.iter().all(|(outcome, _)| outcome.is_none()));
}

/// The number of checked candidates while these commands are executed, and the answers of held claims.
fn answered_by(store: &mut ComparedStore<MemoryDisk>, commands: Vec<Command>) -> (u64, Vec<(String, Vec<String>)>) {
    let before = store.coordinator().looked_at;
    let answered = TurnResult::of(store, commands, START).executed.into_iter().flat_map(|(_, served)| served);
    let answered = answered.map(|(claim, outcome)| (claim.owner.to_string(), ids(outcome.unwrap())));
    (store.coordinator().looked_at - before, answered.collect())
}

fn got(owner: &str, id: &str) -> (String, Vec<String>) {
    (owner.to_owned(), vec![id.to_owned()])
}

#[test]
fn s12_a_claimable_saga_is_offered_only_to_held_claims_that_can_take_it() {
    let mut store = open();
    // Each for a kind of its own, and some for the kinds used below.
    let own = |n: usize| {
        let (own, shared) = (format!("k{n}"), if n.is_multiple_of(2) { "branch" } else { "worktree" });
        next_undo(&format!("u{n}"), &[&own, shared])
    };
    hold(&mut store, (0..HELD).map(own));
    hold(&mut store, (0..2).map(|n| next_undo(&format!("both{n}"), &["worktree", "branch", "more"])));
    hold(&mut store, [next_undo("any", &[])]);
    let undone = |id: &str, kinds: &[&str]| vec![create([undoable(id, kinds)]), claim(id, "w"), cancel(id)];

    let (looked_at, answered) = answered_by(&mut store, undone("a", &["branch", "worktree"]));
    assert_eq!(answered, [got("both0", "a")]);
    assert!(looked_at < 10, "{looked_at}");
    let (looked_at, answered) = answered_by(&mut store, undone("b", &["k7"]));
    assert_eq!(answered, [got("u7", "b")]);
    assert!(looked_at < 10, "{looked_at}");
    let (looked_at, answered) = answered_by(&mut store, undone("c", &["branch"]));
    assert_eq!(answered, [got("u0", "c")]);
    assert!(looked_at < 10, "{looked_at}");
    // A saga that only the claim for any kind can take.
    let (looked_at, answered) = answered_by(&mut store, undone("d", &["k1", "k2"]));
    assert_eq!(answered, [got("any", "d")]);
    assert!(looked_at < 10, "{looked_at}");
    let (looked_at, answered) = answered_by(&mut store, undone("e", &["k1", "k2"]));
    assert_eq!(answered, []);
    assert!(looked_at < 10, "{looked_at}");
}

#[test]
fn s12_a_reservation_or_a_resumed_queue_examines_only_matching_held_claims() {
    let mut store = open();
    hold(&mut store, (0..HELD).map(|n| next(&["q"], &format!("w{n}"))));
    hold(&mut store, (0..HELD).map(|n| next_undo(&format!("u{n}"), &[&format!("k{n}")])));
    let last = format!("w{}", HELD - 1);
    let pause = |paused| {
        let (queue, actor, reason) = (queue("q"), actor("op"), Text::default());
        Command::SetPaused(SetPaused { queue, paused, actor, reason, must_exist: false })
    };
    // There is no saga yet.
    let (looked_at, answered) = answered_by(&mut store, vec![pause(true), pause(false)]);
    assert_eq!(answered, []);
    assert!(looked_at < 10, "{looked_at}");
    // A reserved saga, one for execution and one for compensation, while the queue is paused.
    let commands = vec![
        pause(true),
        create([creation("r")]),
        dispatch("r", &last, secs(60)),
        create([creation("x")]),
        create([undoable("c", &["k9"])]),
        claim("c", "w"),
        cancel("c"),
    ];
    let (looked_at, answered) = answered_by(&mut store, commands);
    assert_eq!(answered, []);
    assert!(looked_at < 10, "{looked_at}");
    let (looked_at, mut answered) = answered_by(&mut store, vec![pause(false)]);
    answered.sort();
    assert_eq!(answered, [got("u9", "c"), got("w0", "x"), got(&last, "r")]);
    assert!(looked_at < 20, "{looked_at}");
    // A reservation alone.
    let commands = vec![pause(true), create([creation("s")]), dispatch("s", "nobody", secs(60)), pause(false)];
    assert_eq!(answered_by(&mut store, commands).1, []);
    let one = format!("w{}", HELD / 2);
    let (looked_at, answered) = answered_by(&mut store, vec![dispatch("s", &one, secs(60))]);
    assert_eq!(answered, [got(&one, "s")]);
    assert!(looked_at < 10, "{looked_at}");
}

#[test]
fn s12_a_claim_examines_no_reservation_that_is_delayed() {
    let mut store = open();
    for n in 0..300 {
        let mut late = creation(&format!("t{n}"));
        late.delay = secs(600);
        let id = format!("t{n}");
        TurnResult::of(&mut store, vec![create([late]), dispatch(&id, "w", secs(900))], START);
    }
    let (looked_at, got) = examined(&mut store, next(&["q"], "w"), START);
    assert_eq!(got, Some(Vec::new()));
    assert_eq!(looked_at, 0);
    TurnResult::of(&mut store, vec![create([creation("now")]), dispatch("now", "w", secs(900))], START);
    let (looked_at, got) = examined(&mut store, next(&["q"], "w"), START);
    assert_eq!(got, Some(vec!["now".to_owned()]));
    assert!(looked_at < 5, "{looked_at}");
    // When their delay is over they are found, and no more are examined than are needed.
    let later = START.plus(secs(600));
    let (looked_at, got) = examined(&mut store, next(&["q"], "w"), later);
    assert_eq!(got, Some(vec!["t0".to_owned()]));
    assert!(looked_at < 5, "{looked_at}");
    // The same after the store was opened again.
    store.reopen(false, later, RestartGrace { returned_at: later, length: Span::ZERO });
    let (looked_at, got) = examined(&mut store, ClaimNext { max_sagas: 3, ..next(&["q"], "w") }, later);
    assert_eq!(got, Some(["t1", "t2", "t3"].map(str::to_owned).to_vec()));
    assert!(looked_at < 10, "{looked_at}");
}

#[test]
fn p14_a_resumed_queue_serves_a_bounded_number_of_held_claims_per_transaction() {
    let mut store = open();
    TurnResult::of(&mut store, vec![pause("q", true)], START);
    TurnResult::of(&mut store, (0..600).map(|n| create([creation(&format!("t{n}"))])).collect(), START);
    hold(&mut store, (0..600).map(|n| next(&["q"], &format!("w{n}"))));
    let turn = TurnResult::of(&mut store, vec![pause("q", false)], START);
    let mut served = turn.executed[0].1.len() + turn.answered_by_sweep.len();
    assert!(served < 300, "{served} in one transaction");
    let mut turns = 1;
    while served < 600 {
        assert!(store.coordinator().has_work(START) && turns < 10);
        served += TurnResult::of(&mut store, Vec::new(), START).answered_by_sweep.len();
        turns += 1;
    }
    let left = TurnResult::of(&mut store, Vec::new(), START);
    assert!(left.events.is_empty() && !store.coordinator().has_work(START));
}
