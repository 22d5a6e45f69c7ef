//! Whether the calls of one saga can be put into one order, consistent with real time, in which a model of the rules
//! gives just the answers that were given. (Wing and Gong, "Testing and verifying concurrent objects", 1993; with Lowe's
//! memory of what was tried, "Testing for linearizability", 2017)
//!
//! The model is that of a saga that is created, claimed, heartbeat, released and completed, or fails and is undone, with
//! the policies `HOLD` and `COMPENSATE`: nothing happens to it by itself but that a lease runs out, which may be at any
//! time from its renewal plus its ttl on.

use std::collections::{BTreeSet, HashSet};

use super::record::{Call, Op, Outcome, Purpose};

/// Two clocks of one machine, compared over a restart, may differ by so much.
pub const SLACK_US: i64 = 1000;

/// What the model knows of a saga.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Model {
    state: &'static str,
    /// The last lease, and below which no later one may be. An unknown claim that happened has no token that is known.
    token: i64,
    anonymous: bool,
    /// Whether its holder has not given it back. It may have run out.
    leased: bool,
    owner: String,
    /// The earliest instant at which the last lease can have been over.
    over_us: i64,
    ttl_us: i64,
    /// By what leases were given back.
    ended: BTreeSet<Op>,
    /// For each compensation under which lease it was undone.
    undone: Vec<Option<i64>>,
}

/// A group of bits: which calls are in the order already.
type Done = Vec<u64>;

/// Finds out whether the calls of one saga have an order. `None`: they have; else the calls, in order of time, as far as
/// an order could be found for them.
pub fn disorder(calls: &[Call]) -> Option<Vec<Call>> {
    let mut calls: Vec<Call> = calls.iter().filter(|call| matters(call)).cloned().collect();
    calls.sort_by_key(|call| call.start_us);
    let needed = calls.iter().filter(|call| call.outcome != Outcome::Unknown).count();
    let mut seen: HashSet<(Done, Model)> = HashSet::new();
    let mut stack = vec![(vec![0_u64; calls.len().div_ceil(64)], Model::default(), 0_usize)];
    let mut furthest = 0;
    while let Some((done, model, answered)) = stack.pop() {
        if answered == needed {
            return None;
        }
        furthest = furthest.max(answered);
        let is_done = |n: usize| done[n / 64] & (1 << (n % 64)) != 0;
        // A call that began after another one had ended comes after it.
        let open = calls.iter().enumerate().filter(|(n, _)| !is_done(*n));
        let known_ends = open.clone().filter(|(_, call)| call.outcome != Outcome::Unknown).map(|(_, call)| call.end_us);
        let first_end = known_ends.min().unwrap_or(i64::MAX);
        for (n, call) in open.take_while(|(_, call)| call.start_us <= first_end) {
            let Some(next) = step(&model, call) else { continue };
            let mut done = done.clone();
            done[n / 64] |= 1 << (n % 64);
            if seen.insert((done.clone(), next.clone())) {
                stack.push((done, next, answered + usize::from(call.outcome != Outcome::Unknown)));
            }
        }
    }
    calls.truncate(furthest + 1);
    Some(calls)
}

/// Refusals whose cause the model does not know are left out: they changed nothing.
fn matters(call: &Call) -> bool {
    match &call.outcome {
        Outcome::Refused { reason } => matches!(
            (&call.op, reason.as_str()),
            (Op::Claim { .. }, "LEASE_HELD" | "WRONG_STATE")
                | (Op::Compensate { .. }, "COMPENSATION_PENDING")
                | (Op::Record { .. }, "COMPENSATION_ORDER")
                | (_, "SAGA_TERMINAL" | "LEASE_SUPERSEDED")
        ),
        Outcome::Unknown => call.op != Op::Get,
        Outcome::Ok { .. } => true,
    }
}

/// What a call makes of the saga, if it can be the next one.
fn step(model: &Model, call: &Call) -> Option<Model> {
    match &call.outcome {
        Outcome::Refused { reason } => refused(model, call, reason).then(|| model.clone()),
        Outcome::Ok { state, token, .. } => accepted(model, call, Some((state, *token))),
        Outcome::Unknown => accepted(model, call, None),
    }
}

fn refused(model: &Model, call: &Call, reason: &str) -> bool {
    match reason {
        "LEASE_HELD" => model.leased,
        "SAGA_TERMINAL" => ["COMPLETED", "COMPENSATED"].contains(&model.state),
        "WRONG_STATE" => model.state == "COMPENSATING",
        "COMPENSATION_PENDING" => model.state == "COMPENSATING" && model.undone.contains(&None),
        "COMPENSATION_ORDER" => {
            let Op::Record { position, .. } = call.op else { return false };
            model.state == "COMPENSATING" && model.undone.iter().skip(position as usize).any(Option::is_none)
        }
        _ => call.op.token().is_none_or(|token| token < model.token || model.anonymous),
    }
}

fn accepted(model: &Model, call: &Call, answer: Option<(&String, i64)>) -> Option<Model> {
    let mut next = model.clone();
    let is_holder = |token: i64| model.leased && model.token == token && !model.anonymous && model.owner == call.owner;
    // What ended a lease may be repeated by its holder, whatever has become of the saga.
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
        Op::Create => {
            if !model.state.is_empty() {
                return None;
            }
            (next.state, next.undone) = ("PLANNED", vec![None]);
        }
        Op::Claim { ttl_us, purpose } => {
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
        Op::Heartbeat { token } => {
            if !is_holder(*token) {
                return None;
            }
            next.over_us = next.over_us.max(call.start_us + model.ttl_us);
        }
        Op::Release { .. } => {
            if model.state == "RUNNING" {
                next.state = "PLANNED";
            }
        }
        Op::Complete { .. } => {
            if model.state != "RUNNING" {
                return None;
            }
            next.state = "COMPLETED";
        }
        Op::Register { token } => {
            if model.state != "RUNNING" || !is_holder(*token) {
                return None;
            }
            next.undone.push(None);
        }
        Op::Fail { .. } => {
            if model.state != "RUNNING" {
                return None;
            }
            next.state = "COMPENSATING";
        }
        Op::Record { token, position, done } => {
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
        Op::Compensate { .. } => {
            if model.state != "COMPENSATING" || !all_undone(0) {
                return None;
            }
            next.state = "COMPENSATED";
        }
        Op::Get => {
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

/// The latest instant of its effect. One whose outcome is unknown may take effect long after its caller gave up.
fn ended(call: &Call) -> i64 {
    if call.outcome == Outcome::Unknown { i64::MAX } else { call.end_us }
}
