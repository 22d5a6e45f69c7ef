//! Headers: too many, too long, endless, and calls without a body.

use std::sync::atomic::Ordering::Relaxed;

use sagad::proto::GetStatsRequest;

use super::{floods::flood, measured_attack::MeasuredAttack, raw_connection::*, sized};
use crate::support::*;

/// Sends endless header blocks over four connections, which the daemon must end. The fields are valid: an invalid one would end
/// the connection anyway.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_endless_continuation_frames_end_the_connection() {
    let value_without_end = [&[0, 1, b'x', 0x7f][..], &[0xff, 0xff, 0xff, 0x7f], &[b'v'; 16 << 10][..16_376]].concat();
    let attacks: [(_, Vec<u8>, Vec<u8>); 3] = [
        ("nothing", Vec::new(), Vec::new()),
        ("fields", Vec::new(), field(("x", "y"))),
        ("a value", value_without_end, vec![b'v'; 16 << 10]),
    ];
    for (what, first, next) in attacks {
        let attack = MeasuredAttack::begin("CONTINUATION without end", &[]).await;
        let (sent, ended) = flood(attack.daemon.address(), sized(4, 16), true, move |raw| match raw.stream() {
            1 => [frame(HEADERS, 0, 1, &block(STATS, &[])), frame(CONTINUATION, 0, 1, &first)].concat(),
            _ => frame(CONTINUATION, 0, 1, &next),
        })
        .await;
        println!("{what}: {sent} frames, {ended} connections ended");
        attack.end(128).await;
        assert!(ended > 0, "the daemon ends such connections: {what}");
    }
}

/// Header lists larger than allowed (8 KiB), in otherwise valid calls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_oversized_header_lists_are_refused() {
    let attack = MeasuredAttack::begin("long lists of headers", &[]).await;
    let api = attack.daemon.api().await;
    for (fields, refused) in [(50, false), (100, true)] {
        let mut request = tonic::Request::new(GetStatsRequest {});
        for i in 0..fields {
            let name = format!("x-{i}").parse::<tonic::metadata::AsciiMetadataKey>().unwrap();
            request.metadata_mut().insert(name, "v".repeat(100).parse().unwrap());
        }
        let told = api.sagas.clone().get_stats(request).await;
        let because = told.as_ref().err().map(|told| told.message().contains("431"));
        assert_eq!(because, refused.then_some(true), "{fields}: {told:?}");
    }
    drop(api);
    let more: Vec<_> = (0..200).map(|i| (format!("x-{i}"), "v".repeat(100))).collect();
    let long = block(STATS, &more);
    assert!(long.len() > 16 << 10);
    let (first, rest) = long.split_at(16 << 10);
    let (first, rest) = (first.to_vec(), rest.to_vec());
    let (sent, _) = flood(attack.daemon.address(), sized(4, 16), true, move |raw| {
        let stream = raw.stream();
        [frame(HEADERS, END_STREAM, stream, &first), frame(CONTINUATION, END_HEADERS, stream, &rest)].concat()
    })
    .await;
    assert!(sent > 0);
    attack.end(160).await;
}

/// Calls of which only the headers arrive: more than the daemon's limit. The oldest must be ended for newer ones, and all of
/// them after the timeout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_calls_without_a_request_body_are_bounded() {
    let calls = sized("4000", "32768");
    let attack =
        MeasuredAttack::begin("calls without requests", &["--max-calls", calls, "--request-timeout", "2s"]).await;
    let mut peers = Vec::new();
    let more: Vec<_> = (0..50).map(|i| (format!("x-{i}"), "v".repeat(100))).collect();
    let header = block(STATS, &more);
    // 7 KiB on the wire, and three times that in memory; with a header table it could be a few bytes on the wire.
    for _ in 0..sized(10, 100) {
        let mut raw = RawConnection::connect(attack.daemon.address()).await.unwrap().reading();
        for _ in 0..1000 {
            let stream = raw.stream();
            let _ = raw.send(&frame(HEADERS, END_HEADERS, stream, &header)).await;
        }
        peers.push(raw);
    }
    attack.hold(2).await;
    // Each is refused: no room, or timed out.
    eventually("all are given up", || async {
        let told: u64 = peers.iter().map(|raw| raw.seen.headers.load(Relaxed)).sum();
        (told >= sized(10_000, 100_000)).then_some(())
    })
    .await;
    drop(peers);
    // Headers that are not read are released before the call ends.
    attack.end(sized(160, 900)).await;
}

/// More streams than one connection may have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_streams_beyond_the_limit_are_refused() {
    let attack = MeasuredAttack::begin("streams beyond the bound", &["--max-concurrent-streams", "100"]).await;
    let mut raw = RawConnection::connect(attack.daemon.address()).await.unwrap().reading();
    for _ in 0..150 {
        raw.begin(STATS).await.unwrap();
    }
    eventually("fifty are refused", || async { (raw.seen.resets.load(Relaxed) == 50).then_some(()) }).await;
    assert_eq!(raw.seen.headers.load(Relaxed), 0, "the other streams are still open");
    drop(raw);
    attack.end(96).await;
}

/// As many small calls at once as one connection may have are no flood of tiny frames.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_the_allowed_number_of_small_calls_is_not_taken_for_a_flood() {
    let attack = MeasuredAttack::begin("1,024 calls at once", &["--max-concurrent-streams", "1024"]).await;
    let mut raw = RawConnection::connect(attack.daemon.address()).await.unwrap().reading();
    raw.send(&wide_open()).await.unwrap();
    for round in 1..=5 {
        let mut frames = Vec::new();
        for _ in 0..1024 {
            let stream = raw.stream();
            frames.extend(frame(HEADERS, END_HEADERS, stream, &block(STATS, &[])));
            frames.extend(frame(DATA, END_STREAM, stream, &message(&[])));
        }
        raw.send(&frames).await.unwrap();
        // Two HEADERS frames for each answer: the headers and the trailers.
        eventually("all are answered", || async {
            assert!(!raw.seen.goaway.load(Relaxed), "ended: {}", raw.seen.goaway_code.load(Relaxed));
            (raw.seen.headers.load(Relaxed) >= round * 2 * 1024).then_some(())
        })
        .await;
    }
    drop(raw);
    attack.end(128).await;
}

/// Streams of other services than the contract's have a separate limit of 48. Health watches may have an eighth of it, which is
/// six, and each connection four. Of the six, callers that have made no other call get four.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_health_watches_and_reflection_are_bounded() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_client::ServerReflectionClient};
    let attack = MeasuredAttack::begin("health watches", &["--max-watches", "48"]).await;
    let (api, other) = (attack.daemon.api().await, attack.daemon.api().await);
    let mut watches = Vec::new();
    for (api, allowed) in [(&api, 4), (&other, 0)] {
        let mut health = HealthClient::new(api.channel.clone());
        for _ in 0..allowed {
            watches.push(health.watch(HealthCheckRequest::default()).await.unwrap());
        }
        for _ in 0..3 {
            assert_eq!(health.watch(HealthCheckRequest::default()).await.reason(), "OVERLOADED");
        }
        health.check(HealthCheckRequest::default()).await.unwrap();
    }
    // The rest of the limit is for reflection.
    let mut reflection = ServerReflectionClient::new(api.channel.clone());
    let mut streams = Vec::new();
    for _ in 0..48 {
        streams.push(
            reflection.server_reflection_info(futures::stream::pending::<ServerReflectionRequest>()).await.unwrap(),
        );
    }
    let one_more = reflection.server_reflection_info(futures::stream::pending::<ServerReflectionRequest>()).await;
    assert_eq!(one_more.reason(), "OVERLOADED");
    api.sagas.clone().get_stats(GetStatsRequest {}).await.unwrap();
    watches.pop();
    let mut health = HealthClient::new(other.channel.clone());
    eventually("a stream is free", || async { health.clone().watch(HealthCheckRequest::default()).await.ok() }).await;
    health.check(HealthCheckRequest::default()).await.unwrap();
    drop((watches, streams, health, reflection, api, other));
    attack.end(96).await;
}
