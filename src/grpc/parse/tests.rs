//! For each request: its defaults, and all violations at once.

use std::collections::BTreeMap;

use prost_types::Duration;

use super::*;
use crate::{
    domain::{
        bounds::{BATCH_SAGAS, COMPENSATIONS},
        command::{Creation, HolderOperation, Operation, Request, UnleasedOperation},
        ids::QueueName,
        lease::LeasePurpose,
        time::Span,
    },
    proto::*,
};

fn fields(violations: Violations) -> Vec<String> {
    violations.into_list().into_iter().map(|(field, _)| field).collect()
}

fn wrong<M: ChangeRequest>(message: M) -> Vec<String> {
    fields(request(message).unwrap_err())
}

fn command<M: ChangeRequest>(message: M) -> Command {
    request(message).unwrap().command
}

fn seconds(seconds: i64) -> Option<Duration> {
    Some(Duration { seconds, nanos: 0 })
}

fn spec(kind: &str, target: &str) -> CompensationSpec {
    CompensationSpec { kind: kind.into(), target: target.into(), reason: String::new() }
}

fn creation(message: CreateSagaRequest) -> Creation {
    match command(message) {
        Command::Create(mut creations) => creations.remove(0),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_creation_has_no_required_field() {
    let creation = creation(CreateSagaRequest::default());
    assert_eq!(creation.task_id.as_str().len(), 36, "a UUID: {}", creation.task_id);
    assert_eq!(creation.saga_id, creation.task_id.to_saga_id());
    assert_eq!(creation.queue, QueueName::default());
    assert_eq!(creation.delay, Span::ZERO);
}

#[test]
fn all_violations_of_a_creation_are_reported_at_once() {
    let long = "x".repeat(4097);
    let message = CreateSagaRequest {
        task_id: "-a".into(),
        saga_id: "a..b".into(),
        queue: "q q".into(),
        branch: long.clone(),
        worktree: long.clone(),
        labels: BTreeMap::from([(String::new(), "v".into()), ("k".into(), "v".repeat(257))]),
        payload: vec![0; 65_537].into(),
        compensations: vec![spec("ok", ""), spec("", ""), spec("k", &long)],
        policy: Some(Policy { on_stale: 9, max_attempts: -1, ..Default::default() }),
        delay: seconds(-1),
        retry_of: "ä".into(),
        request_id: "no uuid".into(),
        ..Default::default()
    };
    assert_eq!(
        wrong(message),
        [
            "request_id",
            "task_id",
            "saga_id",
            "queue",
            "branch",
            "worktree",
            "labels[]",
            "labels[k]",
            "payload",
            "compensations[1].kind",
            "compensations[2].target",
            "policy.on_stale",
            "policy.max_attempts",
            "delay",
            "retry_of"
        ]
    );
}

#[test]
fn of_equal_compensations_the_first_is_kept() {
    let mut first = spec("remove-worktree", "/w");
    first.reason = "first".into();
    let message = CreateSagaRequest {
        compensations: vec![first, spec("remove-worktree", "/w"), spec("remove-worktree", "/v")],
        ..Default::default()
    };
    let compensations = creation(message).compensations;
    assert_eq!(compensations.len(), 2);
    assert_eq!(compensations[0].reason.as_str(), "first");
    let many = CreateSagaRequest { compensations: vec![spec("k", "t"); COMPENSATIONS + 1], ..Default::default() };
    assert_eq!(wrong(many), ["compensations"]);
}

fn batch(requests: Vec<CreateSagaRequest>) -> BatchCreateSagasRequest {
    BatchCreateSagasRequest { requests, request_id: String::new() }
}

#[test]
fn a_batch_names_index_and_field() {
    let new = |task_id: &str, saga_id: &str| CreateSagaRequest {
        task_id: task_id.into(),
        saga_id: saga_id.into(),
        ..Default::default()
    };
    assert_eq!(wrong(batch(vec![])), ["requests"]);
    assert_eq!(wrong(batch(vec![CreateSagaRequest::default(); BATCH_SAGAS + 1])), ["requests"]);
    let large = CreateSagaRequest { payload: vec![0; 60_000].into(), ..Default::default() };
    assert_eq!(wrong(batch(vec![large; 40])), ["requests"]);

    let mut keyed = new("c", "");
    keyed.request_id = "0190d7f0-0000-7000-8000-000000000000".into();
    let message = batch(vec![new("a", "s"), new("a", ""), new("b", "s"), new("s", ""), keyed, new("-", "")]);
    assert_eq!(
        wrong(message),
        [
            "requests[1].task_id",
            "requests[2].saga_id",
            "requests[3].saga_id",
            "requests[4].request_id",
            "requests[5].task_id"
        ]
    );
    match command(batch(vec![CreateSagaRequest::default(); BATCH_SAGAS])) {
        Command::Create(creations) => assert_eq!(creations.len(), BATCH_SAGAS),
        other => panic!("{other:?}"),
    }
}

#[test]
fn claims_have_their_defaults() {
    let message = ClaimRequest { task_id: "t".into(), owner_id: "o".into(), ..Default::default() };
    match command(message) {
        Command::Change(change) => match change.operation {
            Operation::Unleased(UnleasedOperation::Claim { ttl, purpose, .. }) => {
                assert_eq!((ttl, purpose), (Span::from_secs(30), LeasePurpose::Execute));
            }
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
    let queues = vec!["a".to_owned(), "b".into(), "a".into()];
    match command(ClaimNextRequest { queues, owner_id: "o".into(), ..Default::default() }) {
        Command::ClaimNext(claim) => {
            assert_eq!((claim.queues.len(), claim.max_sagas, claim.wait), (2, 1, Span::ZERO));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn all_violations_of_claims_are_reported_at_once() {
    let message = ClaimRequest { ttl: seconds(0), purpose: 3, reason: "r".repeat(4097), ..Default::default() };
    assert_eq!(wrong(message), ["task_id", "owner_id", "ttl", "purpose", "reason"]);
    let message = ClaimNextRequest {
        ttl: Some(Duration { seconds: 0, nanos: 99_999_999 }),
        max_sagas: 101,
        wait: seconds(61),
        purpose: -1,
        compensation_kinds: vec!["k".into(), String::new()],
        ..Default::default()
    };
    assert_eq!(wrong(message), ["queues", "owner_id", "ttl", "max_sagas", "wait", "purpose", "compensation_kinds[1]"]);
    let message = DispatchRequest { assignee: ".".into(), ttl: seconds(86_401), ..Default::default() };
    assert_eq!(wrong(message), ["task_id", "assignee", "ttl", "actor"]);
}

#[test]
fn all_violations_of_calls_under_a_lease_are_reported_at_once() {
    let lease = ["task_id", "owner_id", "fencing_token"];
    let with = |more: &[&'static str]| lease.iter().chain(more).copied().collect::<Vec<&str>>();
    let progress = Some(vec![0; 65_537].into());
    assert_eq!(
        wrong(HeartbeatRequest { ttl: seconds(-5), progress, ..Default::default() }),
        with(&["ttl", "progress"])
    );
    assert_eq!(wrong(KeepAliveRequest { fencing_token: 1 << 53, ..Default::default() }), lease);
    assert_eq!(wrong(ReleaseRequest { delay: seconds(2_592_001), ..Default::default() }), with(&["delay"]));
    assert_eq!(wrong(RegisterCompensationRequest::default()), with(&["compensations"]));
    assert_eq!(wrong(CompleteRequest { result: vec![0; 65_537].into(), ..Default::default() }), with(&["result"]));
    assert_eq!(
        wrong(FailRequest { compensations: vec![spec("", "")], ..Default::default() }),
        with(&["reason", "compensations[0].kind"])
    );
    assert_eq!(wrong(RecordCompensationRequest::default()), with(&["position", "outcome"]));
    assert_eq!(wrong(CompensateRequest { fencing_token: -1, ..Default::default() }), lease);
}

#[test]
fn a_heartbeat_may_carry_no_progress() {
    let message =
        HeartbeatRequest { task_id: "t".into(), owner_id: "o".into(), fencing_token: 7, ..Default::default() };
    match command(message) {
        Command::Change(change) => match change.operation {
            Operation::ByHolder(holder, HolderOperation::Heartbeat { ttl: None, progress: None }) => {
                assert_eq!(holder.token.0, 7)
            }
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_quarantine_is_by_the_holder_or_by_an_operator() {
    let base = QuarantineRequest { task_id: "t".into(), reason: "r".into(), ..Default::default() };
    let holder = QuarantineRequest { owner_id: "o".into(), fencing_token: 3, ..base.clone() };
    let person = QuarantineRequest { actor: "Jo".into(), revoke_lease: true, ..base.clone() };
    assert!(request(holder.clone()).is_ok());
    assert!(request(person.clone()).is_ok());
    assert_eq!(wrong(base.clone()), ["actor"]);
    assert_eq!(wrong(QuarantineRequest { actor: "Jo".into(), ..holder.clone() }), ["actor"]);
    assert_eq!(wrong(QuarantineRequest { revoke_lease: true, ..holder.clone() }), ["revoke_lease"]);
    assert_eq!(wrong(QuarantineRequest { fencing_token: 0, ..holder }), ["fencing_token"]);
    assert_eq!(wrong(QuarantineRequest { fencing_token: 3, ..base }), ["owner_id"]);
    assert_eq!(wrong(QuarantineRequest { reason: String::new(), actor: "\n".into(), ..person }), ["reason", "actor"]);
}

#[test]
fn all_violations_of_decisions_are_reported_at_once() {
    assert_eq!(wrong(WaiveCompensationRequest::default()), ["task_id", "position", "actor", "reason"]);
    let message = RecoverRequest { fencing_token: -1, ..Default::default() };
    assert_eq!(wrong(message), ["task_id", "decision", "actor", "reason", "fencing_token"]);
    assert_eq!(wrong(RequestCancelRequest::default()), ["task_id", "actor", "reason"]);
    assert_eq!(wrong(AnnotateRequest::default()), ["task_id", "note", "actor"]);
    assert_eq!(wrong(PauseQueueRequest::default()), ["queue", "actor"]);
    assert_eq!(
        wrong(ResumeQueueRequest { reason: "r".repeat(4097), ..Default::default() }),
        ["queue", "actor", "reason"]
    );
    let message = PurgeSagasRequest { states: vec![3, 5, 0, 77], max_sagas: -1, ..Default::default() };
    assert_eq!(
        fields(unleased_operations::purge(&message).unwrap_err()),
        ["states[0]", "states[2]", "states[3]", "older_than", "max_sagas", "actor"]
    );
    let message = PurgeSagasRequest { older_than: seconds(0), actor: "Jo".into(), ..Default::default() };
    let purge = unleased_operations::purge(&message).unwrap();
    assert_eq!((purge.states.len(), purge.max_sagas), (4, 1000));
}

#[test]
fn all_violations_of_reads_are_reported_at_once() {
    let both = GetSagaRequest { task_id: "t".into(), saga_id: "s".into() };
    assert_eq!(fields(queries::get_saga(&both).unwrap_err()), ["saga_id"]);
    assert_eq!(fields(queries::get_saga(&GetSagaRequest::default()).unwrap_err()), ["task_id"]);
    let message = ListSagasRequest {
        states: vec![0],
        queues: vec!["ok".into(), "no no".into()],
        owner_id: "-".into(),
        labels: BTreeMap::from([("k".repeat(64), String::new())]),
        page_size: 1001,
        page_token: "?".into(),
        ..Default::default()
    };
    let label = format!("labels[{}]", "k".repeat(64));
    assert_eq!(
        fields(queries::list_sagas(message).unwrap_err()),
        ["page_size", "page_token", "states[0]", "queues[1]", "owner_id", &label]
    );
    let message = ListEventsRequest { page_size: -1, page_token: "AQ".into(), ..Default::default() };
    assert_eq!(fields(queries::list_events(message).unwrap_err()), ["page_size", "page_token", "task_id"]);
    let message = WatchStaleRequest { queues: vec!["q".into(); 101], after_revision: Some(-1), snapshot_only: true };
    assert_eq!(fields(queries::watch_stale(&message).unwrap_err()), ["queues", "after_revision", "snapshot_only"]);
    let message = WatchEventsRequest { task_id: "-".into(), after_revision: Some(-1), ..Default::default() };
    assert_eq!(fields(queries::watch_events(&message).unwrap_err()), ["task_id", "after_revision"]);
}

fn key<M: ChangeRequest>(message: M) -> crate::domain::command::RequestKey {
    let Request { key, .. } = request(message).unwrap();
    key.unwrap()
}

#[test]
fn a_repeat_is_recognized_by_its_content() {
    let id = "0190d7f0-0000-7000-8000-000000000001";
    let message = CreateSagaRequest {
        labels: BTreeMap::from([("b".into(), "2".into()), ("a".into(), "1".into())]),
        request_id: id.into(),
        ..Default::default()
    };
    assert_eq!(key(message.clone()), key(message.clone()), "though each is given a task_id of its own");
    let braced = CreateSagaRequest { request_id: format!("{{{}}}", id.to_uppercase()), ..message.clone() };
    assert_eq!(key(message.clone()), key(braced), "the same UUID");
    let other = CreateSagaRequest { priority: 1, ..message.clone() };
    assert_eq!(key(message.clone()).id, key(other.clone()).id);
    assert_ne!(key(message).digest, key(other).digest);

    let claim = |wait| ClaimNextRequest {
        queues: vec!["q".into()],
        owner_id: "o".into(),
        wait,
        request_id: id.into(),
        ..Default::default()
    };
    assert_eq!(key(claim(seconds(5))), key(claim(None)), "a wait aside");
    let compensate = CompensateRequest {
        task_id: "t".into(),
        owner_id: "o".into(),
        fencing_token: 1,
        reason: String::new(),
        request_id: id.into(),
    };
    let release = ReleaseRequest {
        task_id: "t".into(),
        owner_id: "o".into(),
        fencing_token: 1,
        request_id: id.into(),
        ..Default::default()
    };
    assert_ne!(key(compensate).digest, key(release).digest, "another rpc");
}
