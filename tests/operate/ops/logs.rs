//! Log lines in both formats.

use std::collections::BTreeSet;

use sagad::{
    domain::characters::{all_unprintable, is_unprintable},
    proto::{session_request::Call, *},
};
use serde_json::Value;

use crate::support::{Daemon, Key, claim, create, key, session::Session};

const PAYLOAD: &str = "secret-payload";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// The log, at the level trace, of a daemon after a call of each kind: accepted, refused by the rules, refused by a layer,
/// malformed, a stream with items, and a decision.
async fn log(format: &str) -> String {
    let mut daemon =
        Daemon::start_with(&["--log", "sagad=debug", "--log-format", format, "--ops-listen", "127.0.0.1:0"]);
    let api = daemon.api().await;
    let mut request = tonic::Request::new(CreateSagaRequest { payload: PAYLOAD.into(), ..create("t-1") });
    request.metadata_mut().insert("traceparent", format!("00-{TRACE}-b7ad6b7169203331-01").parse().unwrap());
    api.sagas.clone().create_saga(request).await.unwrap();
    let saga = api.claim(claim("t-1", "w", 60_000)).await.unwrap();
    assert!(api.claim(claim("t-1", "x", 60_000)).await.is_err());
    assert!(api.claim(claim("", "x", 60_000)).await.is_err());
    api.heartbeat(key(&saga).heartbeat()).await.unwrap();
    api.get("t-1").await;
    api.sagas
        .clone()
        .keep_alive(futures::stream::iter([key(&saga).keep_alive()]))
        .await
        .unwrap()
        .into_inner()
        .message()
        .await
        .unwrap();
    let mut session = Session::open(&api).await;
    session.call(Call::RegisterCompensation(key(&saga).register(&["k"]))).await.unwrap();
    let unknown = Key { fencing_token: 1 << 50, ..key(&saga) };
    session.call(Call::Complete(unknown.complete())).await.unwrap_err();
    drop(session);
    let park = QuarantineRequest {
        task_id: "t-1".into(),
        actor: "ann".into(),
        reason: "it hangs".into(),
        revoke_lease: true,
        ..Default::default()
    };
    api.quarantine(park).await.unwrap();
    let mut unknown = tonic::client::Grpc::new(api.channel.clone());
    unknown.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/sagad.v1.SagaService/NoSuchCall");
    let codec = tonic_prost::ProstCodec::<GetStatsRequest, GetStatsResponse>::default();
    assert!(unknown.unary(tonic::Request::new(GetStatsRequest {}), path, codec).await.is_err());
    drop((api, unknown));
    let log = daemon.terminate().await;
    assert!(!log.contains(PAYLOAD), "a payload is in the log");
    log
}

#[tokio::test(flavor = "multi_thread")]
async fn the_json_log_has_one_object_per_line_and_one_line_per_call() {
    let log = log("json").await;
    let lines: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect();
    let text = |line: &Value, field: &str| line[field].as_str().unwrap_or_default().to_owned();
    let calls: Vec<&Value> = lines.iter().filter(|line| line["target"] == "sagad::calls").collect();
    let seen: Vec<_> = calls.iter().map(|c| (text(c, "rpc"), text(c, "code"), text(c, "task_id"))).collect();
    for (rpc, code, task_id) in [
        ("CreateSaga", "OK", "t-1"),
        ("Claim", "OK", "t-1"),
        ("Claim", "FAILED_PRECONDITION", "t-1"),
        ("Claim", "INVALID_ARGUMENT", ""),
        ("Heartbeat", "OK", "t-1"),
        ("GetSaga", "OK", "t-1"),
        ("RegisterCompensation", "OK", "t-1"),
        ("Complete", "ABORTED", "t-1"),
        ("Quarantine", "OK", "t-1"),
        ("NoSuchCall", "UNIMPLEMENTED", ""),
    ] {
        let wanted = (format!("sagad.v1.SagaService/{rpc}"), code.to_owned(), task_id.to_owned());
        assert_eq!(seen.iter().filter(|call| **call == wanted).count(), 1, "{wanted:?} in {seen:#?}");
    }
    for stream in ["/KeepAlive", "/Session"] {
        assert!(seen.iter().any(|(rpc, _, _)| rpc.ends_with(stream)), "{seen:#?}");
    }
    for call in &calls {
        assert!(call["micros"].as_i64().is_some_and(|micros| micros >= 0), "{call}");
        assert!(call["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{call}");
        assert_eq!(call["level"], "DEBUG");
    }
    let traces: BTreeSet<_> = calls.iter().filter(|c| c.get("trace_id").is_some()).map(|c| text(c, "rpc")).collect();
    assert_eq!(traces, BTreeSet::from(["sagad.v1.SagaService/CreateSaga".to_owned()]));
    assert!(calls.iter().any(|call| call["trace_id"] == TRACE));
    let of = |message: &str| lines.iter().filter(|line| line["message"] == message).collect::<Vec<_>>();
    let decided = of("decided");
    assert_eq!(decided.len(), 1);
    assert_eq!(
        (&decided[0]["actor"], &decided[0]["task_id"], &decided[0]["level"]),
        (&"ann".into(), &"t-1".into(), &"INFO".into())
    );
    assert!(of("refused").iter().any(|line| line["task_id"] == "t-1" && line["level"] == "INFO"), "{log}");
    assert_eq!(of("item").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_text_log_has_the_same_content() {
    let log = log("text").await;
    for wanted in [
        "rpc=\"sagad.v1.SagaService/CreateSaga\" code=\"OK\" task_id=\"t-1\"",
        "rpc=\"sagad.v1.SagaService/NoSuchCall\" code=\"UNIMPLEMENTED\"",
        "decided rpc=\"Quarantine\" task_id=\"t-1\" actor=\"ann\"",
        &format!("trace_id=\"{TRACE}\""),
    ] {
        assert_eq!(log.matches(wanted).count(), 1, "{wanted} in\n{log}");
    }
    assert!(log.lines().all(|line| line.starts_with("20") && line.contains('Z')), "a line of another form in\n{log}");
}

/// Callers' texts are quoted and escaped in the log.
#[tokio::test(flavor = "multi_thread")]
async fn callers_texts_are_escaped_in_both_log_formats() {
    // All but the thousands of plane 14, in ten refusals: as many of a kind are logged at once.
    let all: Vec<char> = all_unprintable().take_while(|c| *c < '\u{e0000}').collect();
    let some = all.len().div_ceil(10);
    for format in ["text", "json"] {
        let mut daemon = Daemon::start_with(&["--log", "sagad=debug", "--log-format", format]);
        let api = daemon.api().await;
        // A short label name is logged completely. Each of these is refused because of its end.
        for some in all.chunks(some) {
            let key: String = some.iter().chain(&['\0']).collect();
            let labels = [(key, String::new())].into();
            assert!(api.create_saga(CreateSagaRequest { labels, ..create("t") }).await.is_err());
        }
        drop(api);
        let log = daemon.terminate().await;
        let bad = log.chars().find(|c| *c != '\n' && is_unprintable(*c));
        assert_eq!(bad, None, "{format}");
        assert_eq!(log.matches("refused").count(), 10, "each is logged in one line: {log}");
        for line in log.lines() {
            assert!(line.starts_with("20") || serde_json::from_str::<Value>(line).is_ok(), "{line}");
        }
        let shown = if format == "json" { ["\\u009b", "\\u202e"] } else { ["\\u{9b}", "\\u{202e}"] };
        assert!(shown.iter().all(|shown| log.contains(shown)), "{format}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_info_only_decisions_and_refusals_are_logged() {
    let mut daemon = Daemon::start();
    let api = daemon.api().await;
    api.running("t-1", "w").await;
    assert!(api.claim(claim("t-1", "x", 60_000)).await.is_err());
    drop(api);
    let log = daemon.terminate().await;
    assert!(!log.contains("CreateSaga") && log.matches("refused").count() == 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_a_flood_of_refusals_logs_a_few_lines_of_each_reason() {
    let mut daemon = Daemon::start();
    let api = daemon.api().await;
    api.running("t-1", "w").await;
    for _ in 0..200 {
        assert!(api.claim(claim("t-1", "x", 60_000)).await.is_err());
        assert!(api.claim(claim("", "x", 60_000)).await.is_err());
    }
    assert!(api.claim(claim("missing", "x", 60_000)).await.is_err());
    drop(api);
    let log = daemon.terminate().await;
    // Ten in ten seconds; on a busy machine the test takes longer than ten seconds.
    for reason in ["LEASE_HELD", "INVALID_ARGUMENT"] {
        assert!((10..=60).contains(&log.matches(reason).count()), "{reason}: {log}");
    }
    assert_eq!(log.matches("SAGA_NOT_FOUND").count(), 1, "the others don't hide it: {log}");
}
