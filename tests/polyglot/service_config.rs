//! `proto/service_config.json`, which says what gRPC libraries retry: its content, and that the libraries follow it.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use prost::Message;
use prost_types::FileDescriptorSet;
use serde_json::Value;
use tonic::Code;

use crate::{
    languages::{Language, Role},
    program::Program,
    support::{
        eventually,
        fake_coordinator::{FakeCoordinator, refusal_for_now},
    },
};

/// Longer than the test: a worker that heeds this delay does not retry within the test, so any retry is the library's.
const RETRY_DELAY: Duration = Duration::from_secs(600);

/// A worker whose coordinator refuses each claim with a retry delay.
async fn refused(
    language: &'static Language,
    code: Code,
    reason: &'static str,
) -> (Program, std::sync::Arc<FakeCoordinator>) {
    let claim_next = Box::new(move |_, _: &_| Err(refusal_for_now(code, reason, RETRY_DELAY)));
    let (client, fake) = FakeCoordinator { claim_next, ..FakeCoordinator::default() }.start().await;
    let mut command = language.command(Role::Worker);
    command.env("SAGAD_SERVER", client.server()).env("SAGAD_OWNER", "w").env("SAGAD_TTL", "30");
    (Program::start(format!("{} worker `w`", language.name), command), fake)
}

/// Asserts that the language's library follows the config: it retries `UNAVAILABLE` a few times, and nothing else.
pub async fn is_heeded(language: &'static Language) {
    let (_worker, fake) = refused(language, Code::Unavailable, "SHUTTING_DOWN").await;
    eventually("the library tries again", || async { (fake.calls_received().len() >= 4).then_some(()) }).await;
    let (_worker, other) = refused(language, Code::ResourceExhausted, "OVERLOADED").await;
    eventually("it asks", || async { (!other.calls_received().is_empty()).then_some(()) }).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(other.calls_received().len(), 1, "nothing else is repeated");
    assert_eq!(fake.calls_received().len(), 4, "the number of retries is limited");
}

fn config() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/service_config.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The entry of each name, `service` or `service/method`.
fn methods(config: &Value) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for entry in config["methodConfig"].as_array().unwrap() {
        for name in entry["name"].as_array().unwrap() {
            let service = name["service"].as_str().unwrap();
            let key = name["method"].as_str().map_or(service.to_owned(), |method| format!("{service}/{method}"));
            assert!(all.insert(key, entry.clone()).is_none(), "{name} has two entries");
        }
    }
    all
}

#[test]
fn unary_calls_are_retried_on_unavailable_alone_and_streams_never() {
    let config = config();
    let methods = methods(&config);
    let set = FileDescriptorSet::decode(sagad::proto::DESCRIPTORS).unwrap();
    let services = set.file.iter().filter(|file| file.package() == "sagad.v1").flat_map(|file| &file.service);
    let mut known = vec!["grpc.health.v1.Health/Check".to_owned()];
    for service in services {
        let name = format!("sagad.v1.{}", service.name());
        known.push(name.clone());
        for method in &service.method {
            let own = format!("{name}/{}", method.name());
            let said = methods.get(&own).unwrap_or_else(|| &methods[&name]);
            known.push(own.clone());
            if method.client_streaming() || method.server_streaming() {
                assert_eq!((said.get("retryPolicy"), said.get("timeout")), (None, None), "{own}");
                continue;
            }
            let policy = &said["retryPolicy"];
            assert_eq!(policy["retryableStatusCodes"], serde_json::json!(["UNAVAILABLE"]), "{own}");
            let tries = policy["maxAttempts"].as_u64().unwrap();
            assert!((2..=5).contains(&tries), "{own}: libraries make at most 5 attempts");
            // A claim may wait for a minute, so its timeout must be longer.
            let timeout: u64 = said["timeout"].as_str().unwrap().strip_suffix('s').unwrap().parse().unwrap();
            assert_eq!(timeout > 60, ["ClaimNext", "PurgeSagas", "RevokePrincipal"].contains(&method.name()), "{own}");
        }
    }
    for name in methods.keys() {
        assert!(known.contains(name), "{name} is not in the contract");
    }
    let throttling = &config["retryThrottling"];
    assert!(throttling["maxTokens"].as_u64().unwrap() > 0 && throttling["tokenRatio"].as_f64().unwrap() > 0.0);
}
