//! The checks. Each complaint says which promise is broken, and by what.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{
    linear::{SLACK_US, disorder},
    record::{Call, Op, Outcome},
};

/// One event of the coordinator's history, or of a watcher's record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Seen {
    pub revision: i64,
    pub task: String,
    /// The event's type as in the contract, without the prefix: `CLAIMED`.
    pub kind: String,
    pub token: i64,
    pub actor: String,
}

/// Everything at once: the calls, the coordinator's whole history, and the record of each watcher, which began at the
/// beginning and was cut off and resumed any number of times.
pub fn all(calls: &[Call], history: &[Seen], watched: &[Vec<Seen>]) -> Vec<String> {
    let calls = &attributed(calls, history);
    let mut complaints = acknowledged(calls, history);
    complaints.extend(tokens(calls, history));
    complaints.extend(exclusion(calls));
    complaints.extend(after_a_later_lease(calls));
    complaints.extend(order(calls));
    complaints.extend(watched.iter().flat_map(|record| record_is_history(record, history)));
    complaints
}

/// A `ClaimNext` whose answer was never heard may have claimed any saga. Which, the history tells: each claim there that
/// nobody was told of may be any of its owner's such calls.
fn attributed(calls: &[Call], history: &[Seen]) -> Vec<Call> {
    let told: HashSet<i64> = calls.iter().filter_map(granted).map(|(token, _)| token).collect();
    let (unheard, mut all): (Vec<Call>, Vec<Call>) = calls.iter().cloned().partition(|call| call.task.is_empty());
    for claimed in history.iter().filter(|seen| seen.kind == "CLAIMED" && !told.contains(&seen.token)) {
        let possible = unheard.iter().filter(|call| call.outcome == Outcome::Unknown && call.owner == claimed.actor);
        all.extend(possible.map(|call| Call { task: claimed.task.clone(), ..call.clone() }));
    }
    all
}

fn by_task(calls: &[Call]) -> BTreeMap<&str, Vec<&Call>> {
    let mut tasks: BTreeMap<&str, Vec<&Call>> = BTreeMap::new();
    for call in calls {
        tasks.entry(&call.task).or_default().push(call);
    }
    tasks
}

fn granted(call: &Call) -> Option<(i64, i64)> {
    match (&call.op, &call.outcome) {
        (Op::Claim { ttl_us, .. }, Outcome::Ok { token, .. }) => Some((*token, *ttl_us)),
        _ => None,
    }
}

fn is_ok(call: &Call) -> bool {
    matches!(call.outcome, Outcome::Ok { .. })
}

/// P1: what was acknowledged is in the history.
pub fn acknowledged(calls: &[Call], history: &[Seen]) -> Vec<String> {
    let there: HashSet<(&str, &str, i64)> =
        history.iter().map(|seen| (seen.task.as_str(), seen.kind.as_str(), seen.token)).collect();
    let mut complaints = Vec::new();
    for call in calls.iter().filter(|call| is_ok(call)) {
        let expected = match &call.op {
            Op::Create => ("CREATED", 0),
            Op::Claim { .. } => ("CLAIMED", granted(call).map_or(0, |(token, _)| token)),
            Op::Release { token } => ("RELEASED", *token),
            Op::Complete { token, .. } => ("COMPLETED", *token),
            Op::Register { token } => ("COMPENSATION_REGISTERED", *token),
            Op::Fail { token } => ("COMPENSATING", *token),
            Op::Record { token, .. } => ("COMPENSATION_SETTLED", *token),
            Op::Compensate { token } => ("COMPENSATED", *token),
            Op::Heartbeat { .. } | Op::Get => continue,
        };
        if !there.contains(&(call.task.as_str(), expected.0, expected.1)) {
            complaints.push(format!("P1: acknowledged, but not in the history: {call:?}"));
        }
    }
    complaints
}

/// P9: revisions and tokens only grow, and no token is given to two.
pub fn tokens(calls: &[Call], history: &[Seen]) -> Vec<String> {
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
            // A repeated claim may be answered with the same lease.
            if granted(call).is_some_and(|(token, _)| token < highest) {
                complaints.push(format!("P9: a token below {highest}, which was given before: {call:?}"));
            }
        }
    }
    complaints
}

/// P5, in real time: from the answer to a claim until its sending plus its ttl, and likewise for each heartbeat, no
/// other lease is given, unless its holder gave it back.
pub fn exclusion(calls: &[Call]) -> Vec<String> {
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
                Op::Claim { .. } => granted(renewal).map(|(token, _)| token),
                Op::Heartbeat { token } => Some(*token),
                Op::Create
                | Op::Release { .. }
                | Op::Complete { .. }
                | Op::Register { .. }
                | Op::Fail { .. }
                | Op::Record { .. }
                | Op::Compensate { .. }
                | Op::Get => None,
            };
            let Some((token, ttl)) = token.and_then(|token| Some((token, *ttls.get(&token)?))) else { continue };
            let until = (renewal.start_us + ttl).min(ended.get(&token).copied().unwrap_or(i64::MAX));
            let during = |other: &&&Call| {
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

/// P5: nothing that a lease does is accepted in a call that began after a later lease had been given; but for the
/// repetition of what was accepted before.
pub fn after_a_later_lease(calls: &[Call]) -> Vec<String> {
    let mut complaints = Vec::new();
    for calls in by_task(calls).values() {
        for call in calls.iter().filter(|call| is_ok(call)) {
            let Some(token) = call.op.token() else { continue };
            let later = calls
                .iter()
                .find(|other| granted(other).is_some_and(|(later, _)| later > token) && other.end_us < call.start_us);
            let again = calls.iter().any(|other| {
                other.op == call.op && !matches!(other.op, Op::Heartbeat { .. }) && other.start_us < call.start_us
            });
            if let (Some(later), false) = (later, again) {
                complaints.push(format!("P5: accepted from a lease that is over: {call:?}, after {later:?}"));
            }
        }
    }
    complaints
}

/// P5: the calls of each saga have an order.
pub fn order(calls: &[Call]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (task, calls) in by_task(calls) {
        let calls: Vec<Call> = calls.into_iter().cloned().collect();
        if let Some(until) = disorder(&calls) {
            let lines: Vec<String> = until.iter().rev().take(12).rev().map(|call| format!("\n  {call:?}")).collect();
            complaints.push(format!("P5: the calls of {task} have no order; not beyond{}", lines.concat()));
        }
    }
    complaints
}

/// P7: a watcher's record is the history, as far as it goes.
pub fn record_is_history(record: &[Seen], history: &[Seen]) -> Vec<String> {
    let differs = record.iter().zip(history).find(|(seen, there)| seen != there);
    if let Some((seen, there)) = differs {
        return vec![format!("P7: a watcher saw {seen:?} where the history has {there:?}")];
    }
    if record.len() != history.len() {
        return vec![format!("P7: a watcher saw {} of {} events", record.len(), history.len())];
    }
    Vec::new()
}
