//! Removing a principal: its held calls, its streams and its leases.

use std::{sync::Arc, time::Duration};

use prost::Message;
use rustix::process::Signal;
use sagad::proto::{session_request::Call, *};
use tokio::task::JoinSet;
use tonic::{Code, Request, Status, client::Grpc};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest,
};

use crate::support::{
    ExpectRefusal, Problem, binary, create, eventually, ms,
    principals::{AuthSetup, Bearer, TokenClient, entry, token},
    session::Session,
    since_1970,
};

fn two_workers() -> String {
    [entry("removed", "['worker']", "['q']"), remaining_principals()].concat()
}

/// The principals without `removed`.
fn remaining_principals() -> String {
    [entry("other", "['worker']", "['q']"), entry("jo", "['operator']", "")].concat()
}

fn claim_up_to_100(owner: &str, wait_ms: u64) -> ClaimNextRequest {
    ClaimNextRequest {
        queues: vec!["q".into()],
        owner_id: owner.into(),
        ttl: ms(24 * 3_600_000),
        max_sagas: 100,
        wait: ms(wait_ms),
        ..Default::default()
    }
}

fn batch(name: &str, count: usize) -> BatchCreateSagasRequest {
    let one = |n| CreateSagaRequest { queue: "q".into(), payload: "secret".into(), ..create(&format!("{name}-{n}")) };
    BatchCreateSagasRequest { requests: (0..count).map(one).collect(), ..Default::default() }
}

async fn waiting(operator: &TokenClient) -> i64 {
    operator.clone().sagas.get_stats(GetStatsRequest {}).await.unwrap().into_inner().waiting
}

/// Removes `removed` from the file, and returns once that is in force.
async fn remove_principal(setup: &mut AuthSetup, removed: &TokenClient) {
    setup.rewrite(&remaining_principals());
    setup.daemon.process().signal(Signal::HUP);
    eventually("the principal is not known any more", || async {
        removed.clone().admin.get_server_info(GetServerInfoRequest {}).await.err()
    })
    .await;
}

/// 200 calls of a principal wait, the principal is removed, and then sagas are created.
#[tokio::test]
async fn a_removed_principal_gets_nothing_through_held_calls() {
    const HELD: usize = 200;
    let mut setup = AuthSetup::start(&two_workers());
    let jo = setup.client("jo").await;
    let mut held_calls = JoinSet::new();
    let mut connections = Vec::new();
    for _ in 0..4 {
        connections.push(setup.client("removed").await);
    }
    for n in 0..HELD {
        let mut removed = connections[n % connections.len()].clone();
        held_calls
            .spawn(async move { removed.sagas.claim_next(claim_up_to_100(&format!("removed/{n}"), 60_000)).await });
    }
    eventually("all of them wait", || async { (waiting(&jo).await == HELD as i64).then_some(()) }).await;
    remove_principal(&mut setup, &connections[0]).await;
    // Work is created at once, so that nothing depends on when the held calls end.
    let mut creator = jo.clone();
    for name in ["a", "b"] {
        creator.sagas.batch_create_sagas(batch(name, 1000)).await.unwrap();
    }
    while let Some(answer) = held_calls.join_next().await {
        let problem = answer.unwrap().refused();
        assert_eq!((problem.reason.as_str(), problem.fact("rpc")), ("UNAUTHENTICATED", "ClaimNext"));
    }
    let mut other = setup.client("other").await;
    let mut got = 0;
    while got < 2000 {
        let sagas = other.sagas.claim_next(claim_up_to_100("other", 0)).await.unwrap().into_inner().sagas;
        assert!(!sagas.is_empty(), "{got} of 2000 are for others");
        got += sagas.len();
    }
    assert_eq!(waiting(&jo).await, 0);
}

/// The same through sessions: each held call is refused, then the stream ends.
#[tokio::test]
async fn a_removed_principal_gets_nothing_through_sessions() {
    const HELD: usize = 50;
    let mut setup = AuthSetup::start(&two_workers());
    let (jo, removed) = (setup.client("jo").await, setup.client("removed").await);
    let mut sessions = Vec::new();
    for n in 0..4 {
        let mut client = if n == 0 { removed.clone() } else { setup.client("removed").await };
        let mut session = Session::over(async |items| client.sagas.session(items).await).await.unwrap();
        for call in 0..HELD {
            session.send(Call::ClaimNext(claim_up_to_100(&format!("removed/{n}-{call}"), 60_000))).await;
        }
        sessions.push(session);
    }
    eventually("all of them wait", || async { (waiting(&jo).await == 4 * HELD as i64).then_some(()) }).await;
    remove_principal(&mut setup, &removed).await;
    let mut creator = jo.clone();
    for (n, session) in sessions.iter_mut().enumerate() {
        // The calls end although no saga becomes claimable.
        if n == 2 {
            creator.sagas.batch_create_sagas(batch("a", 1000)).await.unwrap();
        }
        let mut answered = 0;
        let end = loop {
            match session.try_next().await {
                Ok(answer) => {
                    let problem = answer.expect("it ends with an error").1.refused();
                    assert_eq!((problem.reason.as_str(), problem.fact("rpc")), ("UNAUTHENTICATED", "ClaimNext"));
                    answered += 1;
                }
                Err(status) => break status,
            }
        };
        let end = Problem::of(&end);
        assert_eq!((end.reason.as_str(), end.fact("rpc"), answered), ("UNAUTHENTICATED", "Session", HELD));
    }
    assert_eq!(waiting(&jo).await, 0);
    let ready = creator.sagas.get_stats(GetStatsRequest {}).await.unwrap().into_inner().ready;
    assert_eq!(ready, 1000, "the removed principal got none");
}

/// The same while sagas are created all the time and another worker waits, too: once a new call of the principal is refused,
/// none of its held calls gets anything.
#[tokio::test]
async fn held_calls_get_nothing_once_a_new_call_is_refused() {
    let mut setup = AuthSetup::start(&two_workers());
    let (removed, jo) = (setup.client("removed").await, setup.client("jo").await);
    let other = setup.client("other").await;
    let taken = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let mut workers = JoinSet::new();
    for n in 0..20 {
        let (mut removed, taken) = (removed.clone(), taken.clone());
        workers.spawn(async move {
            let one = ClaimNextRequest { max_sagas: 1, ..claim_up_to_100(&format!("removed/{n}"), 60_000) };
            loop {
                match removed.sagas.claim_next(one.clone()).await {
                    Ok(answer) => taken.lock().extend(answer.into_inner().sagas.into_iter().map(|saga| saga.revision)),
                    Err(status) => break assert_eq!(status.code(), Code::Unauthenticated, "{status:?}"),
                }
            }
        });
        let mut other = other.clone();
        workers.spawn(async move {
            let one = ClaimNextRequest { max_sagas: 1, ..claim_up_to_100(&format!("other/{n}"), 2_000) };
            while !other.sagas.claim_next(one.clone()).await.unwrap().into_inner().sagas.is_empty() {}
        });
    }
    let mut creator = jo.clone();
    let creating = tokio::spawn(async move {
        for n in 0..150 {
            creator.sagas.batch_create_sagas(batch(&format!("w{n}"), 10)).await.unwrap();
        }
    });
    eventually("the principal gets sagas while it is known", || async { (!taken.lock().is_empty()).then_some(()) })
        .await;
    remove_principal(&mut setup, &removed).await;
    // This change was requested after a new call was refused. Whatever the principal got must be older. (What it got before
    // may still be on its way to the disk.)
    let request = CreateSagaRequest { queue: "other".into(), ..create("mark") };
    let mark = jo.clone().sagas.create_saga(request).await.unwrap().into_inner().saga.unwrap().revision;
    creating.await.unwrap();
    while let Some(done) = workers.join_next().await {
        done.unwrap();
    }
    let newest = taken.lock().iter().copied().max();
    assert!(newest.is_some_and(|newest| newest < mark), "claimed at {newest:?}, after {mark}");
}

/// Calls whose headers arrive while their principal is known, and whose bodies arrive after its removal: a change, a claim, a
/// read.
#[tokio::test]
async fn a_request_body_that_arrives_after_the_removal_is_refused() {
    let mut setup = AuthSetup::start(&two_workers());
    let (removed, jo) = (setup.client("removed").await, setup.client("jo").await);
    jo.clone().sagas.create_saga(CreateSagaRequest { queue: "q".into(), ..create("t") }).await.unwrap();
    let channel = setup.daemon.channel().await;
    let create = CreateSagaRequest { queue: "q".into(), ..create("mine") }.encode_to_vec();
    let get = GetSagaRequest { task_id: "t".into(), ..Default::default() }.encode_to_vec();
    let mut calls = Vec::new();
    for (rpc, message) in [
        ("CreateSaga", create),
        ("Claim", claim("t", "removed").encode_to_vec()),
        ("ClaimNext", claim_up_to_100("removed", 0).encode_to_vec()),
        ("GetSaga", get),
        ("ListSagas", Vec::new()),
    ] {
        let (sender, messages) = futures::channel::mpsc::channel(1);
        let mut request = Request::new(messages);
        request.metadata_mut().insert("authorization", format!("Bearer {}", token("removed")).parse().unwrap());
        let mut client = Grpc::new(channel.clone());
        let call = tokio::spawn(async move {
            client.ready().await.unwrap();
            let path = format!("/sagad.v1.SagaService/{rpc}").parse().unwrap();
            client.client_streaming(request, path, super::raw_rpc::BytesCodec).await.map(drop)
        });
        calls.push((rpc, sender, message, call));
    }
    // Once a later call on the connection is answered, their headers have arrived.
    let mut later = TokenClient::new(channel, Some(&token("removed")));
    later.admin.get_server_info(GetServerInfoRequest {}).await.unwrap();
    remove_principal(&mut setup, &removed).await;
    for (rpc, mut sender, message, call) in calls {
        futures::SinkExt::send(&mut sender, message).await.unwrap();
        drop(sender);
        let problem = call.await.unwrap().refused();
        assert_eq!((problem.reason.as_str(), problem.fact("rpc")), ("UNAUTHENTICATED", rpc));
    }
    let listed = jo.clone().sagas.list_sagas(ListSagasRequest::default()).await.unwrap().into_inner().sagas;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].state(), SagaState::Planned);
}

#[tokio::test]
async fn a_reflection_stream_ends_when_its_principal_is_removed() {
    let mut setup = AuthSetup::start(&two_workers());
    let removed = setup.client("removed").await;
    let channel = setup.daemon.channel().await;
    let mut reflection = ServerReflectionClient::with_interceptor(channel, Bearer(Some(token("removed"))));
    let (mut questions, stream) = futures::channel::mpsc::channel(1);
    let question = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let asked = futures::SinkExt::send(&mut questions, question.clone());
    let (_, answers) = tokio::join!(asked, reflection.server_reflection_info(stream));
    let mut answers = answers.unwrap().into_inner();
    answers.message().await.unwrap().expect("an answer");
    remove_principal(&mut setup, &removed).await;
    let _ = futures::SinkExt::send(&mut questions, question).await;
    let end = tokio::time::timeout(Duration::from_secs(10), answers.message()).await.expect("it ends soon");
    assert!(!matches!(end, Ok(Some(_))), "{end:?}");
}

/// A principal gets nothing from its `not_after` on, without waiting for the next check of the file.
#[tokio::test]
async fn a_principal_gets_nothing_from_its_not_after_on() {
    let end = since_1970() + Duration::from_secs(3);
    let end: chrono::DateTime<chrono::Utc> = (std::time::SystemTime::UNIX_EPOCH + end).into();
    let stamp = end.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    let removed = format!("{}not_after = {stamp}\n", entry("removed", "['worker']", "['q']"));
    let setup = AuthSetup::start(&[removed, remaining_principals()].concat());
    let jo = setup.client("jo").await;
    let mut held_calls = JoinSet::new();
    for n in 0..20 {
        let mut removed = setup.client("removed").await;
        held_calls
            .spawn(async move { removed.sagas.claim_next(claim_up_to_100(&format!("removed/{n}"), 60_000)).await });
    }
    eventually("all of them wait", || async { (waiting(&jo).await == 20).then_some(()) }).await;
    let left = Duration::from_micros(end.timestamp_micros().unsigned_abs()).saturating_sub(since_1970());
    tokio::time::sleep(left + Duration::from_millis(5)).await;
    jo.clone().sagas.batch_create_sagas(batch("late", 100)).await.unwrap();
    while let Some(answer) = held_calls.join_next().await {
        let answer: Result<_, Status> = answer.unwrap();
        assert_eq!(answer.reason(), "UNAUTHENTICATED");
    }
}

/// Revoking a principal's leases makes its sagas stale at once; their policies apply, and no report of the holder is accepted.
#[tokio::test]
async fn revoking_a_principal_makes_its_sagas_stale_at_once() {
    let mut setup = AuthSetup::start(&two_workers());
    let (removed, mut other, jo) =
        (setup.client("removed").await, setup.client("other").await, setup.client("jo").await);
    let policy = |on_stale: StaleAction| Some(Policy { on_stale: on_stale.into(), ..Default::default() });
    let planned = [
        ("held", "removed", StaleAction::Hold),
        ("again", "removed/host-7", StaleAction::Requeue),
        ("undone", "removed/", StaleAction::Compensate),
        ("another", "other", StaleAction::Hold),
    ];
    for (task_id, owner, action) in planned {
        let request =
            CreateSagaRequest { queue: "q".into(), policy: policy(action), ..crate::support::held(task_id, &["k"]) };
        jo.clone().sagas.create_saga(request).await.unwrap();
        let mut client = if owner == "other" { other.clone() } else { removed.clone() };
        client.sagas.claim(claim(task_id, owner)).await.unwrap();
    }
    let stale = jo.clone().sagas.watch_stale(WatchStaleRequest::default()).await.unwrap();
    let mut stale = stale.into_inner();
    let mut watched = removed.clone().sagas.watch_events(WatchEventsRequest::default()).await.unwrap().into_inner();
    let mut held_calls = removed.clone();
    let held_calls =
        tokio::spawn(async move { held_calls.sagas.claim_next(claim_up_to_100("removed/1", 60_000)).await });
    eventually("it waits", || async { (waiting(&jo).await == 1).then_some(()) }).await;
    let revoke = |validate_only| RevokePrincipalRequest {
        principal: "removed".into(),
        actor: "ops".into(),
        reason: "the token leaked".into(),
        validate_only,
        ..Default::default()
    };
    let counted = jo.clone().admin.revoke_principal(revoke(true)).await.unwrap().into_inner();
    assert_eq!((counted.revoked_leases, counted.more, counted.known), (3, false, true));
    let revoked = jo.clone().admin.revoke_principal(revoke(false)).await.unwrap().into_inner();
    assert_eq!((revoked.revoked_leases, revoked.more, revoked.known), (3, false, true));
    // Its calls and streams ended. It may make new calls: the file still has the principal.
    assert_eq!(held_calls.await.unwrap().reason(), "UNAUTHENTICATED");
    loop {
        match watched.message().await {
            Ok(item) => drop(item.expect("it ends with an error")),
            Err(status) => break assert_eq!(status.code(), Code::Unauthenticated),
        }
    }
    removed.clone().admin.get_server_info(GetServerInfoRequest {}).await.unwrap();
    let get = async |task_id: &str| {
        let request = GetSagaRequest { task_id: task_id.into(), ..Default::default() };
        jo.clone().sagas.get_saga(request).await.unwrap().into_inner().saga.unwrap()
    };
    let (held, again, undone) = (get("held").await, get("again").await, get("undone").await);
    assert_eq!((held.state(), held.stale, held.expirations), (SagaState::Running, true, 1));
    assert_eq!(held.lease.as_ref().unwrap().standing(), LeaseStanding::EndedByOther);
    assert_eq!((again.state(), again.stale), (SagaState::Planned, false));
    assert_eq!((undone.state(), undone.stale), (SagaState::Compensating, false));
    assert!(!get("another").await.stale, "no other principal is affected");
    // The history has the actor, the reason and the cause.
    let request = ListEventsRequest { task_id: "held".into(), ..Default::default() };
    let last = jo.clone().sagas.list_events(request).await.unwrap().into_inner().events.pop().unwrap();
    assert_eq!((last.r#type(), last.actor.as_str()), (EventType::LeaseExpired, "jo for ops"));
    assert_eq!((last.reason.as_str(), last.details["cause"].as_str()), ("the token leaked", "REVOKED"));
    let item = loop {
        if let Some(watch_stale_response::Item::Stale(item)) = stale.message().await.unwrap().unwrap().item {
            break item;
        }
    };
    assert_eq!((item.task_id.as_str(), item.cause()), ("held", StaleCause::Revoked));
    // The holder can't report under a revoked lease, unlike under an expired one.
    let (owner_id, token) = ("removed".to_owned(), held.lease.unwrap().fencing_token);
    let complete = |token| CompleteRequest {
        task_id: "held".into(),
        owner_id: owner_id.clone(),
        fencing_token: token,
        ..Default::default()
    };
    assert_eq!(removed.clone().sagas.complete(complete(token)).await.reason(), "LEASE_SUPERSEDED");
    // A decision by the token applies, and another worker can claim the saga.
    other.sagas.claim(claim("held", "other")).await.unwrap();
    // A second revocation finds nothing.
    let revoked = jo.clone().admin.revoke_principal(revoke(false)).await.unwrap().into_inner();
    assert_eq!((revoked.revoked_leases, revoked.more), (0, false));
    remove_principal(&mut setup, &removed).await;
    let revoked = jo.clone().admin.revoke_principal(revoke(false)).await.unwrap().into_inner();
    assert_eq!((revoked.revoked_leases, revoked.known), (0, false));
    setup.daemon.restart(crate::support::daemon::ShutdownSignal::Kill).await;
    let mut jo = setup.client("jo").await;
    let request = GetSagaRequest { task_id: "held".into(), ..Default::default() };
    let found = jo.sagas.get_saga(request).await.unwrap().into_inner().saga.unwrap();
    assert_eq!(found.lease.unwrap().owner_id, "other");
}

/// A thousand leases of an unknown principal are revoked in bounded steps; the answer says `more` until none are left.
#[tokio::test]
async fn many_leases_are_revoked_in_steps_and_doctor_reports_them() {
    let mut setup = AuthSetup::start(&two_workers());
    let (removed, jo) = (setup.client("removed").await, setup.client("jo").await);
    jo.clone().sagas.batch_create_sagas(batch("a", 1000)).await.unwrap();
    for n in 0..10 {
        let taken =
            removed.clone().sagas.claim_next(claim_up_to_100(&format!("removed/{n}"), 0)).await.unwrap().into_inner();
        assert_eq!(taken.sagas.len(), 100);
    }
    remove_principal(&mut setup, &removed).await;
    let vitals = GetVitalsRequest { look_for_unknown_holders: true };
    let told = jo.clone().admin.get_vitals(vitals).await.unwrap().into_inner().unknown_holders;
    assert_eq!(told, [UnknownHolder { principal: "removed".into(), leases: 1000 }]);
    let quiet = jo.clone().admin.get_vitals(GetVitalsRequest::default()).await.unwrap().into_inner();
    assert_eq!(quiet.unknown_holders, [], "only if requested");
    let doctor = sagad(&setup, &["doctor", "--check", "unknown-holders"]);
    assert!(doctor.contains("1000 live leases of removed") && doctor.contains("sagad revoke removed"), "{doctor}");
    let said = sagad(&setup, &["revoke", "removed", "--reason", "it leaked", "--max", "300"]);
    assert_eq!(said, "revoked 300 leases of removed, and there are more\n");
    let said = sagad(&setup, &["revoke", "removed", "--reason", "it leaked", "--dry-run"]);
    assert_eq!(said, "would revoke 700 leases of removed\n");
    let said = sagad(&setup, &["revoke", "removed", "--reason", "it leaked", "-o", "json"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&said).unwrap()["revokedLeases"], "700", "{said}");
    assert!(sagad(&setup, &["doctor", "--check", "unknown-holders"]).contains("nothing is wrong"));
    let stats = jo.clone().sagas.get_stats(GetStatsRequest {}).await.unwrap().into_inner();
    assert_eq!(stats.queues[0].stale, 1000);
    let log = setup.daemon.log();
    assert_eq!(log.matches("revoked a principal's leases").count(), 2, "a line for each call, not for each lease");
    assert!(log.matches("RevokePrincipal").count() < 10, "{log}");
}

/// What a command prints, run as `jo`.
fn sagad(setup: &AuthSetup, args: &[&str]) -> String {
    let token_file = setup.directory.path().join("jo.token");
    std::fs::write(&token_file, token("jo")).unwrap();
    let output = binary::sagad()
        .args(args)
        .arg(format!("--server=http://{}", setup.daemon.address()))
        .arg(format!("--token-file={}", token_file.display()))
        .output()
        .unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{args:?}: {} {}", said(&output.stdout), said(&output.stderr));
    said(&output.stdout)
}

fn claim(task_id: &str, owner_id: &str) -> ClaimRequest {
    ClaimRequest { task_id: task_id.into(), owner_id: owner_id.into(), ttl: ms(24 * 3_600_000), ..Default::default() }
}

/// Two names of which one is the prefix of the other are refused by `config check`, at startup and on a reload, which then
/// keeps the previous principals.
#[tokio::test]
async fn a_principal_name_that_could_act_for_another_is_refused() {
    for (second, about) in [
        ("other/sub", "line 11: principal 3: name: `other` could act for `other/sub`"),
        ("sagad", "line 11: principal 3: name: `sagad` is the coordinator's own"),
        ("sagad/retention", "line 11: principal 3: name: `sagad` is the coordinator's own"),
    ] {
        let mut setup = AuthSetup::start(&remaining_principals());
        let wrong = [remaining_principals(), entry(second, "['worker']", "['q']")].concat();
        assert_eq!(wrong.lines().nth(10), Some(format!("name = \"{second}\"").as_str()));
        setup.rewrite(&wrong);
        setup.daemon.process().signal(Signal::HUP);
        eventually("it is logged", || async { setup.daemon.log().contains(about).then_some(()) }).await;
        let newcomer = setup.client(second).await.admin.get_server_info(GetServerInfoRequest {}).await;
        assert_eq!(newcomer.reason(), "UNAUTHENTICATED", "{second}");
        setup.client("other").await.admin.get_server_info(GetServerInfoRequest {}).await.unwrap();
        let named = format!("--principals={}", setup.file.display());
        for command in [&["config", "check"][..], &["serve", "--listen=127.0.0.1:0"]] {
            let output =
                binary::sagad().args(command).arg(&named).current_dir(setup.directory.path()).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success() && said.contains(about), "{command:?}: {said}");
        }
    }
    let token = binary::sagad().args(["token", "sagad"]).output().unwrap();
    assert_eq!(token.status.code(), Some(2), "{token:?}");
    assert!(token.stdout.is_empty(), "no token is printed");
}
