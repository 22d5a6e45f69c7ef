//! The contract's table of errors, row by row.

use std::{collections::HashSet, mem::discriminant};

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::{
    domain::{
        ids::{FencingToken, OwnerId, QueueName, Revision, TaskId},
        rejection::{CommandRefusal, Rejection, UnextendedLease},
        saga::State,
        text::Text,
        time::{Span, Timestamp},
    },
    grpc::problem::{HeartbeatDirective, Problem},
    store::StoreError,
};

const THEN: Timestamp = Timestamp::from_micros(1_700_000_000_123_456);
const SOON: Span = Span::from_secs(3);

fn owner() -> OwnerId {
    OwnerId::parse("worker-1").unwrap()
}

fn standing(cancel: bool) -> UnextendedLease {
    UnextendedLease { expire_time: THEN, cancel_reason: cancel.then(|| Text::parse("not needed").unwrap()) }
}

fn every_rejection() -> Vec<Rejection> {
    vec![
        Rejection::SagaNotFound,
        Rejection::CompensationNotFound { position: 3 },
        Rejection::QueueNotFound { queue: QueueName::default() },
        Rejection::SagaExists { field: "saga_id" },
        Rejection::RequestIdReused,
        Rejection::SagaTerminal,
        Rejection::LeaseHeld { owner: owner(), token: FencingToken(7), expire_time: THEN, retry_after: SOON },
        Rejection::DispatchedElsewhere { assignee: owner(), expire_time: THEN, retry_after: SOON },
        Rejection::NotReady { not_before: THEN, retry_after: SOON },
        Rejection::Settling { settle_until: THEN, retry_after: SOON },
        Rejection::WrongState { detail: "is compensating".into() },
        Rejection::NotStale { token: Some(FencingToken(9)), stale: false, state: State::Running },
        Rejection::CompensationRequired,
        Rejection::CompensationPending { kinds: "a, b".into() },
        Rejection::CompensationOrder { first: 4 },
        Rejection::CompensationLimit,
        Rejection::LeaseNotExtended(standing(false)),
        Rejection::ExecutionTimeout(standing(true)),
        Rejection::ProgressTimeout(standing(false)),
        Rejection::LeaseExpired { expire_time: THEN },
        Rejection::LeaseSuperseded,
        Rejection::NotOwner { owner: owner() },
        Rejection::NoLease,
        Rejection::NotPermitted { queue: QueueName::default() },
    ]
}

/// A row of the table: its status, whether it has a `RetryInfo`, and its metadata.
fn row(rejection: &Rejection) -> (Code, &'static str, bool, &'static [&'static str]) {
    use Code::{Aborted, AlreadyExists, FailedPrecondition, NotFound, PermissionDenied};
    match rejection {
        Rejection::SagaNotFound => (NotFound, "SAGA_NOT_FOUND", false, &[]),
        Rejection::CompensationNotFound { .. } => (NotFound, "COMPENSATION_NOT_FOUND", false, &["position"]),
        Rejection::QueueNotFound { .. } => (NotFound, "QUEUE_NOT_FOUND", false, &["queue"]),
        Rejection::SagaExists { .. } => (AlreadyExists, "SAGA_EXISTS", false, &["field", "index"]),
        Rejection::RequestIdReused => (AlreadyExists, "REQUEST_ID_REUSED", false, &[]),
        Rejection::SagaTerminal => (FailedPrecondition, "SAGA_TERMINAL", false, &["state"]),
        Rejection::LeaseHeld { .. } => {
            (FailedPrecondition, "LEASE_HELD", true, &["owner_id", "fencing_token", "expire_time"])
        }
        Rejection::DispatchedElsewhere { .. } => {
            (FailedPrecondition, "DISPATCHED_ELSEWHERE", true, &["assignee", "expire_time"])
        }
        Rejection::NotReady { .. } => (FailedPrecondition, "NOT_READY", true, &["not_before"]),
        Rejection::Settling { .. } => (FailedPrecondition, "SETTLING", true, &["settle_until"]),
        Rejection::WrongState { .. } => (FailedPrecondition, "WRONG_STATE", false, &["state"]),
        Rejection::NotStale { .. } => (FailedPrecondition, "NOT_STALE", false, &["fencing_token"]),
        Rejection::CompensationRequired => (FailedPrecondition, "COMPENSATION_REQUIRED", false, &[]),
        Rejection::CompensationPending { .. } => (FailedPrecondition, "COMPENSATION_PENDING", false, &["kinds"]),
        Rejection::CompensationOrder { .. } => (FailedPrecondition, "COMPENSATION_ORDER", false, &["position"]),
        Rejection::CompensationLimit => (FailedPrecondition, "COMPENSATION_LIMIT", false, &[]),
        Rejection::LeaseNotExtended(_) => {
            (FailedPrecondition, "LEASE_NOT_EXTENDED", false, &["directive", "expire_time"])
        }
        Rejection::ExecutionTimeout(_) => {
            (FailedPrecondition, "EXECUTION_TIMEOUT", false, &["directive", "expire_time", "cancel_reason"])
        }
        Rejection::ProgressTimeout(_) => (FailedPrecondition, "PROGRESS_TIMEOUT", false, &["directive", "expire_time"]),
        Rejection::LeaseExpired { .. } => (Aborted, "LEASE_EXPIRED", false, &["expire_time"]),
        Rejection::LeaseSuperseded => (Aborted, "LEASE_SUPERSEDED", false, &[]),
        Rejection::NotOwner { .. } => (Aborted, "NOT_OWNER", false, &["owner_id"]),
        Rejection::NoLease => (Aborted, "NO_LEASE", false, &[]),
        Rejection::NotPermitted { .. } => (PermissionDenied, "PERMISSION_DENIED", false, &["queue"]),
    }
}

fn status(error: StoreError) -> Status {
    Problem::from(error).into()
}

fn reason(status: &Status) -> String {
    let info = status.get_error_details().error_info().cloned().unwrap();
    assert_eq!(info.domain, "sagad");
    info.reason
}

#[test]
fn every_rejection_has_a_status() {
    let every = every_rejection();
    assert_eq!(every.iter().map(discriminant).collect::<HashSet<_>>().len(), 24);
    for why in every {
        let (code, name, retries, keys) = row(&why);
        let refusal = CommandRefusal {
            task_id: Some(TaskId::parse("task-1").unwrap()),
            state: Some(State::Running),
            index: Some(7),
            why: why.clone(),
        };
        let status = status(StoreError::Refused(Box::new(refusal)));
        assert_eq!((status.code(), reason(&status).as_str()), (code, name));
        assert!(!status.message().is_empty(), "{name}");
        let details = status.get_error_details();
        assert_eq!(details.retry_info().and_then(|retry| retry.retry_delay).is_some(), retries, "{name}");
        let metadata = &details.error_info().unwrap().metadata;
        assert_eq!(metadata["task_id"], "task-1");
        for key in keys {
            assert!(metadata.contains_key(*key), "{name}: {key} in {metadata:?}");
        }
    }
}

#[test]
fn every_store_error_has_a_status() {
    let rows = [
        (StoreError::Overloaded { retry_after: SOON }, Code::ResourceExhausted, "OVERLOADED", true),
        (StoreError::Full { retry_after: SOON }, Code::ResourceExhausted, "STORE_FULL", true),
        (StoreError::ShuttingDown, Code::Unavailable, "SHUTTING_DOWN", true),
        (StoreError::Unavailable("x".into()), Code::Unavailable, "STORE_UNAVAILABLE", true),
        (StoreError::OutcomeUnknown, Code::Unknown, "OUTCOME_UNKNOWN", false),
        (StoreError::Corrupt("x".into()), Code::DataLoss, "CORRUPT", false),
        (StoreError::Compacted { oldest: Revision(5) }, Code::OutOfRange, "REVISION_COMPACTED", false),
        (StoreError::UnknownRevision { head: Revision(5) }, Code::OutOfRange, "REVISION_UNKNOWN", false),
    ];
    for (error, code, name, retries) in rows {
        let status = status(error);
        assert_eq!((status.code(), reason(&status).as_str()), (code, name));
        assert_eq!(status.get_error_details().retry_info().is_some(), retries, "{name}");
    }
    let compacted = status(StoreError::Compacted { oldest: Revision(5) });
    assert_eq!(compacted.get_error_details().error_info().unwrap().metadata["oldest_revision"], "5");
}

#[test]
fn times_are_rfc_3339_with_microseconds() {
    let refusal = CommandRefusal::plain(Rejection::NotReady { not_before: THEN, retry_after: SOON });
    let problem = Problem::from(StoreError::Refused(Box::new(refusal)));
    assert_eq!(problem.metadata["not_before"], "2023-11-14T22:13:20.123456Z");
    assert_eq!(problem.retry_after, Some(SOON));
}

#[test]
fn a_batch_names_the_request() {
    let refusal =
        CommandRefusal { index: Some(7), ..CommandRefusal::plain(Rejection::SagaExists { field: "task_id" }) };
    let problem = Problem::from(StoreError::Refused(Box::new(refusal)));
    assert_eq!(problem.metadata["field"], "requests[7].task_id");
    assert!(problem.message.starts_with("requests[7].task_id"));
}

#[test]
fn a_refused_heartbeat_still_carries_its_directive() {
    for (cancel, directive) in
        [(false, HeartbeatDirective::Continue), (true, HeartbeatDirective::Cancel(Text::parse("not needed").unwrap()))]
    {
        let refusal = CommandRefusal::plain(Rejection::LeaseNotExtended(standing(cancel)));
        assert_eq!(Problem::from(StoreError::Refused(Box::new(refusal))).directive, Some(Box::new(directive)));
    }
}

#[test]
fn errors_fit_into_a_header() {
    let long = Text::parse(&"💥".repeat(1000)).unwrap();
    let huge: std::sync::Arc<str> = "💥".repeat(10_000).into();
    for why in [
        Rejection::ExecutionTimeout(UnextendedLease { expire_time: THEN, cancel_reason: Some(long) }),
        Rejection::WrongState { detail: huge.clone() },
        Rejection::CompensationPending { kinds: huge },
    ] {
        let status = status(StoreError::Refused(Box::new(CommandRefusal::plain(why))));
        assert!(status.details().len() * 4 / 3 + 3 * status.message().len() < 6 * 1024);
    }
}
