//! Tests of the checker: wrong histories, each with one error, and correct ones.

use super::checker::{
    call_order::disorder,
    check::{self, HistoryEvent},
    recorder::{self, CallOutcome, Purpose, RecordedCall, RecordedOp},
};

const TTL_US: i64 = 1_000_000;

fn call(owner: &str, op: RecordedOp, start_us: i64, end_us: i64, outcome: CallOutcome) -> RecordedCall {
    RecordedCall { task: "t".into(), owner: owner.into(), op, start_us, end_us, outcome }
}

fn ok(state: &str, token: i64) -> CallOutcome {
    CallOutcome::Ok { state: state.into(), token, revision: token }
}

fn created() -> RecordedCall {
    call("w", RecordedOp::Create, 0, 10, ok("PLANNED", 0))
}

fn claim(owner: &str, token: i64, start_us: i64) -> RecordedCall {
    call(
        owner,
        RecordedOp::Claim { ttl_us: TTL_US, purpose: Purpose::Execute },
        start_us,
        start_us + 10,
        ok("RUNNING", token),
    )
}

fn complete(owner: &str, token: i64, start_us: i64) -> RecordedCall {
    let op = RecordedOp::Complete { token, result: "r".into() };
    call(owner, op, start_us, start_us + 10, ok("COMPLETED", token))
}

/// Failed under lease 2, then claimed for compensation with this token.
fn failed_and_claimed(token: i64) -> Vec<RecordedCall> {
    let fail = call("a", RecordedOp::Fail { token: 2 }, 200, 210, ok("COMPENSATING", 2));
    let op = RecordedOp::Claim { ttl_us: TTL_US, purpose: Purpose::Compensate };
    vec![created(), claim("a", 2, 100), fail, call("b", op, 300, 310, ok("COMPENSATING", token))]
}

fn record(owner: &str, token: i64, start_us: i64) -> RecordedCall {
    let op = RecordedOp::Record { token, position: 1, done: true };
    call(owner, op, start_us, start_us + 10, ok("COMPENSATING", token))
}

fn compensate(owner: &str, token: i64, start_us: i64) -> RecordedCall {
    call(owner, RecordedOp::Compensate { token }, start_us, start_us + 10, ok("COMPENSATED", token))
}

fn event(revision: i64, kind: &str) -> HistoryEvent {
    HistoryEvent { revision, task: "t".into(), kind: kind.into(), token: revision, actor: "w".into() }
}

fn complains(calls: &[RecordedCall], of: &str) {
    let history: Vec<HistoryEvent> = Vec::new();
    let all: Vec<String> = check::all(calls, &history, &[]);
    let found = all.iter().any(|complaint| complaint.contains(of));
    assert!(found, "{of} was not found: {all:?}");
}

#[test]
fn a_correct_history_is_accepted() {
    let beat = RecordedOp::Heartbeat { token: 2 };
    let calls = [
        created(),
        claim("a", 2, 100),
        call("a", beat, 500_000, 500_010, ok("", 2)),
        claim("b", 5, 1_600_000),
        call(
            "a",
            RecordedOp::Complete { token: 2, result: "r".into() },
            1_700_000,
            1_700_010,
            CallOutcome::Refused { reason: "LEASE_SUPERSEDED".into() },
        ),
        complete("b", 5, 1_800_000),
        complete("b", 5, 1_900_000),
        call("c", RecordedOp::Get, 2_000_000, 2_000_010, ok("COMPLETED", 5)),
    ];
    assert_eq!(disorder(&calls), None);
    let none: Vec<String> = Vec::new();
    assert_eq!((check::exclusion(&calls), check::after_a_later_lease(&calls)), (none.clone(), none));
}

#[test]
fn an_unknown_outcome_may_explain_what_follows_or_not() {
    let lost =
        call("a", RecordedOp::Claim { ttl_us: TTL_US, purpose: Purpose::Execute }, 100, 200, CallOutcome::Unknown);
    let held = CallOutcome::Refused { reason: "LEASE_HELD".into() };
    let refused = call("b", RecordedOp::Claim { ttl_us: TTL_US, purpose: Purpose::Execute }, 300, 310, held);
    assert_eq!(disorder(&[created(), lost.clone(), refused.clone()]), None);
    assert_eq!(disorder(&[created(), lost, claim("b", 3, 300)]), None);
    assert!(disorder(&[created(), refused]).is_some(), "no other call can have held it");
}

#[test]
fn wrong_histories_are_detected() {
    complains(&[created(), claim("a", 2, 100), claim("b", 5, 500_000)], "P5: a lease was given while");
    complains(&[created(), claim("a", 2, 100), claim("b", 5, 500_000)], "P5: the calls of t have no order");
    let late = [created(), claim("a", 2, 100), claim("b", 5, 2_000_000), complete("a", 2, 3_000_000)];
    complains(&late, "P5: accepted from a lease that is over");
    complains(&late, "P5: the calls of t have no order");
    complains(&[created(), claim("a", 5, 100), claim("b", 2, 2_000_000)], "P9: a token below 5");
    complains(&[created()], "P1: acknowledged, but not in the history");
    let late_look = call("c", RecordedOp::Get, 3_000_000, 3_000_010, ok("RUNNING", 2));
    complains(&[created(), claim("a", 2, 100), complete("a", 2, 200), late_look], "no order");
}

#[test]
fn a_wrong_order_of_undoing_is_detected() {
    let begun = failed_and_claimed(5);
    let early = CallOutcome::Refused { reason: "COMPENSATION_PENDING".into() };
    let too_soon = call("b", RecordedOp::Compensate { token: 5 }, 350, 360, early);
    let right = [too_soon, record("b", 5, 400), compensate("b", 5, 500), compensate("b", 5, 600)];
    assert_eq!(disorder(&[begun.clone(), right.to_vec()].concat()), None);
    // Compensated with nothing done; done under another's lease; a second lease while the first is live; a refusal
    // although all is done.
    let late = CallOutcome::Refused { reason: "COMPENSATION_PENDING".into() };
    let second = RecordedOp::Claim { ttl_us: TTL_US, purpose: Purpose::Compensate };
    for wrong in [
        vec![compensate("b", 5, 400)],
        vec![record("a", 2, 400)],
        vec![call("c", second, 400, 410, ok("COMPENSATING", 9))],
        vec![record("b", 5, 400), call("b", RecordedOp::Compensate { token: 5 }, 500, 510, late)],
    ] {
        assert!(disorder(&[begun.clone(), wrong.clone()].concat()).is_some(), "{wrong:?}");
    }
}

#[test]
fn an_unanswered_claim_next_is_found_in_the_history() {
    let next = RecordedOp::Claim { ttl_us: TTL_US, purpose: Purpose::Execute };
    let unheard = RecordedCall { task: String::new(), ..call("w", next.clone(), 100, 200, CallOutcome::Unknown) };
    let held = CallOutcome::Refused { reason: "LEASE_HELD".into() };
    let refused = call("b", next, 300, 310, held);
    let calls = [created(), unheard, refused];
    let created = HistoryEvent { token: 0, ..event(1, "CREATED") };
    assert_eq!(check::all(&calls, &[created.clone(), event(2, "CLAIMED")], &[]), Vec::<String>::new());
    let complaints = check::all(&calls, &[created], &[]);
    assert!(
        complaints.iter().any(|complaint| complaint.contains("no order")),
        "no other call can have held it: {complaints:?}"
    );
}

#[test]
fn a_watcher_that_misses_or_repeats_events_is_detected() {
    let history = [event(1, "CREATED"), event(2, "CLAIMED"), event(3, "COMPLETED")];
    assert!(check::record_is_history(&history, &history).is_empty());
    for wrong in [&[0, 2][..], &[0, 0, 1, 2], &[0, 1], &[0, 2, 1]] {
        let record: Vec<HistoryEvent> = wrong.iter().map(|n| history[*n].clone()).collect();
        assert_eq!(check::record_is_history(&record, &history).len(), 1, "{wrong:?}");
    }
}

#[test]
fn recorded_calls_are_written_and_read_back() {
    let calls = [created(), claim("a", 2, 100), complete("a", 2, 200)];
    let mut lines = Vec::new();
    recorder::write(&calls, &mut lines).unwrap();
    assert_eq!(recorder::read(lines.as_slice()).unwrap(), calls);
    assert_eq!(String::from_utf8(lines).unwrap().lines().count(), 3);
}
