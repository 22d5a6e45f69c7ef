//! Requests: huge, half, slow, and never whole.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::atomic::Ordering::Relaxed,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use tokio::time::timeout;
use tonic::{Code, Status, body::Body};
use tonic_types::StatusExt;
use tower::Service;

use super::{raw::*, siege::Siege, sized};
use crate::support::*;

const MIB: usize = 1 << 20;

/// A piece of a message, and then nothing, without an end.
struct Half(Option<Bytes>);

impl HttpBody for Half {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.0.take() {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            None => Poll::Pending,
        }
    }
}

/// How the daemon begins to answer a call whose request is this piece.
async fn begin(api: &Api, path: &str, piece: &[u8]) -> Result<http::Response<Body>, Status> {
    let request = http::Request::post(format!("http://daemon{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(Half(Some(Bytes::copy_from_slice(piece)))))
        .unwrap();
    let mut channel = api.channel.clone();
    let failed = |error: tonic::transport::Error| Status::unknown(error.to_string());
    poll_fn(|cx| channel.poll_ready(cx)).await.map_err(failed)?;
    timeout(WAIT_MAX, channel.call(request)).await.expect("it is answered").map_err(failed)
}

/// What it says to such a call.
async fn half_a_call(api: &Api, path: &str, piece: &[u8]) -> Result<Status, Status> {
    let response = begin(api, path, piece).await?;
    Ok(Status::from_header_map(response.headers()).expect("it is refused"))
}

/// The end of an answer, if it comes within a second and a half.
async fn end_of(answer: http::Response<Body>) -> Option<Status> {
    let mut body = answer.into_body();
    let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
    let frame = timeout(Duration::from_millis(1500), frame).await.ok()?.unwrap().unwrap();
    Status::from_header_map(frame.trailers_ref().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_a_request_that_does_not_arrive_is_given_up() {
    let siege = Siege::begin("requests that never end", &["--request-timeout", "500ms"]).await;
    let api = siege.daemon.api().await;
    let begun = now();
    for (what, piece) in [("nothing", &b""[..]), ("a prefix", &[0, 0, 0, 0, 9]), ("all but the end", &[0, 0, 0, 0, 0])]
    {
        let told = half_a_call(&api, STATS, piece).await.unwrap();
        let details = told.get_error_details();
        assert_eq!(
            (told.code(), &*details.error_info().unwrap().reason),
            (Code::DeadlineExceeded, "DEADLINE_EXCEEDED")
        );
        assert!(told.message().contains("request_timeout") && told.message().contains("500ms"), "{what}: {told:?}");
    }
    assert!(begun.elapsed() >= Duration::from_millis(1500), "each had its time");
    // A stream may say nothing between its items, and its items have to be whole in time.
    let stream = "/sagad.v1.SagaService/KeepAlive";
    let silent = end_of(begin(&api, stream, b"").await.unwrap()).await;
    assert!(silent.is_none(), "{silent:?}");
    let half = end_of(begin(&api, stream, &[0, 0, 0, 0, 9, 1]).await.unwrap()).await;
    assert_eq!(half.map(|told| told.code()), Some(Code::DeadlineExceeded));
    drop(api);
    siege.end(96).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_slow_requests_hold_nothing_for_long() {
    let siege = Siege::begin("a byte at a time", &["--request-timeout", "1s"]).await;
    let mut peers = Vec::new();
    for _ in 0..sized(20, 200) {
        let mut raw = Raw::connect(siege.daemon.address()).await.unwrap().reading();
        for _ in 0..20 {
            raw.begin(STATS).await.unwrap();
        }
        peers.push(raw);
    }
    // It is never whole: that would be another reason to refuse it.
    for byte in &message(&[0x0a; 200])[..10] {
        for raw in &mut peers {
            for stream in 0..20 {
                let _ = raw.send(&frame(DATA, 0, stream * 2 + 1, &[*byte])).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    eventually("all are given up", || async {
        peers.iter().all(|raw| raw.seen.headers.load(Relaxed) >= 20).then_some(())
    })
    .await;
    drop(peers);
    siege.end(128).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_halves_of_large_requests_share_a_bounded_room() {
    let siege = Siege::begin("3 MiB of 4", &["--max-call-bytes", "64MiB"]).await;
    let mut peers = Vec::new();
    let connections = sized(100, 1000);
    for _ in 0..connections {
        let mut raw = Raw::connect(siege.daemon.address()).await.unwrap().reading();
        let stream = raw.begin(BATCH).await.unwrap();
        raw.send(&frame(DATA, 0, stream, &[0, 0, 63, 255, 255])).await.unwrap();
        let piece = frame(DATA, 0, stream, &[0; 16 << 10]);
        peers.push(tokio::spawn(async move {
            let mut sent = 5;
            while sent < 3 * MIB && !raw.is_over() && raw.seen.headers.load(Relaxed) == 0 {
                // Beyond the window the daemon would be right to end the connection.
                if raw.seen.window.load(Relaxed) + 65_535 < sent as u64 + (16 << 10) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                } else if raw.send(&piece).await.is_ok() {
                    sent += 16 << 10;
                }
            }
            raw
        }));
    }
    let mut held = Vec::new();
    for peer in peers {
        held.push(peer.await.unwrap());
    }
    siege.hold(2).await;
    let told = held.iter().filter(|raw| raw.seen.headers.load(Relaxed) > 0).count();
    println!("{told} of {connections} were told that there is no room");
    assert!(told * 3 > connections, "{told} of {connections}");
    drop(held);
    // 64 MiB, and what the allocator keeps of it.
    siege.end(224).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_messages_at_and_over_the_limit() {
    let siege = Siege::begin("messages of 4 MiB", &[]).await;
    // What is too large is refused as soon as it is announced; what is not is waited for.
    let announced = |length: usize| [&[0][..], &(length as u32).to_be_bytes()].concat();
    let api = siege.daemon.api().await;
    let told = half_a_call(&api, BATCH, &announced(4 * MIB + 1)).await.unwrap();
    assert_eq!(
        (told.code(), &*told.get_error_details().error_info().unwrap().reason),
        (Code::InvalidArgument, "INVALID_ARGUMENT")
    );
    assert!(told.message().contains("too large"), "{told:?}");
    let allowed = announced(4 * MIB);
    let waits = timeout(Duration::from_millis(300), half_a_call(&api, BATCH, &allowed)).await;
    assert!(waits.is_err(), "{waits:?}");
    drop(api);
    let mut calls = tokio::task::JoinSet::new();
    for place in 0..sized(40, 400) {
        let api = siege.daemon.api().await;
        calls.spawn(async move {
            // One as large as allowed, which is too large for a batch; one a byte larger.
            let length = 4 * MIB + usize::from(place % 2 == 0);
            let mut whole = message(&vec![0x0a; length]);
            whole.truncate(5 + length);
            half_a_call(&api, BATCH, &whole).await
        });
    }
    // Whoever is still sending when it is refused may see its stream reset instead.
    let told: Vec<Status> = calls.join_all().await.into_iter().flatten().collect();
    assert!(!told.is_empty());
    for told in told {
        assert!([Code::InvalidArgument, Code::ResourceExhausted].contains(&told.code()), "{told:?}");
    }
    siege.end(sized(512, 700)).await;
}
