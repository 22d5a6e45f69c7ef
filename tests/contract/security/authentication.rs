//! Which credentials are accepted, and which rpcs need none.

use prost::Message;
use sagad::proto::{ClaimNextRequest, GetStatsRequest};
use tonic::{Code, Streaming, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_client::HealthClient};
use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_request::MessageRequest};

use super::raw_rpc;
use crate::support::{
    Daemon, ExpectRefusal, Problem, eventually,
    principals::{AuthSetup, TokenClient, entry, everyone, hash, token},
};

const INFO: &str = "/sagad.v1.AdminService/GetServerInfo";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

fn list() -> Vec<u8> {
    let message_request = Some(MessageRequest::ListServices(String::new()));
    ServerReflectionRequest { host: String::new(), message_request }.encode_to_vec()
}

#[tokio::test]
async fn only_a_token_of_the_principals_file_is_accepted() {
    let setup = AuthSetup::start(&everyone());
    let channel = setup.daemon.channel().await;
    let right = token("reader");
    let flipped = format!("{}B", &right[..right.len() - 1]);
    for good in [format!("Bearer {right}"), format!("bearer {right}")] {
        raw_rpc::call(&channel, INFO, false, Vec::new(), &[&good]).await.unwrap();
    }
    let mut told = Vec::new();
    for bad in [
        format!("Bearer {flipped}"),
        format!("Bearer {}", &right[..right.len() - 1]),
        format!("Bearer {right}A"),
        format!("Basic {right}"),
        right.clone(),
        // The hash from the file is not accepted as a token.
        format!("Bearer {}", hash(&right)),
        "Bearer".to_owned(),
        String::new(),
    ] {
        let problem = Problem::of(&raw_rpc::call(&channel, INFO, false, Vec::new(), &[&bad]).await.unwrap_err());
        assert_eq!(problem.reason, "UNAUTHENTICATED", "{bad}");
        told.push(problem);
    }
    let header = format!("Bearer {right}");
    let twice = raw_rpc::call(&channel, INFO, false, Vec::new(), &[&header, &header]).await.unwrap_err();
    told.push(Problem::of(&twice));
    assert!(told.iter().all(|problem| *problem == told[0]), "the answer does not say which part was wrong");
}

#[tokio::test]
async fn health_needs_no_credentials_and_reflection_does() {
    let setup = AuthSetup::start(&everyone());
    let channel = setup.daemon.channel().await;
    let asking = HealthCheckRequest { service: String::new() };
    assert_eq!(HealthClient::new(channel.clone()).check(asking).await.unwrap().into_inner().status, 1);
    let answer = raw_rpc::call(&channel, REFLECTION, true, list(), &[]).await;
    assert_eq!(Problem::of(&answer.unwrap_err()).reason, "UNAUTHENTICATED");
    let header = format!("Bearer {}", token("a"));
    raw_rpc::call(&channel, REFLECTION, true, list(), &[&header]).await.unwrap();
}

#[tokio::test]
async fn reflection_can_be_switched_off() {
    for (args, code) in [(&["--reflection=false"][..], Some(Code::Unimplemented)), (&[], None)] {
        let daemon = Daemon::start_with(args);
        let answer = raw_rpc::call(&daemon.channel().await, REFLECTION, true, list(), &[]).await;
        assert_eq!(answer.err().map(|status| status.code()), code);
        raw_rpc::call(&daemon.channel().await, INFO, false, Vec::new(), &[]).await.unwrap();
    }
}

#[tokio::test]
async fn a_principal_after_its_not_after_is_refused() {
    let over = format!("{}not_after = 2020-01-01T00:00:00Z\n", entry("over", "['admin']", ""));
    let on = format!("{}not_after = 2100-01-01T00:00:00Z\n", entry("on", "['admin']", ""));
    let setup = AuthSetup::start(&format!("{over}{on}"));
    let channel = setup.daemon.channel().await;
    let header = |name: &str| format!("Bearer {}", token(name));
    raw_rpc::call(&channel, INFO, false, Vec::new(), &[&header("on")]).await.unwrap();
    let answer = raw_rpc::call(&channel, INFO, false, Vec::new(), &[&header("over")]).await;
    assert_eq!(Problem::of(&answer.unwrap_err()).reason, "UNAUTHENTICATED");
}

#[tokio::test]
async fn without_principals_every_caller_may_call_everything() {
    let daemon = Daemon::start();
    let channel = daemon.channel().await;
    raw_rpc::call(&channel, INFO, false, Vec::new(), &[]).await.unwrap();
    raw_rpc::call(&channel, INFO, false, Vec::new(), &["Bearer whatever"]).await.unwrap();
}

/// Logged refusals are limited for each caller, so that one caller's flood does not suppress the lines of others.
#[tokio::test]
async fn p10_many_refusals_of_one_caller_do_not_suppress_the_log_lines_of_others() {
    let mut setup = AuthSetup::start(&everyone());
    let claim = |queue: &str, owner: &str| ClaimNextRequest {
        queues: vec![queue.into()],
        owner_id: owner.into(),
        ..Default::default()
    };
    let (mut a, mut b) = (setup.client("a").await, setup.client("b").await);
    let (flood, other) =
        (setup.daemon.channel_from([127, 0, 0, 66]).await, setup.daemon.channel_from([127, 0, 0, 67]).await);
    for _ in 0..200 {
        assert_eq!(a.sagas.claim_next(claim("qb", "a/flood")).await.reason(), "PERMISSION_DENIED");
        raw_rpc::call(&flood, INFO, false, Vec::new(), &[]).await.unwrap_err();
    }
    assert_eq!(b.sagas.claim_next(claim("qa", "b/alone")).await.reason(), "PERMISSION_DENIED");
    raw_rpc::call(&other, INFO, false, Vec::new(), &[]).await.unwrap_err();
    drop((a, b, flood, other));
    let log = setup.daemon.terminate().await;
    let lines = |wanted: &str| log.lines().filter(|line| line.contains("refused") && line.contains(wanted)).count();
    assert_eq!((lines("b/alone"), lines("127.0.0.67")), (1, 1), "{log}");
    assert!(log.contains("caller=\"b\""), "the line names the caller: {log}");
    for flood in ["a/flood", "127.0.0.66"] {
        assert!((10..=60).contains(&lines(flood)), "{flood}: ten in ten seconds: {log}");
    }
}

/// Health watches of these tests: an eighth of `max_watches`.
const HEALTH_WATCHES: usize = 32;

/// Opens health watches on connections from an address until one is refused. Returns what is open.
async fn take_health_watches(setup: &AuthSetup, from: [u8; 4]) -> Vec<Streaming<HealthCheckResponse>> {
    let mut open = Vec::new();
    loop {
        let mut health = HealthClient::new(setup.daemon.channel_from(from).await);
        for on_it in 0..4 {
            match health.watch(HealthCheckRequest::default()).await {
                Ok(watch) => open.push(watch.into_inner()),
                Err(status) => {
                    assert_eq!(Problem::of(&status).reason, "OVERLOADED");
                    return open;
                }
            }
            assert!(open.len() <= HEALTH_WATCHES, "{on_it}");
        }
    }
}

async fn watches_health(channel: &Channel) -> Option<Streaming<HealthCheckResponse>> {
    Some(HealthClient::new(channel.clone()).watch(HealthCheckRequest::default()).await.ok()?.into_inner())
}

/// Health watches need no credentials. Each address has a share, and a part is reserved for callers with credentials.
#[tokio::test]
async fn p10_callers_without_credentials_cannot_open_all_health_watches() {
    let setup = AuthSetup::start_with(&everyone(), &["--max-watches=256"]);
    let first = take_health_watches(&setup, [127, 0, 0, 66]).await;
    assert_eq!(first.len(), 4, "an address's share is an eighth");
    let other = setup.daemon.channel_from([127, 0, 0, 67]).await;
    drop(watches_health(&other).await.expect("another address has its own share"));
    let mut taken = first;
    for last in 68..100 {
        let more = take_health_watches(&setup, [127, 0, 0, last]).await;
        taken.extend(more);
    }
    assert_eq!(taken.len(), HEALTH_WATCHES / 4 * 3, "a quarter is reserved");
    // A caller with credentials gets one, even from an address whose share is used up.
    let known = setup.daemon.channel_from([127, 0, 0, 66]).await;
    assert!(watches_health(&known).await.is_none());
    TokenClient::new(known.clone(), Some(&token("operator"))).sagas.get_stats(GetStatsRequest {}).await.unwrap();
    let watch = watches_health(&known).await.expect("it has credentials");
    // A closed watch no longer counts.
    drop((watch, taken));
    eventually("there is room again", || async { watches_health(&other).await }).await;
}

/// Once three quarters are open, a principal that has an eighth gets no more.
#[tokio::test]
async fn p10_one_principal_cannot_open_all_health_watches() {
    let setup = AuthSetup::start_with(&everyone(), &["--max-watches=256"]);
    let mut taken = Vec::new();
    for _ in 0..HEALTH_WATCHES / 4 {
        let channel = setup.daemon.channel().await;
        TokenClient::new(channel.clone(), Some(&token("operator"))).sagas.get_stats(GetStatsRequest {}).await.unwrap();
        for _ in 0..4 {
            taken.extend(watches_health(&channel).await);
        }
    }
    assert_eq!(taken.len(), HEALTH_WATCHES / 4 * 3);
    let channel = setup.daemon.channel().await;
    let mut reader = TokenClient::new(channel.clone(), Some(&token("reader")));
    reader.sagas.get_stats(GetStatsRequest {}).await.unwrap();
    watches_health(&channel).await.expect("another principal gets one");
}
