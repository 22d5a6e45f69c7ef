//! What becomes of a principal that is taken away: its calls that wait, its streams, and what it holds.

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
    Problem, ExpectRefusal, binary, create, eventually, ms,
    principals::{Bearer, TokenClient, AuthSetup, entry, token},
    session::Session,
};

fn two_workers() -> String {
    [entry("thief", "['worker']", "['q']"), staff()].concat()
}

/// Everybody but the thief.
fn staff() -> String {
    [entry("honest", "['worker']", "['q']"), entry("jo", "['operator']", "")].concat()
}

fn greedy(owner: &str, wait_ms: u64) -> ClaimNextRequest {
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

/// Takes the thief out of the file, and returns once that is in force.
async fn take_away(setup: &mut AuthSetup, thief: &TokenClient) {
    setup.rewrite(&staff());
    setup.daemon.process().signal(Signal::HUP);
    eventually("the principal is not known any more", || async {
        thief.clone().admin.get_server_info(GetServerInfoRequest {}).await.err()
    })
    .await;
}

/// The attack: 200 calls of a principal wait, it is taken away, and then there is work.
#[tokio::test]
async fn who_is_taken_away_gets_nothing_by_calls_that_wait() {
    const PARKED: usize = 200;
    let mut setup = AuthSetup::start(&two_workers());
    let jo = setup.client("jo").await;
    let mut parked = JoinSet::new();
    let mut connections = Vec::new();
    for _ in 0..4 {
        connections.push(setup.client("thief").await);
    }
    for n in 0..PARKED {
        let mut thief = connections[n % connections.len()].clone();
        parked.spawn(async move { thief.sagas.claim_next(greedy(&format!("thief/{n}"), 60_000)).await });
    }
    eventually("all of them wait", || async { (waiting(&jo).await == PARKED as i64).then_some(()) }).await;
    take_away(&mut setup, &connections[0]).await;
    // At once: nothing may depend on when the calls learn of it.
    let mut creator = jo.clone();
    for name in ["a", "b"] {
        creator.sagas.batch_create_sagas(batch(name, 1000)).await.unwrap();
    }
    while let Some(answer) = parked.join_next().await {
        let problem = answer.unwrap().refused();
        assert_eq!((problem.reason.as_str(), problem.fact("rpc")), ("UNAUTHENTICATED", "ClaimNext"));
    }
    let mut honest = setup.client("honest").await;
    let mut got = 0;
    while got < 2000 {
        let sagas = honest.sagas.claim_next(greedy("honest", 0)).await.unwrap().into_inner().sagas;
        assert!(!sagas.is_empty(), "{got} of 2000 are for others");
        got += sagas.len();
    }
    assert_eq!(waiting(&jo).await, 0);
}

/// The same by sessions: each call that waits is refused, then the stream ends.
#[tokio::test]
async fn who_is_taken_away_gets_nothing_by_sessions() {
    const PARKED: usize = 50;
    let mut setup = AuthSetup::start(&two_workers());
    let (jo, thief) = (setup.client("jo").await, setup.client("thief").await);
    let mut sessions = Vec::new();
    for n in 0..4 {
        let mut client = if n == 0 { thief.clone() } else { setup.client("thief").await };
        let mut session = Session::over(async |items| client.sagas.session(items).await).await.unwrap();
        for call in 0..PARKED {
            session.send(Call::ClaimNext(greedy(&format!("thief/{n}-{call}"), 60_000))).await;
        }
        sessions.push(session);
    }
    eventually("all of them wait", || async { (waiting(&jo).await == 4 * PARKED as i64).then_some(()) }).await;
    take_away(&mut setup, &thief).await;
    let mut creator = jo.clone();
    for (n, session) in sessions.iter_mut().enumerate() {
        // The first end though nothing happens that calls wait for.
        if n == 2 {
            creator.sagas.batch_create_sagas(batch("a", 1000)).await.unwrap();
        }
        let mut answered = 0;
        let end = loop {
            match session.try_next().await {
                Ok(answer) => {
                    let problem = answer.expect("it does not end well").1.refused();
                    assert_eq!((problem.reason.as_str(), problem.fact("rpc")), ("UNAUTHENTICATED", "ClaimNext"));
                    answered += 1;
                }
                Err(status) => break status,
            }
        };
        let end = Problem::of(&end);
        assert_eq!((end.reason.as_str(), end.fact("rpc"), answered), ("UNAUTHENTICATED", "Session", PARKED));
    }
    assert_eq!(waiting(&jo).await, 0);
    let ready = creator.sagas.get_stats(GetStatsRequest {}).await.unwrap().into_inner().ready;
    assert_eq!(ready, 1000, "none was given to it");
}

/// The same while work comes in all the time and an honest worker waits beside the thief: from the moment at which a new call
/// of the thief is refused, none of its old ones is given anything.
#[tokio::test]
async fn there_is_no_moment_between_the_refusal_of_new_calls_and_the_end_of_old_ones() {
    let mut setup = AuthSetup::start(&two_workers());
    let (thief, jo) = (setup.client("thief").await, setup.client("jo").await);
    let honest = setup.client("honest").await;
    let stolen = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let mut workers = JoinSet::new();
    for n in 0..20 {
        let (mut thief, stolen) = (thief.clone(), stolen.clone());
        workers.spawn(async move {
            let one = ClaimNextRequest { max_sagas: 1, ..greedy(&format!("thief/{n}"), 60_000) };
            loop {
                match thief.sagas.claim_next(one.clone()).await {
                    Ok(answer) => stolen.lock().extend(answer.into_inner().sagas.into_iter().map(|saga| saga.revision)),
                    Err(status) => break assert_eq!(status.code(), Code::Unauthenticated, "{status:?}"),
                }
            }
        });
        let mut honest = honest.clone();
        workers.spawn(async move {
            let one = ClaimNextRequest { max_sagas: 1, ..greedy(&format!("honest/{n}"), 2_000) };
            while !honest.sagas.claim_next(one.clone()).await.unwrap().into_inner().sagas.is_empty() {}
        });
    }
    let mut creator = jo.clone();
    let creating = tokio::spawn(async move {
        for n in 0..150 {
            creator.sagas.batch_create_sagas(batch(&format!("w{n}"), 10)).await.unwrap();
        }
    });
    eventually("the thief gets something as long as it may", || async { (!stolen.lock().is_empty()).then_some(()) })
        .await;
    take_away(&mut setup, &thief).await;
    // A change that was asked for once a new call was refused: whatever is given to the thief must be older. (What was given
    // before may be on its way to the disk still.)
    let request = CreateSagaRequest { queue: "other".into(), ..create("mark") };
    let mark = jo.clone().sagas.create_saga(request).await.unwrap().into_inner().saga.unwrap().revision;
    creating.await.unwrap();
    while let Some(done) = workers.join_next().await {
        done.unwrap();
    }
    let newest = stolen.lock().iter().copied().max();
    assert!(newest.is_some_and(|newest| newest < mark), "given at {newest:?}, behind {mark}");
}

/// Calls that began while their caller was known, and whose requests arrive behind the revocation: a change, a claim, a read.
#[tokio::test]
async fn a_request_that_arrives_behind_the_revocation_is_refused() {
    let mut setup = AuthSetup::start(&two_workers());
    let (thief, jo) = (setup.client("thief").await, setup.client("jo").await);
    jo.clone().sagas.create_saga(CreateSagaRequest { queue: "q".into(), ..create("t") }).await.unwrap();
    let channel = setup.daemon.channel().await;
    let create = CreateSagaRequest { queue: "q".into(), ..create("mine") }.encode_to_vec();
    let get = GetSagaRequest { task_id: "t".into(), ..Default::default() }.encode_to_vec();
    let mut calls = Vec::new();
    for (rpc, message) in [
        ("CreateSaga", create),
        ("Claim", claim("t", "thief").encode_to_vec()),
        ("ClaimNext", greedy("thief", 0).encode_to_vec()),
        ("GetSaga", get),
        ("ListSagas", Vec::new()),
    ] {
        let (sender, messages) = futures::channel::mpsc::channel(1);
        let mut request = Request::new(messages);
        request.metadata_mut().insert("authorization", format!("Bearer {}", token("thief")).parse().unwrap());
        let mut client = Grpc::new(channel.clone());
        let call = tokio::spawn(async move {
            client.ready().await.unwrap();
            let path = format!("/sagad.v1.SagaService/{rpc}").parse().unwrap();
            client.client_streaming(request, path, super::raw::Bytes).await.map(drop)
        });
        calls.push((rpc, sender, message, call));
    }
    // Their headers have arrived when a later call on the same connection is answered.
    let mut later = TokenClient::new(channel, Some(&token("thief")));
    later.admin.get_server_info(GetServerInfoRequest {}).await.unwrap();
    take_away(&mut setup, &thief).await;
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
async fn reflection_ends_with_its_caller() {
    let mut setup = AuthSetup::start(&two_workers());
    let thief = setup.client("thief").await;
    let channel = setup.daemon.channel().await;
    let mut reflection = ServerReflectionClient::with_interceptor(channel, Bearer(Some(token("thief"))));
    let (mut questions, stream) = futures::channel::mpsc::channel(1);
    let question = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let asked = futures::SinkExt::send(&mut questions, question.clone());
    let (_, answers) = tokio::join!(asked, reflection.server_reflection_info(stream));
    let mut answers = answers.unwrap().into_inner();
    answers.message().await.unwrap().expect("an answer");
    take_away(&mut setup, &thief).await;
    let _ = futures::SinkExt::send(&mut questions, question).await;
    let end = tokio::time::timeout(Duration::from_secs(10), answers.message()).await.expect("it ends soon");
    assert!(!matches!(end, Ok(Some(_))), "{end:?}");
}

/// Who runs out, by `not_after`, is given nothing from that very moment on, and not when the file is looked at next.
#[tokio::test]
async fn who_runs_out_gets_nothing_from_that_moment_on() {
    let end = utc() + Duration::from_secs(3);
    let end: chrono::DateTime<chrono::Utc> = (std::time::SystemTime::UNIX_EPOCH + end).into();
    let stamp = end.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    let thief = format!("{}not_after = {stamp}\n", entry("thief", "['worker']", "['q']"));
    let setup = AuthSetup::start(&[thief, staff()].concat());
    let jo = setup.client("jo").await;
    let mut parked = JoinSet::new();
    for n in 0..20 {
        let mut thief = setup.client("thief").await;
        parked.spawn(async move { thief.sagas.claim_next(greedy(&format!("thief/{n}"), 60_000)).await });
    }
    eventually("all of them wait", || async { (waiting(&jo).await == 20).then_some(()) }).await;
    let left = Duration::from_micros(end.timestamp_micros().unsigned_abs()).saturating_sub(utc());
    tokio::time::sleep(left + Duration::from_millis(5)).await;
    jo.clone().sagas.batch_create_sagas(batch("late", 100)).await.unwrap();
    while let Some(answer) = parked.join_next().await {
        let answer: Result<_, Status> = answer.unwrap();
        assert_eq!(answer.reason(), "UNAUTHENTICATED");
    }
}

/// What the thief holds of each sort, revoked: the sagas are stale at once, by whoever's policy they go on, and nothing that the
/// holder reports counts any more.
#[tokio::test]
async fn what_a_principal_holds_is_stale_at_once() {
    let mut setup = AuthSetup::start(&two_workers());
    let (thief, mut honest, jo) = (setup.client("thief").await, setup.client("honest").await, setup.client("jo").await);
    let policy = |on_stale: StaleAction| Some(Policy { on_stale: on_stale.into(), ..Default::default() });
    let planned = [
        ("held", "thief", StaleAction::Hold),
        ("again", "thief/host-7", StaleAction::Requeue),
        ("undone", "thief/", StaleAction::Compensate),
        ("another", "honest", StaleAction::Hold),
    ];
    for (task_id, owner, action) in planned {
        let request =
            CreateSagaRequest { queue: "q".into(), policy: policy(action), ..crate::support::held(task_id, &["k"]) };
        jo.clone().sagas.create_saga(request).await.unwrap();
        let mut client = if owner == "honest" { honest.clone() } else { thief.clone() };
        client.sagas.claim(claim(task_id, owner)).await.unwrap();
    }
    let stale = jo.clone().sagas.watch_stale(WatchStaleRequest::default()).await.unwrap();
    let mut stale = stale.into_inner();
    let mut watched = thief.clone().sagas.watch_events(WatchEventsRequest::default()).await.unwrap().into_inner();
    let mut parked = thief.clone();
    let parked = tokio::spawn(async move { parked.sagas.claim_next(greedy("thief/1", 60_000)).await });
    eventually("it waits", || async { (waiting(&jo).await == 1).then_some(()) }).await;
    let revoke = |validate_only| RevokePrincipalRequest {
        principal: "thief".into(),
        actor: "ops".into(),
        reason: "the token leaked".into(),
        validate_only,
        ..Default::default()
    };
    let counted = jo.clone().admin.revoke_principal(revoke(true)).await.unwrap().into_inner();
    assert_eq!((counted.revoked_leases, counted.more, counted.known), (3, false, true));
    let revoked = jo.clone().admin.revoke_principal(revoke(false)).await.unwrap().into_inner();
    assert_eq!((revoked.revoked_leases, revoked.more, revoked.known), (3, false, true));
    // Its calls and streams ended, and it may make new ones: the file still has it.
    assert_eq!(parked.await.unwrap().reason(), "UNAUTHENTICATED");
    loop {
        match watched.message().await {
            Ok(item) => drop(item.expect("it ends with an error")),
            Err(status) => break assert_eq!(status.code(), Code::Unauthenticated),
        }
    }
    thief.clone().admin.get_server_info(GetServerInfoRequest {}).await.unwrap();
    let get = async |task_id: &str| {
        let request = GetSagaRequest { task_id: task_id.into(), ..Default::default() };
        jo.clone().sagas.get_saga(request).await.unwrap().into_inner().saga.unwrap()
    };
    let (held, again, undone) = (get("held").await, get("again").await, get("undone").await);
    assert_eq!((held.state(), held.stale, held.expirations), (SagaState::Running, true, 1));
    assert_eq!(held.lease.as_ref().unwrap().standing(), LeaseStanding::EndedByOther);
    assert_eq!((again.state(), again.stale), (SagaState::Planned, false));
    assert_eq!((undone.state(), undone.stale), (SagaState::Compensating, false));
    assert!(!get("another").await.stale, "nobody else is hit");
    // The history has who did it, why, and what it was.
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
    // Whoever has the very lease can't report under it, though a lease that ran out could.
    let (owner_id, token) = ("thief".to_owned(), held.lease.unwrap().fencing_token);
    let complete = |token| CompleteRequest {
        task_id: "held".into(),
        owner_id: owner_id.clone(),
        fencing_token: token,
        ..Default::default()
    };
    assert_eq!(thief.clone().sagas.complete(complete(token)).await.reason(), "LEASE_SUPERSEDED");
    // A decision applies, by its token; and another can take it.
    honest.sagas.claim(claim("held", "honest")).await.unwrap();
    // Again: there is nothing left.
    let revoked = jo.clone().admin.revoke_principal(revoke(false)).await.unwrap().into_inner();
    assert_eq!((revoked.revoked_leases, revoked.more), (0, false));
    take_away(&mut setup, &thief).await;
    let revoked = jo.clone().admin.revoke_principal(revoke(false)).await.unwrap().into_inner();
    assert_eq!((revoked.revoked_leases, revoked.known), (0, false));
    setup.daemon.restart(crate::support::daemon::ShutdownSignal::Kill).await;
    let mut jo = setup.client("jo").await;
    let request = GetSagaRequest { task_id: "held".into(), ..Default::default() };
    let found = jo.sagas.get_saga(request).await.unwrap().into_inner().saga.unwrap();
    assert_eq!(found.lease.unwrap().owner_id, "honest");
}

/// A thousand leases of one that is not known any more: bounded steps, others' heartbeats in between, and `more` until there
/// are none.
#[tokio::test]
async fn many_leases_end_in_steps_and_doctor_tells_of_them() {
    let mut setup = AuthSetup::start(&two_workers());
    let (thief, jo) = (setup.client("thief").await, setup.client("jo").await);
    jo.clone().sagas.batch_create_sagas(batch("a", 1000)).await.unwrap();
    for n in 0..10 {
        let taken = thief.clone().sagas.claim_next(greedy(&format!("thief/{n}"), 0)).await.unwrap().into_inner();
        assert_eq!(taken.sagas.len(), 100);
    }
    take_away(&mut setup, &thief).await;
    let vitals = GetVitalsRequest { look_for_unknown_holders: true };
    let told = jo.clone().admin.get_vitals(vitals).await.unwrap().into_inner().unknown_holders;
    assert_eq!(told, [UnknownHolder { principal: "thief".into(), leases: 1000 }]);
    let quiet = jo.clone().admin.get_vitals(GetVitalsRequest::default()).await.unwrap().into_inner();
    assert_eq!(quiet.unknown_holders, [], "unless it is asked for");
    let doctor = sagad(&setup, &["doctor", "--check", "unknown-holders"]);
    assert!(doctor.contains("1000 live leases of thief") && doctor.contains("sagad revoke thief"), "{doctor}");
    let said = sagad(&setup, &["revoke", "thief", "--reason", "it leaked", "--max", "300"]);
    assert_eq!(said, "revoked 300 leases of thief, and there are more\n");
    let said = sagad(&setup, &["revoke", "thief", "--reason", "it leaked", "--dry-run"]);
    assert_eq!(said, "would revoke 700 leases of thief\n");
    let said = sagad(&setup, &["revoke", "thief", "--reason", "it leaked", "-o", "json"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&said).unwrap()["revokedLeases"], "700", "{said}");
    assert!(sagad(&setup, &["doctor", "--check", "unknown-holders"]).contains("nothing is wrong"));
    let stats = jo.clone().sagas.get_stats(GetStatsRequest {}).await.unwrap().into_inner();
    assert_eq!(stats.queues[0].stale, 1000);
    let log = setup.daemon.log();
    assert_eq!(log.matches("revoked a principal's leases").count(), 2, "a line each, and none for each lease");
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

/// Names of which one could act for the other are refused wherever the file is read: by `config check`, at the start, and anew,
/// when what was in force stays.
#[tokio::test]
async fn a_principal_that_could_act_for_another_is_refused() {
    for (second, about) in [
        ("honest/sub", "line 11: principal 3: name: `honest` could act for `honest/sub`"),
        ("sagad", "line 11: principal 3: name: `sagad` is the coordinator's own"),
        ("sagad/retention", "line 11: principal 3: name: `sagad` is the coordinator's own"),
    ] {
        let mut setup = AuthSetup::start(&staff());
        let wrong = [staff(), entry(second, "['worker']", "['q']")].concat();
        assert_eq!(wrong.lines().nth(10), Some(format!("name = \"{second}\"").as_str()));
        setup.rewrite(&wrong);
        setup.daemon.process().signal(Signal::HUP);
        eventually("it is told", || async { setup.daemon.log().contains(about).then_some(()) }).await;
        let newcomer = setup.client(second).await.admin.get_server_info(GetServerInfoRequest {}).await;
        assert_eq!(newcomer.reason(), "UNAUTHENTICATED", "{second}");
        setup.client("honest").await.admin.get_server_info(GetServerInfoRequest {}).await.unwrap();
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
    assert!(token.stdout.is_empty(), "no token is made");
}

#[allow(clippy::disallowed_methods, reason = "a test says when somebody's time is over")]
fn utc() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap()
}
