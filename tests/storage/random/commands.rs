//! Commands at random, about few sagas by few owners, so that they get in each other's way.

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
    super::build::{actor, blob, creation, kind, labels, owner, placed, queue, specs, task, text},
    dice::Dice,
};

pub const TASKS: usize = 12;
pub const QUEUES: [&str; 3] = ["q0", "q1", "q2"];
const OWNERS: [&str; 3] = ["w0", "w1", "w2"];
const KINDS: [&str; 3] = ["x", "y", "z"];
const PURPOSES: [LeasePurpose; 2] = [LeasePurpose::Execute, LeasePurpose::Compensate];

pub fn name(n: usize) -> String {
    format!("t{n}")
}

/// A command; `known` is what is stored under each task id.
pub fn command(dice: &mut Dice, known: &[Option<Saga>]) -> Command {
    match dice.below(24) {
        0..=3 => Command::Create(creations(dice)),
        4..=7 => Command::ClaimNext(claim_next(dice)),
        8 => Command::SetPaused(SetPaused {
            queue: queue(dice.word(&QUEUES)),
            paused: dice.once_in(2),
            must_exist: dice.once_in(3),
            actor: actor("op"),
            reason: text(dice.word(&["", "rollout"])),
        }),
        9 if dice.once_in(2) => Command::Purge(purge(dice)),
        10..=14 => change(dice, |dice, _| Operation::Unleased(free(dice)), known),
        _ => change(dice, held, known),
    }
}

fn progress(dice: &mut Dice) -> Option<Blob> {
    dice.once_in(3).then(|| blob(dice.word(&["", "half", "most"])))
}

fn creations(dice: &mut Dice) -> Vec<Creation> {
    let first = dice.below(TASKS);
    let count = *dice.pick(&[1, 1, 1, 2, 3]);
    (first..first + count).map(|n| one_creation(dice, n % TASKS)).collect()
}

fn one_creation(dice: &mut Dice, n: usize) -> Creation {
    // Now and then one that is new, for what is kept of queues when a transaction is rolled back.
    let in_queue = if dice.once_in(6) { format!("rare{}", dice.below(20)) } else { dice.word(&QUEUES).to_owned() };
    let base = placed(&name(n), &in_queue, *dice.pick(&[0, 0, 1, -1]));
    let other = dice.once_in(10).then(|| SagaId::parse(&name(TASKS + n % 3)).unwrap());
    Creation {
        saga_id: other.unwrap_or(base.saga_id.clone()),
        issue: dice.once_in(3).then(|| dice.below(2) as i64),
        branch: text(dice.word(&["", "fix"])),
        labels: if dice.once_in(3) { labels(&[("team", dice.word(&["a", "b"]))]) } else { creation("t").labels },
        payload: blob(dice.word(&["", "payload"])),
        compensations: compensations(dice),
        policy: policy(dice),
        delay: if dice.once_in(4) { dice.span() } else { Span::ZERO },
        retry_of: dice.once_in(8).then(|| task("earlier")),
        ..base
    }
}

fn compensations(dice: &mut Dice) -> Vec<CompensationSpec> {
    if dice.once_in(2) { Vec::new() } else { specs(&dice.some(&KINDS)) }
}

fn policy(dice: &mut Dice) -> Policy {
    let all = [StaleAction::Hold, StaleAction::Requeue, StaleAction::Compensate, StaleAction::Quarantine];
    Policy {
        on_stale: *dice.pick(&all),
        max_expirations: *dice.pick(&[1, 2, 3]),
        on_failure: *dice.pick(&[FailureAction::Fail, FailureAction::Compensate]),
        max_attempts: *dice.pick(&[1, 2, 3]),
        retry_backoff: dice.span(),
        retry_backoff_max: dice.span(),
        execution_timeout: dice.once_in(4).then(|| dice.span()),
        progress_timeout: dice.once_in(2).then(|| dice.span()),
        settle: if dice.once_in(3) { dice.span() } else { Span::ZERO },
        compensation_timeout: if dice.once_in(3) { dice.span() } else { Span::from_secs(24 * 3600) },
    }
}

fn claim_next(dice: &mut Dice) -> ClaimNext {
    let mut queues = dice.some(&QUEUES);
    if queues.is_empty() {
        queues.push(dice.word(&QUEUES));
    }
    let purpose = *dice.pick(&PURPOSES);
    let kinds = if purpose == LeasePurpose::Compensate { dice.some(&KINDS) } else { Vec::new() };
    ClaimNext {
        queues: queues.into_iter().map(queue).collect(),
        owner: owner(dice.word(&OWNERS)),
        ttl: dice.span(),
        max_sagas: *dice.pick(&[1, 1, 2, 5]),
        wait: if dice.once_in(2) { Span::from_secs(5) } else { Span::ZERO },
        purpose,
        kinds: kinds.into_iter().map(kind).collect(),
    }
}

fn purge(dice: &mut Dice) -> Purge {
    let terminal: Vec<_> = State::ALL.into_iter().filter(|state| state.is_terminal()).collect();
    let mut states = dice.some(&terminal);
    if states.is_empty() {
        states = terminal;
    }
    Purge {
        states,
        only: Vec::new(),
        older_than: *dice.pick(&[Span::ZERO, Span::from_secs(1), Span::from_secs(60)]),
        max_sagas: *dice.pick(&[1, 2, 100]),
        actor: actor("op"),
        reason: text("old"),
        validate_only: dice.once_in(4),
    }
}

fn change(
    dice: &mut Dice,
    operation: impl FnOnce(&mut Dice, Option<&Saga>) -> Operation,
    known: &[Option<Saga>],
) -> Command {
    let held: Vec<_> = (0..TASKS).filter(|n| known[*n].as_ref().is_some_and(is_held)).collect();
    let waiting: Vec<_> = (0..TASKS).filter(|n| known[*n].as_ref().is_some_and(is_waiting)).collect();
    // Mostly one that somebody is at work on, or that waits: the others refuse nearly everything.
    let n = match dice.below(6) {
        0 | 1 => dice.below(TASKS),
        2 if !waiting.is_empty() => *dice.pick(&waiting),
        _ if !held.is_empty() => *dice.pick(&held),
        _ => dice.below(TASKS),
    };
    let operation = operation(dice, known[n].as_ref());
    Command::Change(Change { task_id: task(&name(n)), operation })
}

/// Reserved, or delayed.
fn is_waiting(saga: &Saga) -> bool {
    saga.reservation.is_some() || saga.not_before.is_some()
}

fn is_held(saga: &Saga) -> bool {
    saga.lease.as_ref().is_some_and(|lease| lease.standing == Standing::Held)
}

fn free(dice: &mut Dice) -> UnleasedOperation {
    let (actor, reason) = (actor("op"), text(dice.word(&["why", "because"])));
    match dice.below(11) {
        0 => UnleasedOperation::Dispatch { assignee: owner(dice.word(&OWNERS)), ttl: dice.span(), actor, reason },
        1..=4 => UnleasedOperation::Claim {
            owner: owner(dice.word(&OWNERS)),
            ttl: dice.span(),
            purpose: *dice.pick(&PURPOSES),
            reason,
        },
        5 => UnleasedOperation::WaiveCompensation { position: dice.below(4) as u32, actor, reason },
        6 => UnleasedOperation::Quarantine { actor, reason, revoke_lease: dice.once_in(2) },
        7 => {
            let all = [RecoveryDecision::Requeue, RecoveryDecision::Compensate, RecoveryDecision::Quarantine];
            let token = dice.once_in(3).then(|| FencingToken(1 + dice.below(50) as i64));
            UnleasedOperation::Recover {
                decision: *dice.pick(&all),
                actor,
                reason,
                token,
                validate_only: dice.once_in(4),
            }
        }
        8 => UnleasedOperation::RequestCancel { actor, reason, revoke_lease: dice.once_in(2) },
        9 => UnleasedOperation::RevokeLease { token: FencingToken(1 + dice.below(50) as i64), actor, reason },
        _ => {
            let terminal_reason = dice.once_in(2).then(|| text(dice.word(&["", "amended"])));
            let details = if dice.once_in(2) { labels(&[("k", "v")]) } else { labels(&[]) };
            UnleasedOperation::Annotate { actor, note: reason, details, terminal_reason }
        }
    }
}

/// Mostly by who holds the lease; else by an earlier holder, or by nobody who ever did.
fn held(dice: &mut Dice, saga: Option<&Saga>) -> Operation {
    let lease = saga.and_then(|saga| saga.lease.as_ref());
    let mut holder = match lease {
        Some(lease) => Holder { owner: lease.owner.clone(), token: lease.token },
        None => Holder { owner: owner(dice.word(&OWNERS)), token: FencingToken(1) },
    };
    match dice.below(10) {
        0 => holder.token = FencingToken((holder.token.0 - 1 - dice.below(40) as i64).max(1)),
        1 => holder.token = FencingToken(holder.token.0 + 1),
        2 => holder.owner = owner(dice.word(&OWNERS)),
        _ => {}
    }
    let reason = text(dice.word(&["", "why"]));
    let operation = match dice.below(14) {
        0..=2 => HolderOperation::Heartbeat { ttl: dice.once_in(2).then(|| dice.span()), progress: progress(dice) },
        3 => HolderOperation::Release {
            delay: if dice.once_in(2) { dice.span() } else { Span::ZERO },
            reason,
            progress: progress(dice),
        },
        4 => HolderOperation::RegisterCompensation { compensations: compensations(dice) },
        5 => HolderOperation::Complete { result: blob(dice.word(&["", "result"])), reason, progress: progress(dice) },
        6 | 7 => HolderOperation::Fail {
            reason: text("broken"),
            compensations: compensations(dice),
            retryable: dice.once_in(2),
            progress: progress(dice),
        },
        8..=10 => HolderOperation::RecordCompensation {
            position: dice.below(4) as u32,
            outcome: *dice.pick(&[CompensationOutcome::Done, CompensationOutcome::Done, CompensationOutcome::Failed]),
            detail: reason,
        },
        11 => HolderOperation::Compensate { reason },
        _ => HolderOperation::Quarantine { reason: Text::parse("odd").unwrap() },
    };
    Operation::ByHolder(holder, operation)
}
