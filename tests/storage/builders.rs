//! Short constructors of values and commands.

use std::hash::{DefaultHasher, Hash, Hasher};

use sagad::domain::{
    command::{
        Change, ClaimNext, Command, Creation, Holder, HolderOperation, Operation, Purge, RecoveryDecision, RequestKey,
        SetPaused, UnleasedOperation,
    },
    compensation::CompensationOutcome,
    lease::LeasePurpose,
    saga::{Saga, State},
    text::{Labels, Text},
    time::Span,
};

pub use crate::values::*;

/// A command, or the content of one.
pub trait ToCommand {
    fn command(self) -> Command;
}

impl ToCommand for Command {
    fn command(self) -> Command {
        self
    }
}

impl ToCommand for ClaimNext {
    fn command(self) -> Command {
        Command::ClaimNext(self)
    }
}

impl ToCommand for Purge {
    fn command(self) -> Command {
        Command::Purge(self)
    }
}

pub const TTL: Span = Span::from_secs(30);

pub fn labels(pairs: &[(&str, &str)]) -> Labels {
    Labels::parse(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()).unwrap()
}

/// A creation with defaults.
pub fn creation(id: &str) -> Creation {
    Creation::new(task(id), queue("q"))
}

/// A creation in this queue with this priority.
pub fn placed(id: &str, in_queue: &str, priority: i32) -> Creation {
    Creation { queue: queue(in_queue), priority, ..creation(id) }
}

/// A creation with a compensation of each kind.
pub fn undoable(id: &str, kinds: &[&str]) -> Creation {
    Creation { compensations: specs(kinds), ..creation(id) }
}

pub fn create(creations: impl IntoIterator<Item = Creation>) -> Command {
    Command::Create(creations.into_iter().collect())
}

pub fn free(id: &str, operation: UnleasedOperation) -> Command {
    Command::Change(Change { task_id: task(id), operation: Operation::Unleased(operation) })
}

/// A command of the holder of the saga's last lease.
pub fn held(saga: &Saga, operation: HolderOperation) -> Command {
    let lease = saga.lease.as_ref().expect("it was claimed");
    let holder = Holder { owner: lease.owner.clone(), token: lease.token };
    Command::Change(Change { task_id: saga.spec.task_id.clone(), operation: Operation::ByHolder(holder, operation) })
}

pub fn claim_with(id: &str, by: &str, purpose: LeasePurpose, ttl: Span) -> Command {
    free(id, UnleasedOperation::Claim { owner: owner(by), ttl, purpose, reason: Text::default() })
}

pub fn claim(id: &str, by: &str) -> Command {
    claim_with(id, by, LeasePurpose::Execute, TTL)
}

pub fn claim_undo(id: &str, by: &str) -> Command {
    claim_with(id, by, LeasePurpose::Compensate, TTL)
}

pub fn dispatch(id: &str, to: &str, ttl: Span) -> Command {
    free(id, UnleasedOperation::Dispatch { assignee: owner(to), ttl, actor: actor("op"), reason: Text::default() })
}

pub fn cancel(id: &str) -> Command {
    free(id, UnleasedOperation::RequestCancel { actor: actor("op"), reason: text("not wanted"), revoke_lease: true })
}

pub fn quarantine(id: &str) -> Command {
    free(id, UnleasedOperation::Quarantine { actor: actor("op"), reason: text("odd"), revoke_lease: true })
}

pub fn waive(id: &str, position: u32) -> Command {
    free(id, UnleasedOperation::WaiveCompensation { position, actor: actor("op"), reason: text("not needed") })
}

pub fn recover(id: &str, decision: RecoveryDecision) -> Command {
    let (actor, reason) = (actor("op"), text("decided"));
    free(id, UnleasedOperation::Recover { decision, actor, reason, token: None, validate_only: false })
}

pub fn annotate(id: &str, note: &str) -> Command {
    let (details, terminal_reason) = (Labels::default(), None);
    free(id, UnleasedOperation::Annotate { actor: actor("op"), note: text(note), details, terminal_reason })
}

pub fn amend(id: &str, reason: &str) -> Command {
    let terminal_reason = Some(text(reason));
    let (note, details) = (text("amended"), labels(&[("ticket", "7")]));
    free(id, UnleasedOperation::Annotate { actor: actor("op"), note, details, terminal_reason })
}

pub fn complete(saga: &Saga) -> Command {
    held(saga, HolderOperation::Complete { result: blob("done"), reason: Text::default(), progress: None })
}

pub fn heartbeat(saga: &Saga) -> Command {
    held(saga, HolderOperation::Heartbeat { ttl: None, progress: None })
}

pub fn release(saga: &Saga, delay: Span) -> Command {
    held(saga, HolderOperation::Release { delay, reason: Text::default(), progress: None })
}

pub fn fail(saga: &Saga, retryable: bool) -> Command {
    held(
        saga,
        HolderOperation::Fail {
            reason: text("broken"),
            compensations: specs(&["fallback"]),
            retryable,
            progress: None,
        },
    )
}

pub fn register(saga: &Saga, kinds: &[&str]) -> Command {
    held(saga, HolderOperation::RegisterCompensation { compensations: specs(kinds) })
}

pub fn record(saga: &Saga, position: u32, outcome: CompensationOutcome) -> Command {
    held(saga, HolderOperation::RecordCompensation { position, outcome, detail: text("seen") })
}

pub fn compensate(saga: &Saga) -> Command {
    held(saga, HolderOperation::Compensate { reason: Text::default() })
}

/// One saga for execution, from these queues, without waiting.
pub fn next(queues: &[&str], by: &str) -> ClaimNext {
    ClaimNext {
        queues: queues.iter().map(|name| queue(name)).collect(),
        owner: owner(by),
        ttl: TTL,
        max_sagas: 1,
        wait: Span::ZERO,
        purpose: LeasePurpose::Execute,
        kinds: Vec::new(),
    }
}

/// One saga for execution from `q`, waiting for a while.
pub fn waiting(by: &str) -> ClaimNext {
    ClaimNext { wait: secs(60), ..next(&["q"], by) }
}

/// One saga for compensation from `q`, with handlers of these kinds.
pub fn next_undo(by: &str, kinds: &[&str]) -> ClaimNext {
    let kinds = kinds.iter().map(|name| kind(name)).collect();
    ClaimNext { purpose: LeasePurpose::Compensate, kinds, ..next(&["q"], by) }
}

pub fn pause(name: &str, paused: bool) -> Command {
    Command::SetPaused(SetPaused {
        queue: queue(name),
        paused,
        must_exist: false,
        actor: actor("op"),
        reason: text("rollout"),
    })
}

pub fn purge(older_than: Span, max_sagas: usize) -> Purge {
    let states = State::ALL.into_iter().filter(|state| state.is_terminal()).collect();
    let only = Vec::new();
    Purge { states, older_than, only, max_sagas, actor: actor("op"), reason: text("old"), validate_only: false }
}

/// The key of a request: its id and a digest of its content without the wait.
pub fn key_of(id: u8, command: &Command) -> RequestKey {
    let mut content = command.clone();
    if let Command::ClaimNext(claim) = &mut content {
        claim.wait = Span::ZERO;
    }
    let mut digest = [0; 16];
    let mut hasher = DefaultHasher::new();
    format!("{content:?}").hash(&mut hasher);
    digest[..8].copy_from_slice(&hasher.finish().to_le_bytes());
    RequestKey { id: [id; 16], digest }
}
