//! Whether the calls of one saga have an order, consistent with real time, in which a model of the rules gives the same answers. (Wing and Gong, "Testing and verifying concurrent objects", 1993; with Lowe's
//! memory of what was tried, "Testing for linearizability", 2017)
//!
//! The model is a saga that is created, claimed, renewed, released and completed, or fails and is compensated, with the policies
//! `HOLD` and `COMPENSATE`. The only change without a call is the expiry of a lease, at any time from its renewal plus its ttl
//! on.

use std::collections::{BTreeSet, HashSet};

use super::recorder::{CallOutcome, Purpose, RecordedCall, RecordedOp};

/// How much two clocks of one machine may differ over a restart.
pub const SLACK_US: i64 = 1000;

/// The model's state of a saga.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct SagaModel {
    state: &'static str,
    /// The last token; later ones are above it. The token of an unanswered claim is unknown.
    token: i64,
    anonymous: bool,
    /// True if its holder has not ended it. It may have expired.
    leased: bool,
    owner: String,
    /// The earliest time at which the last lease can have expired.
    over_us: i64,
    ttl_us: i64,
    /// The operations that ended leases.
    ended: BTreeSet<RecordedOp>,
    /// For each compensation, the lease under which it was done.
    undone: Vec<Option<i64>>,
}

/// A bit set of the calls that are already in the order.
type OrderedCalls = Vec<u64>;

/// Searches an order of the calls of one saga. `None`: there is one. Otherwise the calls, sorted by time, up to the first that
/// can't be ordered.
pub fn disorder(calls: &[RecordedCall]) -> Option<Vec<RecordedCall>> {
    let mut calls: Vec<RecordedCall> = calls.iter().filter(|call| matters(call)).cloned().collect();
    calls.sort_by_key(|call| call.start_us);
    let needed = calls.iter().filter(|call| call.outcome != CallOutcome::Unknown).count();
    let mut seen: HashSet<(OrderedCalls, SagaModel)> = HashSet::new();
    let mut stack = vec![(vec![0_u64; calls.len().div_ceil(64)], SagaModel::default(), 0_usize)];
    let mut furthest = 0;
    while let Some((done, model, answered)) = stack.pop() {
        if answered == needed {
            return None;
        }
        furthest = furthest.max(answered);
        let is_done = |n: usize| done[n / 64] & (1 << (n % 64)) != 0;
        // A call that began after the end of another comes after it.
        let open = calls.iter().enumerate().filter(|(n, _)| !is_done(*n));
        let known_ends =
            open.clone().filter(|(_, call)| call.outcome != CallOutcome::Unknown).map(|(_, call)| call.end_us);
        let first_end = known_ends.min().unwrap_or(i64::MAX);
        for (n, call) in open.take_while(|(_, call)| call.start_us <= first_end) {
            let Some(next) = step(&model, call) else { continue };
            let mut done = done.clone();
            done[n / 64] |= 1 << (n % 64);
            if seen.insert((done.clone(), next.clone())) {
                stack.push((done, next, answered + usize::from(call.outcome != CallOutcome::Unknown)));
            }
        }
    }
    calls.truncate(furthest + 1);
    Some(calls)
}

/// Refusals that the model can't explain are left out: they changed nothing.
fn matters(call: &RecordedCall) -> bool {
    match &call.outcome {
        CallOutcome::Refused { reason } => matches!(
            (&call.op, reason.as_str()),
            (RecordedOp::Claim { .. }, "LEASE_HELD" | "WRONG_STATE")
                | (RecordedOp::Compensate { .. }, "COMPENSATION_PENDING")
                | (RecordedOp::Record { .. }, "COMPENSATION_ORDER")
                | (_, "SAGA_TERMINAL" | "LEASE_SUPERSEDED")
        ),
        CallOutcome::Unknown => call.op != RecordedOp::Get,
        CallOutcome::Ok { .. } => true,
    }
}

/// The state after a call, if the call can be the next one.
fn step(model: &SagaModel, call: &RecordedCall) -> Option<SagaModel> {
    match &call.outcome {
        CallOutcome::Refused { reason } => refused(model, call, reason).then(|| model.clone()),
        CallOutcome::Ok { state, token, .. } => accepted(model, call, Some((state, *token))),
        CallOutcome::Unknown => accepted(model, call, None),
    }
}

fn refused(model: &SagaModel, call: &RecordedCall, reason: &str) -> bool {
    match reason {
        "LEASE_HELD" => model.leased,
        "SAGA_TERMINAL" => ["COMPLETED", "COMPENSATED"].contains(&model.state),
        "WRONG_STATE" => model.state == "COMPENSATING",
        "COMPENSATION_PENDING" => model.state == "COMPENSATING" && model.undone.contains(&None),
        "COMPENSATION_ORDER" => {
            let RecordedOp::Record { position, .. } = call.op else { return false };
            model.state == "COMPENSATING" && model.undone.iter().skip(position as usize).any(Option::is_none)
        }
        _ => call.op.token().is_none_or(|token| token < model.token || model.anonymous),
    }
}

fn accepted(model: &SagaModel, call: &RecordedCall, answer: Option<(&String, i64)>) -> Option<SagaModel> {
    let mut next = model.clone();
    let is_holder = |token: i64| model.leased && model.token == token && !model.anonymous && model.owner == call.owner;
    // The holder may repeat the call that ended its lease, whatever the saga's state is now.
    if let Some(token) = call.op.token().filter(|_| call.op.ends_lease()) {
        if model.ended.contains(&call.op) {
            return Some(next);
        }
        if !is_holder(token) {
            return None;
        }
        next.leased = false;
        next.ended.insert(call.op.clone());
    }
    let all_undone = |from: usize| !model.undone.iter().skip(from).any(Option::is_none);
    match &call.op {
        RecordedOp::Create => {
            if !model.state.is_empty() {
                return None;
            }
            (next.state, next.undone) = ("PLANNED", vec![None]);
        }
        RecordedOp::Claim { ttl_us, purpose } => {
            let free = !model.leased || ended(call) >= model.over_us - SLACK_US;
            let possible = match (model.state, purpose) {
                ("PLANNED", _) => true,
                ("RUNNING", _) | ("COMPENSATING", Purpose::Compensate) => free,
                _ => false,
            };
            if !possible || answer.is_some_and(|(_, token)| token <= model.token) {
                return None;
            }
            next.state = if *purpose == Purpose::Execute { "RUNNING" } else { "COMPENSATING" };
            (next.leased, next.owner, next.ttl_us) = (true, call.owner.clone(), *ttl_us);
            next.over_us = call.start_us + ttl_us;
            next.anonymous = answer.is_none();
            next.token = answer.map_or(model.token, |(_, token)| token);
        }
        RecordedOp::Heartbeat { token } => {
            if !is_holder(*token) {
                return None;
            }
            next.over_us = next.over_us.max(call.start_us + model.ttl_us);
        }
        RecordedOp::Release { .. } => {
            if model.state == "RUNNING" {
                next.state = "PLANNED";
            }
        }
        RecordedOp::Complete { .. } => {
            if model.state != "RUNNING" {
                return None;
            }
            next.state = "COMPLETED";
        }
        RecordedOp::Register { token } => {
            if model.state != "RUNNING" || !is_holder(*token) {
                return None;
            }
            next.undone.push(None);
        }
        RecordedOp::Fail { .. } => {
            if model.state != "RUNNING" {
                return None;
            }
            next.state = "COMPENSATING";
        }
        RecordedOp::Record { token, position, done } => {
            let place = usize::try_from(*position).ok()?.checked_sub(1)?;
            let known = model.undone.get(place)?;
            if *done && *known == Some(*token) {
                return Some(next);
            }
            let open = known.is_none() && all_undone(place + 1);
            if model.state != "COMPENSATING" || !is_holder(*token) || !open {
                return None;
            }
            if *done {
                next.undone[place] = Some(*token);
            }
        }
        RecordedOp::Compensate { .. } => {
            if model.state != "COMPENSATING" || !all_undone(0) {
                return None;
            }
            next.state = "COMPENSATED";
        }
        RecordedOp::Get => {
            let (state, token) = answer?;
            let fits = model.state == state && (model.token == token || (model.anonymous && token > model.token));
            if !fits {
                return None;
            }
            if model.anonymous {
                (next.token, next.anonymous) = (token, false);
            }
        }
    }
    Some(next)
}

/// The latest time of its effect. A call with an unknown outcome may take effect long after its caller gave up.
fn ended(call: &RecordedCall) -> i64 {
    if call.outcome == CallOutcome::Unknown { i64::MAX } else { call.end_us }
}
