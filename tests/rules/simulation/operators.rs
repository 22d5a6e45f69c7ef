//! Clients that create sagas, and operators that act on them.

use sagad::{
    coordinator::RowId,
    domain::{
        command::{Change, Command, Creation, Operation, Purge, RecoveryDecision, SetPaused, UnleasedOperation},
        ids::{OwnerId, TaskId},
        policy::{FailureAction, Policy, StaleAction},
        saga::State,
        text::{Actor, Labels, Text},
        time::Span,
    },
};

use super::{
    rng::Rng,
    simulated_worker::{spec, ttl},
    system::{Call, CallSource, System},
};

/// The number of sagas that are kept in flight.
const IN_FLIGHT: u64 = 300;

pub fn is_claim(operation: &Operation) -> bool {
    matches!(operation, Operation::Unleased(UnleasedOperation::Claim { .. }))
}

fn timeout(rng: &mut Rng, per_mille: u64) -> Option<Span> {
    let wanted = rng.chance(per_mille);
    wanted.then(|| Span::from_micros(rng.between(200_000, 20_000_000)).unwrap())
}

fn policy(rng: &mut Rng) -> Policy {
    let actions = [StaleAction::Hold, StaleAction::Requeue, StaleAction::Compensate, StaleAction::Quarantine];
    Policy {
        on_stale: rng.pick(&actions),
        max_expirations: 1 + rng.below(3) as u32,
        on_failure: if rng.chance(600) { FailureAction::Compensate } else { FailureAction::Fail },
        max_attempts: 1 + rng.below(3) as u32,
        retry_backoff: Span::from_millis(rng.below(500) as u32),
        retry_backoff_max: Span::from_secs(2),
        execution_timeout: timeout(rng, 200),
        progress_timeout: timeout(rng, 200),
        settle: timeout(rng, 200).unwrap_or_default(),
        compensation_timeout: Span::from_secs(5 + rng.below(60) as u32),
    }
}

/// Keeps some sagas in flight.
pub fn create(system: &mut System) {
    let over: u64 = system.checker.counts.by_state.values().sum();
    let there = system.checker.created_so_far() as u64;
    if there - over >= IN_FLIGHT {
        return;
    }
    let mut creations = Vec::new();
    for _ in 0..1 + system.rng.below(8) {
        let rng = &mut system.rng;
        let task_id = TaskId::parse(&format!("t{:x}", rng.next())).unwrap();
        let mut compensations = Vec::new();
        for _ in 0..rng.below(3) {
            let new = spec(rng);
            if !compensations.contains(&new) {
                compensations.push(new);
            }
        }
        let queue = system.queues[rng.below(3) as usize].clone();
        creations.push(Creation {
            priority: rng.below(3) as i32,
            compensations,
            policy: policy(rng),
            delay: if rng.chance(200) { Span::from_millis(rng.below(3000) as u32) } else { Span::ZERO },
            ..Creation::new(task_id, queue)
        });
    }
    send(system, Command::Create(creations), true);
}

/// A saga, preferably a newer one, for which `wanted` holds if there is one nearby.
fn some(system: &mut System, wanted: impl Fn(&sagad::domain::saga::Saga) -> bool) -> Option<TaskId> {
    let facts = system.disk.data();
    let there = system.checker.created_so_far() as u64;
    for _ in 0..20 {
        let back = system.rng.below(300.min(there));
        // Unless it was purged.
        let Some(saga) = facts.nth(RowId(there.checked_sub(back)? as i64)) else { continue };
        if wanted(saga) {
            return Some(saga.task_id().clone());
        }
    }
    None
}

pub fn stale(system: &mut System) -> Option<TaskId> {
    some(system, |saga| saga.reported_stale().is_some())
}

/// An operator makes a random call.
pub fn act(system: &mut System) {
    let actor = Actor::parse("person").unwrap();
    let reason = Text::parse("simulated").unwrap();
    let revoke_lease = system.rng.chance(300);
    let what = system.rng.below(21);
    let task = match what {
        0..=5 => stale(system),
        6..=8 => some(system, |saga| saga.state == State::Compensating),
        9..=12 => some(system, |saga| saga.state == State::Planned),
        _ => some(system, |saga| !saga.state.is_terminal() || saga.revision.0 % 7 == 0),
    };
    let decisions = [RecoveryDecision::Requeue, RecoveryDecision::Compensate, RecoveryDecision::Quarantine];
    let operation = match what {
        0..=5 => {
            let decision = system.rng.pick(&decisions);
            UnleasedOperation::Recover { decision, actor, reason, token: None, validate_only: false }
        }
        6..=8 => UnleasedOperation::WaiveCompensation { position: 1 + system.rng.below(3) as u32, actor, reason },
        9..=12 => {
            let assignee = OwnerId::parse(&format!("w{}", system.rng.below(200))).unwrap();
            UnleasedOperation::Dispatch { assignee, ttl: ttl(&mut system.rng), actor, reason }
        }
        13 | 14 => UnleasedOperation::RequestCancel { actor, reason, revoke_lease },
        15 => UnleasedOperation::Quarantine { actor, reason, revoke_lease },
        16 => {
            let queue = system.queues[system.rng.below(3) as usize].clone();
            let paused = system.rng.chance(300);
            return send(
                system,
                Command::SetPaused(SetPaused { queue, paused, must_exist: false, actor, reason }),
                false,
            );
        }
        17 => {
            let purge = Purge {
                states: State::ALL.into_iter().filter(|state| state.is_terminal()).collect(),
                only: Vec::new(),
                older_than: Span::from_millis(system.rng.below(6_000) as u32),
                max_sagas: 1 + system.rng.below(20) as usize,
                actor,
                reason,
                validate_only: system.rng.chance(200),
            };
            return send(system, Command::Purge(purge), false);
        }
        _ => {
            let terminal_reason = system.rng.chance(500).then(|| reason.clone());
            UnleasedOperation::Annotate { actor, note: reason, details: Labels::default(), terminal_reason }
        }
    };
    if let Some(task_id) = task {
        let keyed = system.rng.chance(700);
        send(system, Command::Change(Change { task_id, operation: Operation::Unleased(operation) }), keyed);
    }
}

/// Sends a command once, or twice as an operator who got no answer does.
fn send(system: &mut System, command: Command, keyed: bool) {
    let (id, request) = system.request(command, keyed);
    for _ in 0..1 + u32::from(keyed && system.rng.chance(300)) {
        system.send(Call { id, from: CallSource::Operator, request: request.clone(), sent: system.now });
    }
}
