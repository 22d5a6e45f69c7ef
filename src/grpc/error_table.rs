//! Every refusal by the rules and every error of the store, as the contract's table of errors has it. Both matches are
//! exhaustive.

use tonic::Code;

use crate::{
    domain::{
        bounds::COMPENSATIONS,
        ids::FencingToken,
        rejection::{CommandRefusal, Rejection, UnextendedLease},
        saga::State,
        time::Span,
    },
    store::StoreError,
};

use super::problem::{HeartbeatDirective, Problem, rfc3339, truncate};

/// When clients should retry after the coordinator ended or could not reach its store.
const UNAVAILABLE_RETRY: Span = Span::from_secs(1);
/// Longest list of kinds in a message, in bytes.
const KINDS_BYTES: usize = 200;

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refused(refusal) => refusal_problem(&refusal),
            StoreError::Overloaded { retry_after } => {
                Problem::overloaded("too many requests are waiting; nothing was changed: try again", retry_after)
            }
            StoreError::Full { retry_after } => Problem::new(
                Code::ResourceExhausted,
                "STORE_FULL",
                "the coordinator's disk is full; nothing was changed: make room, then try again",
            )
            .retry_after(retry_after),
            StoreError::ShuttingDown => Problem::new(
                Code::Unavailable,
                "SHUTTING_DOWN",
                "the coordinator is shutting down; nothing was changed: try again once it is back",
            )
            .retry_after(UNAVAILABLE_RETRY),
            StoreError::Revoked => Problem::unauthenticated(),
            StoreError::Unavailable(why) => Problem::new(
                Code::Unavailable,
                "STORE_UNAVAILABLE",
                format!("the store is not available; nothing was changed: try again ({why})"),
            )
            .retry_after(UNAVAILABLE_RETRY),
            StoreError::OutcomeUnknown => Problem::new(
                Code::Unknown,
                "OUTCOME_UNKNOWN",
                "whether the change was committed is not known: repeat it with the same request_id, or look",
            ),
            StoreError::Corrupt(what) => Problem::new(
                Code::DataLoss,
                "CORRUPT",
                format!("the store is damaged: stop the coordinator and run `sagad check` ({what})"),
            ),
            StoreError::Compacted { oldest } => Problem::new(
                Code::OutOfRange,
                "REVISION_COMPACTED",
                format!("the history below revision {oldest} is not kept any more: begin anew, or at {oldest}"),
            )
            .with("oldest_revision", oldest),
            StoreError::UnknownRevision { head } => Problem::new(
                Code::OutOfRange,
                "REVISION_UNKNOWN",
                format!("no event has this revision; the newest is {head}: begin anew without after_revision"),
            )
            .with("head_revision", head),
        }
    }
}

/// A refusal by the rules, with what is known of its saga.
pub fn refusal_problem(refusal: &CommandRefusal) -> Problem {
    let mut problem = problem_of(refusal);
    if let Some(task_id) = &refusal.task_id {
        problem = problem.with("task_id", task_id);
    }
    if let Some(state) = refusal.state {
        problem = problem.with("state", state.name());
    }
    if let Some(index) = refusal.index {
        problem = problem.with("index", index);
    }
    problem
}

fn precondition(reason: &'static str, message: impl Into<String>) -> Problem {
    Problem::new(Code::FailedPrecondition, reason, message)
}

fn aborted(reason: &'static str, message: impl Into<String>) -> Problem {
    Problem::new(Code::Aborted, reason, message)
}

/// Code, reason and message of each refusal.
fn problem_of(refusal: &CommandRefusal) -> Problem {
    match &refusal.why {
        Rejection::SagaNotFound => {
            Problem::new(Code::NotFound, "SAGA_NOT_FOUND", "there is no such saga: check the id; it may be purged")
        }
        Rejection::QueueNotFound { queue } => Problem::new(
            Code::NotFound,
            "QUEUE_NOT_FOUND",
            format!("the queue {queue} never had a saga and was never paused: check its name, or leave out must_exist"),
        )
        .with("queue", queue),
        Rejection::CompensationNotFound { position } => Problem::new(
            Code::NotFound,
            "COMPENSATION_NOT_FOUND",
            format!("the saga has no compensation at position {position}: get it to see which it has"),
        )
        .with("position", position),
        Rejection::SagaExists { field } => exists(field, refusal.index),
        Rejection::RequestIdReused => Problem::new(
            Code::AlreadyExists,
            "REQUEST_ID_REUSED",
            "this request_id came with other content before: a new request needs a new one",
        )
        .with("field", "request_id"),
        Rejection::SagaTerminal => precondition("SAGA_TERMINAL", format!("{}: it does not change", ended(refusal))),
        Rejection::LeaseHeld { owner, token, expire_time, retry_after } => {
            precondition("LEASE_HELD", format!("a live lease of {owner} stands until {}", rfc3339(*expire_time)))
                .with("owner_id", owner)
                .with("fencing_token", token)
                .with_time("expire_time", *expire_time)
                .retry_after(*retry_after)
        }
        Rejection::DispatchedElsewhere { assignee, expire_time, retry_after } => precondition(
            "DISPATCHED_ELSEWHERE",
            format!("the saga is reserved for {assignee} until {}", rfc3339(*expire_time)),
        )
        .with("assignee", assignee)
        .with_time("expire_time", *expire_time)
        .retry_after(*retry_after),
        Rejection::NotReady { not_before, retry_after } => {
            precondition("NOT_READY", format!("the saga can't be claimed before {}", rfc3339(*not_before)))
                .with_time("not_before", *not_before)
                .retry_after(*retry_after)
        }
        Rejection::Settling { settle_until, retry_after } => precondition(
            "SETTLING",
            format!("the last effects of the lease that ran out may arrive until {}", rfc3339(*settle_until)),
        )
        .with_time("settle_until", *settle_until)
        .retry_after(*retry_after),
        Rejection::WrongState { detail } => precondition("WRONG_STATE", detail.to_string()),
        Rejection::NotStale { token, stale, state } => not_stale(*token, *stale, *state),
        Rejection::CompensationRequired => precondition(
            "COMPENSATION_REQUIRED",
            "failing needs a compensation record: register one, give one with Fail, or quarantine",
        ),
        Rejection::CompensationPending { kinds } => precondition(
            "COMPENSATION_PENDING",
            format!("not undone yet: {}; record or waive each first", truncate(kinds.to_string(), KINDS_BYTES)),
        )
        .with("kinds", kinds),
        Rejection::CompensationOrder { first } => precondition(
            "COMPENSATION_ORDER",
            format!("undo runs in reverse: position {first} has to be done or waived first"),
        )
        .with("position", first),
        Rejection::CompensationLimit => {
            precondition("COMPENSATION_LIMIT", format!("a saga has at most {COMPENSATIONS} compensations"))
        }
        Rejection::LeaseNotExtended(lease) => unextended_lease(
            "LEASE_NOT_EXTENDED",
            "the heartbeat would not extend the lease: send a longer ttl, or later",
            lease,
        ),
        Rejection::ExecutionTimeout(lease) => unextended_lease(
            "EXECUTION_TIMEOUT",
            "the lease has reached its execution_timeout: finish before it expires",
            lease,
        ),
        Rejection::ProgressTimeout(lease) => unextended_lease(
            "PROGRESS_TIMEOUT",
            "no change of progress within progress_timeout: report one, or finish",
            lease,
        ),
        Rejection::LeaseExpired { expire_time } => {
            aborted("LEASE_EXPIRED", format!("the lease ran out at {}: stop", rfc3339(*expire_time)))
                .with_time("expire_time", *expire_time)
        }
        Rejection::LeaseSuperseded => {
            aborted("LEASE_SUPERSEDED", "a later lease, a decision or a revocation ended this lease: stop")
        }
        Rejection::NotOwner { owner } => {
            aborted("NOT_OWNER", format!("the lease is {owner}'s: stop")).with("owner_id", owner)
        }
        Rejection::NoLease => {
            aborted("NO_LEASE", "this token was never given for this saga, or its lease was given back: stop")
        }
        Rejection::NotPermitted { queue } => Problem::new(
            Code::PermissionDenied,
            "PERMISSION_DENIED",
            format!("the queue {queue} is not among those of this principal: its entry has to name it"),
        )
        .with("queue", queue),
    }
}

fn exists(field: &'static str, index: Option<usize>) -> Problem {
    let path = match index {
        Some(index) => format!("requests[{index}].{field}"),
        None => field.to_owned(),
    };
    Problem::new(
        Code::AlreadyExists,
        "SAGA_EXISTS",
        format!("{path} is taken by another saga, which is untouched: use another id, or get that saga"),
    )
    .with("field", path)
}

fn ended(refusal: &CommandRefusal) -> String {
    match refusal.state {
        Some(state) => format!("the saga is {}", state.name().to_lowercase()),
        None => "the saga has ended".to_owned(),
    }
}

fn not_stale(token: Option<FencingToken>, stale: bool, state: State) -> Problem {
    let Some(token) = token else {
        return precondition("NOT_STALE", "the saga is not stale: no lease of it ran out");
    };
    let text = if stale {
        format!("the saga is stale under lease {token}, not under the one that was named: get it, decide anew")
    } else if state == State::Running {
        format!("the saga is not stale: its lease {token} is live")
    } else {
        format!("the saga is not stale: it is {}, and its last lease is {token}", state.name())
    };
    precondition("NOT_STALE", text).with("fencing_token", token)
}

/// A heartbeat that changed nothing: tells the worker when its lease expires, and whether to go on.
fn unextended_lease(reason: &'static str, message: &str, lease: &UnextendedLease) -> Problem {
    let problem = precondition(reason, message).with_time("expire_time", lease.expire_time);
    let (mut problem, directive) = match &lease.cancel_reason {
        None => (problem.with("directive", "CONTINUE"), HeartbeatDirective::Continue),
        Some(why) => {
            (problem.with("directive", "CANCEL").with("cancel_reason", why), HeartbeatDirective::Cancel(why.clone()))
        }
    };
    problem.directive = Some(Box::new(directive));
    problem
}
