//! The whole table of rpcs and roles, over the wire.

use prost::Message;
use sagad::proto::*;
use tonic::Code;

use super::raw_rpc::{self, contract};
use crate::support::{
    Problem, create,
    principals::{AuthSetup, entry, everyone, token},
};

/// Each rpc with the roles that may call it: w(orker), o(perator), r(eader), a(dmin).
const TABLE: &[(&str, &str)] = &[
    ("CreateSaga", "wo-a"),
    ("BatchCreateSagas", "wo-a"),
    ("GetSaga", "wora"),
    ("ListSagas", "wora"),
    ("Dispatch", "-o-a"),
    ("Claim", "w--a"),
    ("ClaimNext", "w--a"),
    ("Heartbeat", "w--a"),
    ("KeepAlive", "w--a"),
    ("Session", "w--a"),
    ("Release", "w--a"),
    ("RegisterCompensation", "w--a"),
    ("Complete", "w--a"),
    ("Fail", "w--a"),
    ("RecordCompensation", "w--a"),
    ("WaiveCompensation", "-o-a"),
    ("Compensate", "w--a"),
    ("Quarantine", "-o-a"),
    ("Recover", "-o-a"),
    ("RequestCancel", "-o-a"),
    ("Annotate", "-o-a"),
    ("WatchStale", "wora"),
    ("WatchEvents", "wora"),
    ("ListEvents", "wora"),
    ("GetStats", "-ora"),
    ("GetServerInfo", "wora"),
    ("PauseQueue", "-o-a"),
    ("ResumeQueue", "-o-a"),
    ("ListQueues", "-ora"),
    ("PurgeSagas", "---a"),
    ("RevokePrincipal", "-o-a"),
    ("Backup", "---a"),
    ("GetVitals", "-ora"),
    ("Quarantine as holder", "w--a"),
];
const ROLES: [&str; 4] = ["worker", "operator", "reader", "admin"];

/// A well-formed request of this principal about this saga: a malformed one is refused before a denied one.
pub fn request(rpc: &str, name: &str, task_id: &str) -> Vec<u8> {
    let (task_id, owner_id, actor, reason) =
        (task_id.to_owned(), name.to_owned(), "somebody".to_owned(), "why".to_owned());
    let fencing_token = 1;
    let queue = "default".to_owned();
    let compensations = vec![crate::support::compensation("k")];
    macro_rules! bytes {
        ($message:ident { $($field:ident $(: $value:expr)?),* }) => {
            $message { $($field $(: $value)?,)* ..Default::default() }.encode_to_vec()
        };
    }
    match rpc {
        "CreateSaga" => create("").encode_to_vec(),
        "BatchCreateSagas" => bytes!(BatchCreateSagasRequest { requests: vec![create("")] }),
        "GetSaga" => bytes!(GetSagaRequest { task_id }),
        "ListEvents" => bytes!(ListEventsRequest { task_id }),
        "Dispatch" => bytes!(DispatchRequest { task_id, assignee: "x".into(), actor }),
        "Claim" => bytes!(ClaimRequest { task_id, owner_id }),
        "ClaimNext" => bytes!(ClaimNextRequest { queues: vec![queue], owner_id }),
        "Heartbeat" => bytes!(HeartbeatRequest { task_id, owner_id, fencing_token }),
        "KeepAlive" => bytes!(KeepAliveRequest { task_id, owner_id, fencing_token }),
        "Session" => {
            let beat = HeartbeatRequest { task_id, owner_id, fencing_token, ..Default::default() };
            bytes!(SessionRequest { call: Some(session_request::Call::Heartbeat(beat)) })
        }
        "Release" => bytes!(ReleaseRequest { task_id, owner_id, fencing_token }),
        "RegisterCompensation" => {
            bytes!(RegisterCompensationRequest { task_id, owner_id, fencing_token, compensations })
        }
        "Complete" => bytes!(CompleteRequest { task_id, owner_id, fencing_token }),
        "Fail" => bytes!(FailRequest { task_id, owner_id, fencing_token, reason }),
        "RecordCompensation" => {
            bytes!(RecordCompensationRequest { task_id, owner_id, fencing_token, position: 1, outcome: 1 })
        }
        "Compensate" => bytes!(CompensateRequest { task_id, owner_id, fencing_token }),
        "Quarantine as holder" => bytes!(QuarantineRequest { task_id, owner_id, fencing_token, reason }),
        "Quarantine" => bytes!(QuarantineRequest { task_id, actor, reason }),
        "WaiveCompensation" => bytes!(WaiveCompensationRequest { task_id, position: 1, actor, reason }),
        "Recover" => bytes!(RecoverRequest { task_id, decision: 1, actor, reason }),
        "RequestCancel" => bytes!(RequestCancelRequest { task_id, actor, reason }),
        "Annotate" => bytes!(AnnotateRequest { task_id, actor, note: reason }),
        "WatchStale" => bytes!(WatchStaleRequest { snapshot_only: true }),
        "PauseQueue" => bytes!(PauseQueueRequest { queue, actor }),
        "ResumeQueue" => bytes!(ResumeQueueRequest { queue, actor }),
        "PurgeSagas" => bytes!(PurgeSagasRequest { older_than: crate::support::secs(1), actor, validate_only: true }),
        "RevokePrincipal" => bytes!(RevokePrincipalRequest { principal: "x".to_owned(), actor, reason }),
        "WatchEvents" => bytes!(WatchEventsRequest { task_id }),
        "ListSagas" | "GetStats" | "GetServerInfo" | "GetVitals" | "ListQueues" | "Backup" => Vec::new(),
        other => panic!("no request of {other} is known here: add it, and its row to the table"),
    }
}

#[tokio::test]
async fn every_role_may_call_exactly_the_rpcs_of_the_table() {
    let setup = AuthSetup::start(&everyone());
    let channel = setup.daemon.channel().await;
    let mut rpcs: Vec<_> = contract().into_iter().map(|rpc| (rpc.name.clone(), rpc)).collect();
    let (_, quarantine) = rpcs.iter().find(|(name, _)| name == "Quarantine").unwrap().clone();
    rpcs.push(("Quarantine as holder".to_owned(), quarantine));
    assert_eq!(rpcs.len(), TABLE.len(), "a row for each rpc, and one more for Quarantine");
    for (name, rpc) in &rpcs {
        let (_, row) = TABLE.iter().find(|(row, _)| row == name).unwrap_or_else(|| panic!("no row for {name}"));
        for (role, letter) in ROLES.iter().zip(row.chars()) {
            let header = format!("Bearer {}", token(role));
            let answer = raw_rpc::call(&channel, &rpc.path, rpc.streams, request(name, role, "t"), &[&header]).await;
            let code = answer.as_ref().err().map(tonic::Status::code);
            assert!(
                !matches!(code, Some(Code::InvalidArgument | Code::Unauthenticated)),
                "{name} by {role}: {answer:?}"
            );
            if letter == '-' {
                let problem = Problem::of(&answer.expect_err(&format!("{name} by {role}")));
                assert_eq!(problem.reason, "PERMISSION_DENIED", "{name} by {role}");
                assert_eq!((problem.fact("principal"), problem.fact("rpc")), (*role, rpc.name.as_str()));
                assert!(problem.fact("roles").contains("admin"), "{problem:?}");
            } else {
                assert_ne!(code, Some(Code::PermissionDenied), "{name} by {role}: {answer:?}");
            }
        }
        // Without credentials every rpc is refused, whether the request is malformed or not.
        for message in [request(name, "x", "t"), vec![0xff]] {
            let answer = raw_rpc::call(&channel, &rpc.path, rpc.streams, message, &[]).await;
            assert_eq!(Problem::of(&answer.unwrap_err()).reason, "UNAUTHENTICATED", "{name}");
        }
    }
}

/// Tries each rpc whose request can be malformed.
#[tokio::test]
async fn a_malformed_request_is_reported_before_a_denied_one() {
    let setup = AuthSetup::start(&everyone());
    let channel = setup.daemon.channel().await;
    let mut tried = 0;
    for rpc in contract() {
        let ask = async |who: &str| {
            let header = format!("Bearer {}", token(who));
            // An empty request lacks a required field in most rpcs; in the others field 1 has the wrong type.
            let wrong =
                if rpc.name.starts_with("List") || rpc.name.starts_with("Watch") { vec![8, 1] } else { Vec::new() };
            raw_rpc::call(&channel, &rpc.path, rpc.streams, wrong, &[&header]).await.map_err(|status| status.code())
        };
        if ask("admin").await != Err(Code::InvalidArgument) {
            continue;
        }
        tried += 1;
        for who in ["reader", "worker", "operator"] {
            assert_eq!(ask(who).await, Err(Code::InvalidArgument), "{} by {who}", rpc.name);
        }
    }
    assert!(tried >= 20, "{tried} rpcs can be malformed");
}

#[tokio::test]
async fn a_principal_has_the_rights_of_all_its_roles() {
    let setup = AuthSetup::start(&entry("both", "['worker', 'operator']", "['qa']"));
    let channel = setup.daemon.channel().await;
    let header = format!("Bearer {}", token("both"));
    for (name, may) in [("Claim", true), ("Dispatch", true), ("GetStats", true), ("Backup", false)] {
        let rpc = contract().into_iter().find(|rpc| rpc.name == name).unwrap();
        let answer = raw_rpc::call(&channel, &rpc.path, rpc.streams, request(name, "both", "t"), &[&header]).await;
        let denied = answer.is_err_and(|status| status.code() == Code::PermissionDenied);
        assert_eq!(denied, !may, "{name}");
    }
}

#[tokio::test]
async fn an_unknown_rpc_is_denied_to_every_role() {
    let setup = AuthSetup::start(&everyone());
    let channel = setup.daemon.channel().await;
    for path in ["/sagad.v1.SagaService/DropEverything", "/sagad.v1.OtherService/GetSaga", "/x/y"] {
        assert_eq!(
            Problem::of(&raw_rpc::call(&channel, path, false, Vec::new(), &[]).await.unwrap_err()).reason,
            "UNAUTHENTICATED"
        );
        let header = format!("Bearer {}", token("admin"));
        let answer = raw_rpc::call(&channel, path, false, Vec::new(), &[&header]).await;
        assert_eq!(Problem::of(&answer.unwrap_err()).reason, "PERMISSION_DENIED", "{path}");
    }
}

/// Only admins see paths of the machine; the bounds and the clock are for every role.
#[tokio::test]
async fn only_admins_are_told_the_path_of_the_store() {
    let setup = AuthSetup::start(&everyone());
    let data = setup.directory.path().join("data").display().to_string();
    for role in ROLES {
        let mut client = setup.client(role).await;
        let info = client.admin.get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
        assert_eq!(info.store.contains(&data), role == "admin", "{role}: {}", info.store);
        assert_eq!(info.store == "sqlite", role != "admin", "{role}: {}", info.store);
        let text = format!("{info:?}");
        assert_eq!(text.contains(setup.directory.path().to_str().unwrap()), role == "admin", "{role}: {text}");
        assert!(!info.bounds.is_empty() && info.restart_grace.is_some() && info.current_time.is_some(), "{role}");
    }
    // No other rpc that a worker may call reveals it.
    let mut worker = setup.client("worker").await;
    let status = worker.sagas.get_saga(GetSagaRequest { task_id: "t".into(), ..Default::default() }).await.unwrap_err();
    assert!(!format!("{status:?}").contains(&data));
}
