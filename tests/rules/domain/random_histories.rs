//! Random histories of one saga, with invariants after every step.

use proptest::prelude::*;
use sagad::domain::{
    command::{Holder, HolderOperation, Operation, RecoveryDecision, UnleasedOperation},
    compensation::CompensationState,
    draft::Draft,
    event::EventType,
    ids::FencingToken,
    lease::{LeasePurpose, RestartGrace, Standing},
    policy::{FailureAction, Policy, StaleAction},
    saga::{Saga, State},
    time::{Span, Timestamp},
    transition::{TransitionEffect, apply_due, next_due, transition},
};

use super::{
    operations::*,
    test_saga::{TestSaga, UNKNOWN_TOKEN, secs, us},
};

/// How time passes before a command.
#[derive(Clone, Copy, Debug)]
enum TimeStep {
    Nothing,
    Seconds(u32),
    /// To the next deadline, and so many microseconds further.
    Due(i64),
    /// The coordinator is away for so many seconds, and then gives so many seconds of grace.
    Away(u32, u32),
}

/// Which of the earlier holders calls.
#[derive(Clone, Copy, Debug)]
enum CallerChoice {
    Last,
    Earlier(usize),
    OtherOwner,
    Unknown,
}

/// A command whose details depend on the saga: one that fits its state, or any.
#[derive(Clone, Copy, Debug)]
struct RandomCall {
    fitting: bool,
    which: u8,
    param: u8,
    caller: CallerChoice,
}

fn passes() -> impl Strategy<Value = TimeStep> {
    prop_oneof![
        5 => Just(TimeStep::Nothing),
        3 => (0u32..40).prop_map(TimeStep::Seconds),
        1 => prop_oneof![Just(100u32), Just(1000)].prop_map(TimeStep::Seconds),
        3 => (-1i64..=1).prop_map(TimeStep::Due),
        1 => (1u32..100, 0u32..20).prop_map(|(away, grace)| TimeStep::Away(away, grace)),
    ]
}

fn callers() -> impl Strategy<Value = CallerChoice> {
    prop_oneof![
        12 => Just(CallerChoice::Last),
        3 => (0usize..8).prop_map(CallerChoice::Earlier),
        1 => Just(CallerChoice::OtherOwner),
        1 => Just(CallerChoice::Unknown),
    ]
}

fn policies() -> impl Strategy<Value = Policy> {
    let actions = prop_oneof![
        Just(StaleAction::Hold),
        Just(StaleAction::Requeue),
        Just(StaleAction::Compensate),
        Just(StaleAction::Quarantine)
    ];
    let timeout = || prop::option::of((1u32..60).prop_map(secs));
    (actions, 1u32..4, any::<bool>(), 1u32..4, timeout(), timeout(), 0u32..20, 1u32..400).prop_map(
        |(on_stale, max_expirations, compensate, max_attempts, execution, progress, settle, timeout)| Policy {
            on_stale,
            max_expirations,
            on_failure: if compensate { FailureAction::Compensate } else { FailureAction::Fail },
            max_attempts,
            execution_timeout: execution,
            progress_timeout: progress,
            settle: secs(settle),
            compensation_timeout: secs(timeout),
            ..Policy::default()
        },
    )
}

/// Commands that fit a state. Without them most histories would end after a few commands.
const fn fitting(state: State) -> &'static [u8] {
    match state {
        State::Planned => &[14, 15, 15, 16, 13, 4, 7, 3, 20, 21],
        State::Dispatched => &[14, 14, 15, 13, 16, 20, 21],
        State::Running => &[0, 1, 2, 2, 3, 4, 6, 7, 7, 14, 15, 16, 19, 19, 20, 5],
        State::Compensating => &[16, 16, 16, 10, 10, 10, 9, 8, 17, 0, 3, 11, 11, 19, 4, 6],
        State::Completed | State::Failed | State::Compensated | State::Quarantined => &[0, 5, 6, 10, 11, 12, 14, 21],
    }
}

/// The command of a call; `param` varies its details.
fn operation(w: &TestSaga, holders: &[Holder], call: RandomCall) -> Operation {
    let RandomCall { param, caller, .. } = call;
    let suited = fitting(w.state());
    let which = if call.fitting { suited[usize::from(call.which) % suited.len()] } else { call.which % CALLS };
    let last = w.holder();
    let h = &match caller {
        CallerChoice::Last => last,
        CallerChoice::Earlier(n) => holders.get(n).cloned().unwrap_or(last),
        CallerChoice::OtherOwner => Holder { owner: super::test_saga::owner("nobody"), ..last },
        CallerChoice::Unknown => Holder { token: UNKNOWN_TOKEN, ..last },
    };
    let (flag, n) = (param.is_multiple_of(2), u32::from(param % 4));
    let who = ["w", "x", "y", "z"][usize::from(param % 4)];
    let decision = match param % 3 {
        0 => RecoveryDecision::Requeue,
        1 => RecoveryDecision::Compensate,
        _ => RecoveryDecision::Quarantine,
    };
    match which {
        0 => heartbeat(h),
        1 => heartbeat_for(h, secs(n * 20 + 1)),
        2 => progress(h, who),
        3 => release_for(h, secs(n * 5)),
        4 => register(h, [&["bucket"][..], &["branch", "volume"], &["worktree"], &["disk"]][usize::from(param % 4)]),
        5 => complete(h, if flag { "a" } else { "b" }),
        6 => fail_with(h, if flag { &["bucket"] } else { &[] }),
        7 => retry(h),
        8 => done(h, n),
        9 => failed(h, n),
        // The next in order, so that histories reach the end of compensation.
        10 => done(h, w.saga.compensations.iter().rev().find(|c| !c.is_settled()).map_or(1, |c| c.position)),
        11 => compensate(h),
        12 => quarantine_held(h),
        13 => dispatch(who, secs(n * 10 + 1)),
        14 => claim(who),
        15 => claim_for(who, secs(n * 20 + 1), LeasePurpose::Execute),
        16 => claim_undo(who),
        17 => waive(n),
        18 => quarantine_by_operator(flag),
        19 => recover_lease(decision, flag.then_some(h.token), param > 200),
        20 => cancel(flag),
        _ => annotate_with("note", &[], (param % 4 == 0).then_some(who)),
    }
}

const CALLS: u8 = 22;

fn calls() -> impl Strategy<Value = RandomCall> {
    (prop::bool::weighted(0.7), any::<u8>(), any::<u8>(), callers())
        .prop_map(|(fitting, which, param, caller)| RandomCall { fitting, which, param, caller })
}

fn pass(w: &mut TestSaga, pass: TimeStep) {
    match pass {
        TimeStep::Nothing => {}
        TimeStep::Seconds(n) => w.now = w.now.plus(secs(n)),
        TimeStep::Due(further) => {
            if let Some(due) = next_due(&w.saga, w.now, &w.grace) {
                let at = Timestamp::from_micros(due.effective(&w.grace).micros() + further);
                w.now = w.now.max(at);
            }
        }
        TimeStep::Away(away, grace) => {
            w.now = w.now.plus(secs(away));
            w.grace = RestartGrace { returned_at: w.now, length: secs(grace) };
        }
    }
}

/// Invariants of a saga at any time.
fn check_saga(saga: &Saga) {
    let terminal = saga.state.is_terminal();
    assert_eq!((saga.end_time.is_some(), saga.terminal_reason.is_some()), (terminal, terminal));
    match saga.lease.as_ref().map(|lease| (lease.standing, lease.purpose)) {
        Some((Standing::Held | Standing::Expired { .. }, purpose)) => match saga.state {
            State::Running => assert_eq!(purpose, LeasePurpose::Execute),
            State::Compensating => assert_eq!(purpose, LeasePurpose::Compensate),
            State::Planned
            | State::Dispatched
            | State::Completed
            | State::Failed
            | State::Compensated
            | State::Quarantined => panic!("a lease stands in {:?}", saga.state),
        },
        Some((Standing::EndedByHolder(_) | Standing::EndedByOther, _)) | None => {
            assert_ne!(saga.state, State::Running, "running without a lease");
        }
    }
    assert_eq!(saga.reservation.is_some(), saga.state == State::Dispatched);
    assert_eq!(saga.idle_since.is_some(), saga.state == State::Compensating);
    if saga.cancel.is_some() {
        assert!(!matches!(saga.state, State::Planned | State::Dispatched | State::Failed), "{:?}", saga.state);
    }
    match saga.state {
        State::Compensated => assert!(saga.compensations.iter().all(|c| c.is_settled()), "M12"),
        State::Failed => assert!(!saga.compensations.is_empty(), "M8"),
        State::Planned
        | State::Dispatched
        | State::Running
        | State::Compensating
        | State::Completed
        | State::Quarantined => {}
    }
    for (position, c) in (1u32..).zip(&saga.compensations) {
        assert_eq!(c.position, position);
        assert_eq!((c.settled_by.is_some(), c.settle_time.is_some()), (c.is_settled(), c.is_settled()));
        assert_eq!(c.state == CompensationState::Failed, c.attempts > 0 && !c.is_settled());
    }
    if let Some(lease) = &saga.lease {
        assert!(lease.expire_time > lease.acquire_time, "M2");
    }
}

/// Invariants between two versions of a saga.
fn check_step(before: &Saga, after: &Saga, operation: &Operation, w: &TestSaga) {
    let (token, later) = (before.lease.as_ref().map(|l| l.token), after.lease.as_ref().map(|l| l.token));
    if token != later {
        assert!(later > token, "tokens only grow");
        let standing = before.live_lease(w.now, &w.grace);
        assert_eq!(standing, None, "P5: a second lease while the first was live");
        assert!(
            matches!(operation, Operation::Unleased(UnleasedOperation::Claim { .. })),
            "M9: only a claim takes a lease"
        );
    }
    if before.state.is_terminal() {
        assert!(matches!(operation, Operation::Unleased(UnleasedOperation::Annotate { .. })), "M6: {operation:?}");
        let mut after = after.clone();
        after.revision = before.revision;
        after.update_time = before.update_time;
        after.terminal_reason = before.terminal_reason.clone();
        assert_eq!(after, *before, "M7: an annotation changed more than the reason");
    }
    if let Operation::ByHolder(_, HolderOperation::Heartbeat { .. }) = operation {
        assert_eq!((after.revision, after.update_time), (before.revision, before.update_time));
    } else {
        assert!(
            after.revision > before.revision && after.update_time == w.now,
            "{operation:?} changed the saga without a new revision"
        );
    }
    if before.state == State::Compensating {
        let one_way = [State::Compensating, State::Compensated, State::Quarantined].contains(&after.state);
        assert!(one_way, "compensating led to {:?}", after.state);
    }
    for (old, new) in before.compensations.iter().zip(&after.compensations) {
        assert_eq!(old.spec, new.spec);
        if old.is_settled() {
            assert_eq!(old, new, "done and waived are final");
        }
    }
    assert!(after.compensations.len() >= before.compensations.len());
}

/// Invariants of the next deadline: it is in the future, and something changes then.
fn check_due(w: &TestSaga) {
    let mut again = w.draft();
    apply_due(&mut again);
    assert_eq!((&again.saga, again.events.len()), (&w.saga, 0), "all that was due was applied already");
    let Some(due) = next_due(&w.saga, w.now, &w.grace) else { return };
    let at = due.effective(&w.grace);
    assert!(at > w.now, "{due:?} is not after {}", w.now);
    // As `ClaimNext` hands out: a planned saga for execution, a reserved one to its assignee, one that is being undone
    // for compensation.
    let claimable = |w: &TestSaga| {
        let assignee = w.saga.reservation.as_ref().map_or("q".to_owned(), |r| r.assignee.to_string());
        let wanted = if w.state() == State::Compensating { claim_undo(&assignee) } else { claim(&assignee) };
        w.clone().attempt(&wanted).is_ok()
    };
    let changed_by = |now| {
        let mut then = w.at(now);
        !then.due().is_empty() || claimable(&then) != claimable(w)
    };
    assert!(changed_by(at), "nothing changed at {due:?}");
    assert!(!changed_by(at.minus(us(1))), "something changed before {due:?}");
}

/// A saga without revisions and the times at which changes were applied.
fn essence(saga: &Saga) -> Saga {
    let mut saga = saga.clone();
    saga.revision = Default::default();
    saga.update_time = Timestamp::ZERO;
    saga.end_time = saga.end_time.map(|_| Timestamp::ZERO);
    if let Some(lease) = &mut saga.lease
        && let Standing::Expired { at, .. } = lease.standing
    {
        lease.standing = Standing::Expired { at, revision: Default::default() };
    }
    saga
}

/// Neither the saga nor the outcome of a later command depends on whether a sweep ran before.
fn check_sweeps(w: &TestSaga, first: Span, second: Span, operation: &Operation) {
    let judged = |sweeps: &[Span]| {
        let mut w = w.clone();
        let mut kinds: Vec<EventType> = Vec::new();
        for span in sweeps {
            w.now = w.now.plus(*span);
            kinds.extend(w.due().iter().map(|event| event.kind));
        }
        (kinds, essence(&w.saga), w.clone().attempt(operation).map_err(|r| super::test_saga::reason(&r)))
    };
    let (once, twice) = (us(first.micros() + second.micros()), [first, second]);
    assert_eq!(judged(&[once]), judged(&twice));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4 * ProptestConfig::default().cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn p5_invariants_hold_in_random_histories(
        policy in policies(),
        bare in any::<bool>(),
        delay in prop_oneof![Just(0u32), 1u32..20],
        steps in prop::collection::vec((passes(), calls()), 1..80),
        (first, second) in (0u32..90, 0u32..90),
    ) {
        let kinds: &[&str] = if bare { &[] } else { &["worktree", "branch"] };
        let mut w = TestSaga::with(policy.clone(), kinds, secs(delay));
        let mut idle = 0;
        let mut holders: Vec<Holder> = Vec::new();
        let mut tokens: Vec<FencingToken> = Vec::new();
        for (time, call) in steps {
            // After some commands on a terminal saga another one begins.
            idle = if w.state().is_terminal() { idle + 1 } else { 0 };
            if idle > 3 {
                w = TestSaga::with(policy.clone(), kinds, secs(delay));
                holders.clear();
                tokens.clear();
            }
            pass(&mut w, time);
            let command = operation(&w, &holders, call);
            check_sweeps(&w, secs(first), secs(second), &command);

            let was_terminal = w.state().is_terminal();
            let events = w.due();
            prop_assert!(events.is_empty() || !was_terminal);
            check_saga(&w.saga);
            check_due(&w);

            let before = w.saga.clone();
            let mut draft: Draft = w.draft();
            let untouched = draft.clone();
            match transition(&mut draft, &command, w.earlier(&command).as_ref()) {
                Ok(TransitionEffect::Changed) => check_step(&before, &draft.saga, &command, &w),
                Ok(TransitionEffect::Unchanged) | Err(_) => prop_assert_eq!(&draft, &untouched),
            }
            w.commit(draft);
            check_saga(&w.saga);
            w.due();
            check_due(&w);
            if w.saga.lease.is_some() && holders.last() != Some(&w.holder()) {
                holders.push(w.holder());
                tokens.push(w.holder().token);
            }
        }
        prop_assert!(tokens.is_sorted_by(|a, b| a < b));
        prop_assert!(w.events.windows(2).all(|pair| pair[0].revision < pair[1].revision));
    }
}
