//! The checks. Each complaint names the broken promise and the calls or events that break it.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{
    call_order::{SLACK_US, disorder},
    recorder::{CallOutcome, RecordedCall, RecordedOp},
};

/// One event of the coordinator's history, or of a watcher's record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HistoryEvent {
    pub revision: i64,
    pub task: String,
    /// The event's type as in the contract, without the prefix: `CLAIMED`.
    pub kind: String,
    pub token: i64,
    pub actor: String,
}

/// All checks: of the calls, the coordinator's whole history, and the record of each watcher, which began at the first revision
/// and was disconnected and resumed any number of times.
pub fn all(calls: &[RecordedCall], history: &[HistoryEvent], watched: &[Vec<HistoryEvent>]) -> Vec<String> {
    let calls = &attributed(calls, history);
    let mut complaints = acknowledged(calls, history);
    complaints.extend(tokens(calls, history));
    complaints.extend(exclusion(calls));
    complaints.extend(after_a_later_lease(calls));
    complaints.extend(order(calls));
    complaints.extend(watched.iter().flat_map(|record| record_is_history(record, history)));
    complaints
}

/// A `ClaimNext` without an answer may have claimed any saga. Each claim in the history without an answered call is attributed to
/// one of its owner's unanswered calls.
fn attributed(calls: &[RecordedCall], history: &[HistoryEvent]) -> Vec<RecordedCall> {
    let told: HashSet<i64> = calls.iter().filter_map(granted).map(|(token, _)| token).collect();
    let (unheard, mut all): (Vec<RecordedCall>, Vec<RecordedCall>) =
        calls.iter().cloned().partition(|call| call.task.is_empty());
    for claimed in history.iter().filter(|seen| seen.kind == "CLAIMED" && !told.contains(&seen.token)) {
        let possible =
            unheard.iter().filter(|call| call.outcome == CallOutcome::Unknown && call.owner == claimed.actor);
        all.extend(possible.map(|call| RecordedCall { task: claimed.task.clone(), ..call.clone() }));
    }
    all
}

fn by_task(calls: &[RecordedCall]) -> BTreeMap<&str, Vec<&RecordedCall>> {
    let mut tasks: BTreeMap<&str, Vec<&RecordedCall>> = BTreeMap::new();
    for call in calls {
        tasks.entry(&call.task).or_default().push(call);
    }
    tasks
}

fn granted(call: &RecordedCall) -> Option<(i64, i64)> {
    match (&call.op, &call.outcome) {
        (RecordedOp::Claim { ttl_us, .. }, CallOutcome::Ok { token, .. }) => Some((*token, *ttl_us)),
        _ => None,
    }
}

fn is_ok(call: &RecordedCall) -> bool {
    matches!(call.outcome, CallOutcome::Ok { .. })
}

/// P1: the history has all acknowledged changes.
pub fn acknowledged(calls: &[RecordedCall], history: &[HistoryEvent]) -> Vec<String> {
    let there: HashSet<(&str, &str, i64)> =
        history.iter().map(|seen| (seen.task.as_str(), seen.kind.as_str(), seen.token)).collect();
    let mut complaints = Vec::new();
    for call in calls.iter().filter(|call| is_ok(call)) {
        let expected = match &call.op {
            RecordedOp::Create => ("CREATED", 0),
            RecordedOp::Claim { .. } => ("CLAIMED", granted(call).map_or(0, |(token, _)| token)),
            RecordedOp::Release { token } => ("RELEASED", *token),
            RecordedOp::Complete { token, .. } => ("COMPLETED", *token),
            RecordedOp::Register { token } => ("COMPENSATION_REGISTERED", *token),
            RecordedOp::Fail { token } => ("COMPENSATING", *token),
            RecordedOp::Record { token, .. } => ("COMPENSATION_SETTLED", *token),
            RecordedOp::Compensate { token } => ("COMPENSATED", *token),
            RecordedOp::Heartbeat { .. } | RecordedOp::Get => continue,
        };
        if !there.contains(&(call.task.as_str(), expected.0, expected.1)) {
            complaints.push(format!("P1: acknowledged, but not in the history: {call:?}"));
        }
    }
    complaints
}

/// P9: revisions and tokens only grow, and no token is assigned twice.
pub fn tokens(calls: &[RecordedCall], history: &[HistoryEvent]) -> Vec<String> {
    let mut complaints = Vec::new();
    for pair in history.windows(2) {
        if pair[1].revision <= pair[0].revision {
            complaints.push(format!("P9: revisions don't grow: {pair:?}"));
        }
    }
    let mut holders: HashMap<i64, (&str, &str)> = HashMap::new();
    for call in calls {
        let Some((token, _)) = granted(call) else { continue };
        let holder = (call.task.as_str(), call.owner.as_str());
        if *holders.entry(token).or_insert(holder) != holder {
            complaints.push(format!("P9: a token was given twice: {call:?}"));
        }
    }
    for calls in by_task(calls).values() {
        for call in calls {
            let earlier = calls.iter().filter(|other| other.end_us < call.start_us).filter_map(|other| granted(other));
            let highest = earlier.map(|(token, _)| token).max().unwrap_or(0);
            // A repeated claim may return the same lease.
            if granted(call).is_some_and(|(token, _)| token < highest) {
                complaints.push(format!("P9: a token below {highest}, which was given before: {call:?}"));
            }
        }
    }
    complaints
}

/// P5, in real time: from the answer to a claim or heartbeat until its sending plus the ttl there is no other lease, unless the
/// holder ended the first one.
pub fn exclusion(calls: &[RecordedCall]) -> Vec<String> {
    let mut complaints = Vec::new();
    for calls in by_task(calls).values() {
        let ttls: HashMap<i64, i64> = calls.iter().filter_map(|call| granted(call)).collect();
        let ended: HashMap<i64, i64> = calls
            .iter()
            .filter(|call| call.op.ends_lease())
            .filter_map(|call| Some((call.op.token()?, call.start_us)))
            .fold(HashMap::new(), |mut first, (token, at)| {
                first.entry(token).and_modify(|known: &mut i64| *known = (*known).min(at)).or_insert(at);
                first
            });
        for renewal in calls.iter().filter(|call| is_ok(call)) {
            let token = match &renewal.op {
                RecordedOp::Claim { .. } => granted(renewal).map(|(token, _)| token),
                RecordedOp::Heartbeat { token } => Some(*token),
                RecordedOp::Create
                | RecordedOp::Release { .. }
                | RecordedOp::Complete { .. }
                | RecordedOp::Register { .. }
                | RecordedOp::Fail { .. }
                | RecordedOp::Record { .. }
                | RecordedOp::Compensate { .. }
                | RecordedOp::Get => None,
            };
            let Some((token, ttl)) = token.and_then(|token| Some((token, *ttls.get(&token)?))) else { continue };
            let until = (renewal.start_us + ttl).min(ended.get(&token).copied().unwrap_or(i64::MAX));
            let during = |other: &&&RecordedCall| {
                granted(other).is_some_and(|(later, _)| later > token)
                    && other.start_us > renewal.end_us
                    && other.end_us < until - SLACK_US
            };
            if let Some(other) = calls.iter().find(during) {
                complaints.push(format!("P5: a lease was given while another was live: {renewal:?}, then {other:?}"));
            }
        }
    }
    complaints
}

/// P5: no call under a lease is accepted that began after a later lease was assigned, except repeats of accepted calls.
pub fn after_a_later_lease(calls: &[RecordedCall]) -> Vec<String> {
    let mut complaints = Vec::new();
    for calls in by_task(calls).values() {
        for call in calls.iter().filter(|call| is_ok(call)) {
            let Some(token) = call.op.token() else { continue };
            let later = calls
                .iter()
                .find(|other| granted(other).is_some_and(|(later, _)| later > token) && other.end_us < call.start_us);
            let again = calls.iter().any(|other| {
                other.op == call.op
                    && !matches!(other.op, RecordedOp::Heartbeat { .. })
                    && other.start_us < call.start_us
            });
            if let (Some(later), false) = (later, again) {
                complaints.push(format!("P5: accepted from a lease that is over: {call:?}, after {later:?}"));
            }
        }
    }
    complaints
}

/// P5: the calls of each saga have an order.
pub fn order(calls: &[RecordedCall]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (task, calls) in by_task(calls) {
        let calls: Vec<RecordedCall> = calls.into_iter().cloned().collect();
        if let Some(until) = disorder(&calls) {
            let lines: Vec<String> = until.iter().rev().take(12).rev().map(|call| format!("\n  {call:?}")).collect();
            complaints.push(format!("P5: the calls of {task} have no order; not beyond{}", lines.concat()));
        }
    }
    complaints
}

/// P7: a watcher's record equals the history up to its end.
pub fn record_is_history(record: &[HistoryEvent], history: &[HistoryEvent]) -> Vec<String> {
    let differs = record.iter().zip(history).find(|(seen, there)| seen != there);
    if let Some((seen, there)) = differs {
        return vec![format!("P7: a watcher saw {seen:?} where the history has {there:?}")];
    }
    if record.len() != history.len() {
        return vec![format!("P7: a watcher saw {} of {} events", record.len(), history.len())];
    }
    Vec::new()
}
