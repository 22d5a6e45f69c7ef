//! Random commands for few sagas by few owners, so that they interfere.

use sagad::domain::{
    command::{
        Change, ClaimNext, Command, Creation, Holder, HolderOperation, Operation, Purge, RecoveryDecision, SetPaused,
        UnleasedOperation,
    },
    compensation::{CompensationOutcome, CompensationSpec},
    ids::{FencingToken, SagaId},
    lease::{LeasePurpose, Standing},
    policy::{FailureAction, Policy, StaleAction},
    saga::{Saga, State},
    text::{Blob, Text},
    time::Span,
};

use super::{
    super::builders::{actor, blob, creation, kind, labels, owner, placed, queue, specs, task, text},
    rng::Rng,
};

pub const TASKS: usize = 12;
pub const QUEUES: [&str; 3] = ["q0", "q1", "q2"];
const OWNERS: [&str; 3] = ["w0", "w1", "w2"];
const KINDS: [&str; 3] = ["x", "y", "z"];
const PURPOSES: [LeasePurpose; 2] = [LeasePurpose::Execute, LeasePurpose::Compensate];

pub fn name(n: usize) -> String {
    format!("t{n}")
}

/// A random command; `known` has the stored saga of each task id.
pub fn command(rng: &mut Rng, known: &[Option<Saga>]) -> Command {
    match rng.below(24) {
        0..=3 => Command::Create(creations(rng)),
        4..=7 => Command::ClaimNext(claim_next(rng)),
        8 => Command::SetPaused(SetPaused {
            queue: queue(rng.word(&QUEUES)),
            paused: rng.once_in(2),
            must_exist: rng.once_in(3),
            actor: actor("op"),
            reason: text(rng.word(&["", "rollout"])),
        }),
        9 if rng.once_in(2) => Command::Purge(purge(rng)),
        10..=14 => change(rng, |rng, _| Operation::Unleased(free(rng)), known),
        _ => change(rng, held, known),
    }
}

fn progress(rng: &mut Rng) -> Option<Blob> {
    rng.once_in(3).then(|| blob(rng.word(&["", "half", "most"])))
}

fn creations(rng: &mut Rng) -> Vec<Creation> {
    let first = rng.below(TASKS);
    let count = *rng.pick(&[1, 1, 1, 2, 3]);
    (first..first + count).map(|n| one_creation(rng, n % TASKS)).collect()
}

fn one_creation(rng: &mut Rng, n: usize) -> Creation {
    // Sometimes a new queue, to test the rollback of a transaction that creates one.
    let in_queue = if rng.once_in(6) { format!("rare{}", rng.below(20)) } else { rng.word(&QUEUES).to_owned() };
    let base = placed(&name(n), &in_queue, *rng.pick(&[0, 0, 1, -1]));
    let other = rng.once_in(10).then(|| SagaId::parse(&name(TASKS + n % 3)).unwrap());
    Creation {
        saga_id: other.unwrap_or(base.saga_id.clone()),
        issue: rng.once_in(3).then(|| rng.below(2) as i64),
        branch: text(rng.word(&["", "fix"])),
        labels: if rng.once_in(3) { labels(&[("team", rng.word(&["a", "b"]))]) } else { creation("t").labels },
        payload: blob(rng.word(&["", "payload"])),
        compensations: compensations(rng),
        policy: policy(rng),
        delay: if rng.once_in(4) { rng.span() } else { Span::ZERO },
        retry_of: rng.once_in(8).then(|| task("earlier")),
        ..base
    }
}

fn compensations(rng: &mut Rng) -> Vec<CompensationSpec> {
    if rng.once_in(2) { Vec::new() } else { specs(&rng.some(&KINDS)) }
}

fn policy(rng: &mut Rng) -> Policy {
    let all = [StaleAction::Hold, StaleAction::Requeue, StaleAction::Compensate, StaleAction::Quarantine];
    Policy {
        on_stale: *rng.pick(&all),
        max_expirations: *rng.pick(&[1, 2, 3]),
        on_failure: *rng.pick(&[FailureAction::Fail, FailureAction::Compensate]),
        max_attempts: *rng.pick(&[1, 2, 3]),
        retry_backoff: rng.span(),
        retry_backoff_max: rng.span(),
        execution_timeout: rng.once_in(4).then(|| rng.span()),
        progress_timeout: rng.once_in(2).then(|| rng.span()),
        settle: if rng.once_in(3) { rng.span() } else { Span::ZERO },
        compensation_timeout: if rng.once_in(3) { rng.span() } else { Span::from_secs(24 * 3600) },
    }
}

fn claim_next(rng: &mut Rng) -> ClaimNext {
    let mut queues = rng.some(&QUEUES);
    if queues.is_empty() {
        queues.push(rng.word(&QUEUES));
    }
    let purpose = *rng.pick(&PURPOSES);
    let kinds = if purpose == LeasePurpose::Compensate { rng.some(&KINDS) } else { Vec::new() };
    ClaimNext {
        queues: queues.into_iter().map(queue).collect(),
        owner: owner(rng.word(&OWNERS)),
        ttl: rng.span(),
        max_sagas: *rng.pick(&[1, 1, 2, 5]),
        wait: if rng.once_in(2) { Span::from_secs(5) } else { Span::ZERO },
        purpose,
        kinds: kinds.into_iter().map(kind).collect(),
    }
}

fn purge(rng: &mut Rng) -> Purge {
    let terminal: Vec<_> = State::ALL.into_iter().filter(|state| state.is_terminal()).collect();
    let mut states = rng.some(&terminal);
    if states.is_empty() {
        states = terminal;
    }
    Purge {
        states,
        only: Vec::new(),
        older_than: *rng.pick(&[Span::ZERO, Span::from_secs(1), Span::from_secs(60)]),
        max_sagas: *rng.pick(&[1, 2, 100]),
        actor: actor("op"),
        reason: text("old"),
        validate_only: rng.once_in(4),
    }
}

fn change(
    rng: &mut Rng,
    operation: impl FnOnce(&mut Rng, Option<&Saga>) -> Operation,
    known: &[Option<Saga>],
) -> Command {
    let held: Vec<_> = (0..TASKS).filter(|n| known[*n].as_ref().is_some_and(is_held)).collect();
    let waiting: Vec<_> = (0..TASKS).filter(|n| known[*n].as_ref().is_some_and(is_waiting)).collect();
    // Mostly a saga with a live lease or a reservation: others refuse nearly every command.
    let n = match rng.below(6) {
        0 | 1 => rng.below(TASKS),
        2 if !waiting.is_empty() => *rng.pick(&waiting),
        _ if !held.is_empty() => *rng.pick(&held),
        _ => rng.below(TASKS),
    };
    let operation = operation(rng, known[n].as_ref());
    Command::Change(Change { task_id: task(&name(n)), operation })
}

/// Reserved, or delayed.
fn is_waiting(saga: &Saga) -> bool {
    saga.reservation.is_some() || saga.not_before.is_some()
}

fn is_held(saga: &Saga) -> bool {
    saga.lease.as_ref().is_some_and(|lease| lease.standing == Standing::Held)
}

fn free(rng: &mut Rng) -> UnleasedOperation {
    let (actor, reason) = (actor("op"), text(rng.word(&["why", "because"])));
    match rng.below(11) {
        0 => UnleasedOperation::Dispatch { assignee: owner(rng.word(&OWNERS)), ttl: rng.span(), actor, reason },
        1..=4 => UnleasedOperation::Claim {
            owner: owner(rng.word(&OWNERS)),
            ttl: rng.span(),
            purpose: *rng.pick(&PURPOSES),
            reason,
        },
        5 => UnleasedOperation::WaiveCompensation { position: rng.below(4) as u32, actor, reason },
        6 => UnleasedOperation::Quarantine { actor, reason, revoke_lease: rng.once_in(2) },
        7 => {
            let all = [RecoveryDecision::Requeue, RecoveryDecision::Compensate, RecoveryDecision::Quarantine];
            let token = rng.once_in(3).then(|| FencingToken(1 + rng.below(50) as i64));
            UnleasedOperation::Recover {
                decision: *rng.pick(&all),
                actor,
                reason,
                token,
                validate_only: rng.once_in(4),
            }
        }
        8 => UnleasedOperation::RequestCancel { actor, reason, revoke_lease: rng.once_in(2) },
        9 => UnleasedOperation::RevokeLease { token: FencingToken(1 + rng.below(50) as i64), actor, reason },
        _ => {
            let terminal_reason = rng.once_in(2).then(|| text(rng.word(&["", "amended"])));
            let details = if rng.once_in(2) { labels(&[("k", "v")]) } else { labels(&[]) };
            UnleasedOperation::Annotate { actor, note: reason, details, terminal_reason }
        }
    }
}

/// Mostly a command of the holder; else of an earlier holder, or of an owner that never held a lease.
fn held(rng: &mut Rng, saga: Option<&Saga>) -> Operation {
    let lease = saga.and_then(|saga| saga.lease.as_ref());
    let mut holder = match lease {
        Some(lease) => Holder { owner: lease.owner.clone(), token: lease.token },
        None => Holder { owner: owner(rng.word(&OWNERS)), token: FencingToken(1) },
    };
    match rng.below(10) {
        0 => holder.token = FencingToken((holder.token.0 - 1 - rng.below(40) as i64).max(1)),
        1 => holder.token = FencingToken(holder.token.0 + 1),
        2 => holder.owner = owner(rng.word(&OWNERS)),
        _ => {}
    }
    let reason = text(rng.word(&["", "why"]));
    let operation = match rng.below(14) {
        0..=2 => HolderOperation::Heartbeat { ttl: rng.once_in(2).then(|| rng.span()), progress: progress(rng) },
        3 => HolderOperation::Release {
            delay: if rng.once_in(2) { rng.span() } else { Span::ZERO },
            reason,
            progress: progress(rng),
        },
        4 => HolderOperation::RegisterCompensation { compensations: compensations(rng) },
        5 => HolderOperation::Complete { result: blob(rng.word(&["", "result"])), reason, progress: progress(rng) },
        6 | 7 => HolderOperation::Fail {
            reason: text("broken"),
            compensations: compensations(rng),
            retryable: rng.once_in(2),
            progress: progress(rng),
        },
        8..=10 => HolderOperation::RecordCompensation {
            position: rng.below(4) as u32,
            outcome: *rng.pick(&[CompensationOutcome::Done, CompensationOutcome::Done, CompensationOutcome::Failed]),
            detail: reason,
        },
        11 => HolderOperation::Compensate { reason },
        _ => HolderOperation::Quarantine { reason: Text::parse("odd").unwrap() },
    };
    Operation::ByHolder(holder, operation)
}
