//! Arbitrary requests: no parser panics, each names all violations, and what it accepts is within the contract's bounds.

mod arbitrary;
mod bounds;
mod paths;

use std::collections::BTreeSet;

use proptest::prelude::*;
use tonic::Code;
use tonic_types::StatusExt;

use self::arbitrary::ArbitraryFields;
use super::*;
use crate::{grpc::problem::Problem, proto::*};

/// The header size that some clients are limited to, in bytes.
const HEADER_BYTES: usize = 8 * 1024;

/// Checks the error of an invalid request: `INVALID_ARGUMENT`, with a `BadRequest` in which each violation names a field
/// that the message has.
fn judge(message: &str, violations: Violations) -> Result<(), TestCaseError> {
    let problem = Problem::from(violations);
    for (field, wrong) in &problem.violations {
        prop_assert!(!wrong.is_empty());
        let counted = field.is_empty() && wrong.contains("more violations");
        prop_assert!(counted || paths::has_field(message, field), "{field}: {wrong}");
    }
    let told = problem.violations.len();
    let status = tonic::Status::from(problem);
    prop_assert_eq!(status.code(), Code::InvalidArgument);
    let details = status.get_error_details();
    prop_assert_eq!(details.error_info().map(|info| info.reason.as_str()), Some("INVALID_ARGUMENT"));
    prop_assert!(told > 0);
    prop_assert_eq!(details.bad_request().map(|bad| bad.field_violations.len()), Some(told));
    let header: usize = status.details().len().div_ceil(3) * 4 + 3 * status.message().len();
    prop_assert!(header < HEADER_BYTES, "the error fits into a header: {header}");
    Ok(())
}

/// Parses a request that changes something and checks the command.
fn change<M: ChangeRequest>(message: M) -> Result<(), Violations> {
    request(message).map(|request| bounds::command(&request.command))
}

macro_rules! never_panics {
    ($($test:ident: $request:ident by $parse:expr, |$arbitrary:ident| $message:expr;)*) => {
        /// The requests that have a property below.
        const TRIED: &[&str] = &[$(stringify!($request)),*];

        proptest! {
            #![proptest_config(ProptestConfig::with_cases(96))]
            $(
                #[test]
                fn $test(numbers in prop::collection::vec(any::<u64>(), 0..64)) {
                    let mut arbitrary = ArbitraryFields::new(numbers);
                    let $arbitrary = &mut arbitrary;
                    let message: $request = $message;
                    let parse: fn($request) -> Result<(), Violations> = $parse;
                    if let Err(violations) = parse(message) {
                        judge(stringify!($request), violations)?;
                    }
                }
            )*
        }
    };
}

never_panics! {
    p12_create: CreateSagaRequest by change, |d| d.create();
    p12_batch_create: BatchCreateSagasRequest by change, |d| BatchCreateSagasRequest {
        requests: (0..d.count()).map(|_| d.create()).collect(),
        request_id: d.absent(),
    };
    p12_dispatch: DispatchRequest by change, |d| DispatchRequest {
        task_id: d.text(), assignee: d.text(), ttl: d.length(), actor: d.text(), reason: d.text(), request_id: d.absent(),
    };
    p12_claim: ClaimRequest by change, |d| ClaimRequest {
        task_id: d.text(), owner_id: d.text(), ttl: d.length(), purpose: d.small(), reason: d.text(),
        request_id: d.absent(),
    };
    p12_claim_next: ClaimNextRequest by change, |d| ClaimNextRequest {
        queues: d.texts(), owner_id: d.text(), ttl: d.length(), max_sagas: d.small(), wait: d.length(),
        purpose: d.small(), compensation_kinds: d.texts(), request_id: d.absent(),
    };
    p12_heartbeat: HeartbeatRequest by change, |d| HeartbeatRequest {
        task_id: d.text(), owner_id: d.text(), fencing_token: d.number(), ttl: d.length(), progress: Some(d.bytes()),
    };
    p12_keep_alive: KeepAliveRequest by change, |d| KeepAliveRequest {
        task_id: d.text(), owner_id: d.text(), fencing_token: d.number(), ttl: d.length(), progress: None,
    };
    p12_session: SessionRequest by |m| session::item(m).map(|item| bounds::item(&item)), |d| SessionRequest {
        call_id: d.number(),
        call: d.flag().then(|| session_request::Call::Complete(CompleteRequest::default())),
        timeout: d.length(),
    };
    p12_release: ReleaseRequest by change, |d| ReleaseRequest {
        task_id: d.text(), owner_id: d.text(), fencing_token: d.number(), delay: d.length(), reason: d.text(),
        request_id: d.absent(), progress: Some(d.bytes()),
    };
    p12_register: RegisterCompensationRequest by change, |d| RegisterCompensationRequest {
        task_id: d.text(), owner_id: d.text(), fencing_token: d.number(), compensations: d.specs(),
        request_id: d.absent(),
    };
    p12_complete: CompleteRequest by change, |d| CompleteRequest {
        task_id: d.text(), owner_id: d.text(), fencing_token: d.number(), result: d.bytes(), reason: d.text(),
        request_id: d.absent(), progress: Some(d.bytes()),
    };
    p12_fail: FailRequest by change, |d| FailRequest {
        task_id: d.text(), owner_id: d.text(), fencing_token: d.number(), reason: d.text(), compensations: d.specs(),
        retryable: d.flag(), request_id: d.absent(), progress: Some(d.bytes()),
    };
    p12_record: RecordCompensationRequest by change, |d| RecordCompensationRequest {
        task_id: d.text(), owner_id: d.text(), fencing_token: d.number(), position: d.small(), outcome: d.small(),
        detail: d.text(), request_id: d.absent(),
    };
    p12_waive: WaiveCompensationRequest by change, |d| WaiveCompensationRequest {
        task_id: d.text(), position: d.small(), actor: d.text(), reason: d.text(), request_id: d.absent(),
    };
    p12_compensate: CompensateRequest by change, |d| CompensateRequest {
        task_id: d.text(), owner_id: d.text(), fencing_token: d.number(), reason: d.text(), request_id: d.absent(),
    };
    p12_quarantine: QuarantineRequest by change, |d| QuarantineRequest {
        task_id: d.text(), reason: d.text(), owner_id: d.text(), fencing_token: d.number(), actor: d.text(),
        revoke_lease: d.flag(), request_id: d.absent(),
    };
    p12_recover: RecoverRequest by change, |d| RecoverRequest {
        task_id: d.text(), decision: d.small(), actor: d.text(), reason: d.text(), fencing_token: d.number(),
        validate_only: d.flag(), request_id: d.absent(),
    };
    p12_cancel: RequestCancelRequest by change, |d| RequestCancelRequest {
        task_id: d.text(), actor: d.text(), reason: d.text(), revoke_lease: d.flag(), request_id: d.absent(),
    };
    p12_annotate: AnnotateRequest by change, |d| AnnotateRequest {
        task_id: d.text(), actor: d.text(), note: d.text(), details: d.pairs(), terminal_reason: d.text(),
        request_id: d.absent(),
    };
    p12_pause: PauseQueueRequest by change, |d| PauseQueueRequest {
        queue: d.text(), actor: d.text(), reason: d.text(), must_exist: d.flag(),
    };
    p12_resume: ResumeQueueRequest by change, |d| ResumeQueueRequest {
        queue: d.text(), actor: d.text(), reason: d.text(), must_exist: d.flag(),
    };
    p12_queues: ListQueuesRequest by |m| queries::list_queues(m).map(|wanted| bounds::queues(&wanted)),
    |d| ListQueuesRequest { page_size: d.small(), page_token: d.absent() };
    p12_get: GetSagaRequest by |m| queries::get_saga(&m).map(drop), |d| GetSagaRequest {
        task_id: d.text(), saga_id: d.text(),
    };
    p12_list: ListSagasRequest by |m| queries::list_sagas(m).map(|listing| bounds::listing(&listing)), |d| ListSagasRequest {
        states: d.smalls(), queues: d.texts(), owner_id: d.text(), labels: d.pairs(), issue: Some(d.number()),
        stale_only: d.flag(), in_flight_only: d.flag(), newest_first: d.flag(), page_size: d.small(),
        page_token: d.absent(),
    };
    p12_events: ListEventsRequest by |m| queries::list_events(m).map(|history| bounds::history(&history)),
    |d| ListEventsRequest {
        task_id: d.text(), page_size: d.small(), page_token: d.absent(),
    };
    p12_watch_stale: WatchStaleRequest by |m| queries::watch_stale(&m).map(|watch| bounds::watch(&watch)),
    |d| WatchStaleRequest {
        queues: d.texts(), after_revision: d.flag().then(|| d.number()), snapshot_only: d.flag(),
    };
    p12_watch_events: WatchEventsRequest by |m| queries::watch_events(&m).map(|watch| bounds::watch(&watch)),
    |d| WatchEventsRequest {
        task_id: d.text(), queues: d.texts(), after_revision: d.flag().then(|| d.number()),
    };
    p12_purge: PurgeSagasRequest by |m| unleased_operations::purge(&m).map(|purge| bounds::purge(&purge)), |d| PurgeSagasRequest {
        states: d.smalls(), older_than: d.length(), max_sagas: d.small(), actor: d.text(), reason: d.text(),
        validate_only: d.flag(),
    };
    p12_revoke: RevokePrincipalRequest by |m| unleased_operations::revoke_principal(&m).map(|wanted| bounds::revocation(&wanted)),
    |d| RevokePrincipalRequest {
        principal: d.text(), actor: d.text(), reason: d.text(), max_leases: d.small(), validate_only: d.flag(),
    };
    p12_vitals: GetVitalsRequest by |_| Ok(()), |d| GetVitalsRequest { look_for_unknown_holders: d.flag() };
}

/// Requests without fields.
const EMPTY: [&str; 3] = ["BackupRequest", "GetServerInfoRequest", "GetStatsRequest"];

#[test]
fn p12_every_request_has_a_property() {
    let tried: BTreeSet<String> = TRIED.iter().chain(&EMPTY).map(|name| (*name).to_owned()).collect();
    assert_eq!(tried, paths::requests());
    for name in EMPTY {
        assert!(!paths::has_fields(name), "{name} says something");
    }
}

proptest! {
    /// Whatever its length, a `request_id` is a UUID in any of its forms, or a violation.
    #[test]
    fn p12_request_ids_are_uuids(id in prop_oneof![".{0,80}", "[0-9a-fA-F{}:urnid-]{30,50}", "x{0,3}a{5000}"]) {
        let message = CreateSagaRequest { request_id: id.clone(), ..Default::default() };
        match request(message) {
            Ok(request) => prop_assert_eq!(request.key.is_some(), !id.is_empty()),
            Err(violations) => {
                prop_assert!(uuid::Uuid::try_parse(&id).is_err());
                let list = violations.into_list();
                prop_assert_eq!((list.len(), list[0].0.as_str()), (1, "request_id"));
            }
        }
    }
}
