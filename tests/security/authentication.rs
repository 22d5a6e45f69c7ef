//! What counts as a principal, and what is open.

use prost::Message;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_request::MessageRequest};

use crate::{
    people::{House, entry, everyone, hash, token},
    raw,
    support::{Daemon, Problem},
};

const INFO: &str = "/sagad.v1.AdminService/GetServerInfo";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

fn list() -> Vec<u8> {
    let message_request = Some(MessageRequest::ListServices(String::new()));
    ServerReflectionRequest { host: String::new(), message_request }.encode_to_vec()
}

#[tokio::test]
async fn only_a_token_of_the_table_is_somebody() {
    let house = House::start(&everyone());
    let channel = house.daemon.channel().await;
    let right = token("reader");
    let flipped = format!("{}B", &right[..right.len() - 1]);
    for good in [format!("Bearer {right}"), format!("bearer {right}")] {
        raw::call(&channel, INFO, false, Vec::new(), &[&good]).await.unwrap();
    }
    let mut told = Vec::new();
    for bad in [
        format!("Bearer {flipped}"),
        format!("Bearer {}", &right[..right.len() - 1]),
        format!("Bearer {right}A"),
        format!("Basic {right}"),
        right.clone(),
        // The hash is no token: who reads the file can't call.
        format!("Bearer {}", hash(&right)),
        "Bearer".to_owned(),
        String::new(),
    ] {
        let problem = Problem::of(&raw::call(&channel, INFO, false, Vec::new(), &[&bad]).await.unwrap_err());
        assert_eq!(problem.reason, "UNAUTHENTICATED", "{bad}");
        told.push(problem);
    }
    let header = format!("Bearer {right}");
    let twice = raw::call(&channel, INFO, false, Vec::new(), &[&header, &header]).await.unwrap_err();
    told.push(Problem::of(&twice));
    assert!(told.iter().all(|problem| *problem == told[0]), "which part was wrong is not said");
}

#[tokio::test]
async fn health_is_open_and_reflection_for_those_who_are_known() {
    let house = House::start(&everyone());
    let channel = house.daemon.channel().await;
    let asking = HealthCheckRequest { service: String::new() };
    assert_eq!(HealthClient::new(channel.clone()).check(asking).await.unwrap().into_inner().status, 1);
    let answer = raw::call(&channel, REFLECTION, true, list(), &[]).await;
    assert_eq!(Problem::of(&answer.unwrap_err()).reason, "UNAUTHENTICATED");
    let header = format!("Bearer {}", token("a"));
    raw::call(&channel, REFLECTION, true, list(), &[&header]).await.unwrap();
}

#[tokio::test]
async fn reflection_can_be_switched_off() {
    for (args, code) in [(&["--reflection=false"][..], Some(Code::Unimplemented)), (&[], None)] {
        let daemon = Daemon::start_with(args);
        let answer = raw::call(&daemon.channel().await, REFLECTION, true, list(), &[]).await;
        assert_eq!(answer.err().map(|status| status.code()), code);
        raw::call(&daemon.channel().await, INFO, false, Vec::new(), &[]).await.unwrap();
    }
}

#[tokio::test]
async fn who_has_run_out_is_refused() {
    let over = format!("{}not_after = 2020-01-01T00:00:00Z\n", entry("over", "['admin']", ""));
    let on = format!("{}not_after = 2100-01-01T00:00:00Z\n", entry("on", "['admin']", ""));
    let house = House::start(&format!("{over}{on}"));
    let channel = house.daemon.channel().await;
    let header = |name: &str| format!("Bearer {}", token(name));
    raw::call(&channel, INFO, false, Vec::new(), &[&header("on")]).await.unwrap();
    let answer = raw::call(&channel, INFO, false, Vec::new(), &[&header("over")]).await;
    assert_eq!(Problem::of(&answer.unwrap_err()).reason, "UNAUTHENTICATED");
}

#[tokio::test]
async fn without_principals_everyone_may_do_everything() {
    let daemon = Daemon::start();
    let channel = daemon.channel().await;
    raw::call(&channel, INFO, false, Vec::new(), &[]).await.unwrap();
    raw::call(&channel, INFO, false, Vec::new(), &["Bearer whatever"]).await.unwrap();
}
