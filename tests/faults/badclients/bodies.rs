//! Request bodies: too large, partial, slow, and never complete.

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

use super::{measured_attack::MeasuredAttack, raw_connection::*, sized};
use crate::support::*;

const MIB: usize = 1 << 20;

/// A body that sends a part of a message and never ends.
struct PartialBody(Option<Bytes>);

impl HttpBody for PartialBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.0.take() {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            None => Poll::Pending,
        }
    }
}

/// The begin of the answer to a call with a partial request.
async fn begin(api: &Api, path: &str, piece: &[u8]) -> Result<http::Response<Body>, Status> {
    let request = http::Request::post(format!("http://daemon{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(PartialBody(Some(Bytes::copy_from_slice(piece)))))
        .unwrap();
    let mut channel = api.channel.clone();
    let failed = |error: tonic::transport::Error| Status::unknown(error.to_string());
    poll_fn(|cx| channel.poll_ready(cx)).await.map_err(failed)?;
    timeout(WAIT_MAX, channel.call(request)).await.expect("it is answered").map_err(failed)
}

/// The status of such a call.
async fn partial_call(api: &Api, path: &str, piece: &[u8]) -> Result<Status, Status> {
    let response = begin(api, path, piece).await?;
    Ok(Status::from_header_map(response.headers()).expect("it is refused"))
}

/// The status at the end of an answer, if it comes within a second and a half.
async fn end_of(answer: http::Response<Body>) -> Option<Status> {
    let mut body = answer.into_body();
    let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
    let frame = timeout(Duration::from_millis(1500), frame).await.ok()?.unwrap().unwrap();
    Status::from_header_map(frame.trailers_ref().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_a_request_that_does_not_arrive_is_refused_after_the_timeout() {
    let attack = MeasuredAttack::begin("requests that never end", &["--request-timeout", "500ms"]).await;
    let api = attack.daemon.api().await;
    let begun = now();
    for (what, piece) in [("nothing", &b""[..]), ("a prefix", &[0, 0, 0, 0, 9]), ("all but the end", &[0, 0, 0, 0, 0])]
    {
        let told = partial_call(&api, STATS, piece).await.unwrap();
        let details = told.get_error_details();
        assert_eq!(
            (told.code(), &*details.error_info().unwrap().reason),
            (Code::DeadlineExceeded, "DEADLINE_EXCEEDED")
        );
        assert!(told.message().contains("request_timeout") && told.message().contains("500ms"), "{what}: {told:?}");
    }
    assert!(begun.elapsed() >= Duration::from_millis(1500), "each call was given its timeout");
    // A stream may be idle between items, but an item must be complete in time.
    let stream = "/sagad.v1.SagaService/KeepAlive";
    let silent = end_of(begin(&api, stream, b"").await.unwrap()).await;
    assert!(silent.is_none(), "{silent:?}");
    let half = end_of(begin(&api, stream, &[0, 0, 0, 0, 9, 1]).await.unwrap()).await;
    assert_eq!(half.map(|told| told.code()), Some(Code::DeadlineExceeded));
    drop(api);
    attack.end(96).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_slow_requests_are_refused_after_the_timeout() {
    let attack = MeasuredAttack::begin("a byte at a time", &["--request-timeout", "1s"]).await;
    let mut peers = Vec::new();
    for _ in 0..sized(20, 200) {
        let mut raw = RawConnection::connect(attack.daemon.address()).await.unwrap().reading();
        for _ in 0..20 {
            raw.begin(STATS).await.unwrap();
        }
        peers.push(raw);
    }
    // It is never complete, because the complete request would be refused for another reason.
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
    attack.end(128).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_partial_large_requests_share_bounded_memory() {
    let attack = MeasuredAttack::begin("3 MiB of 4", &["--max-call-bytes", "64MiB"]).await;
    let mut peers = Vec::new();
    let connections = sized(100, 1000);
    for _ in 0..connections {
        let mut raw = RawConnection::connect(attack.daemon.address()).await.unwrap().reading();
        let stream = raw.begin(BATCH).await.unwrap();
        raw.send(&frame(DATA, 0, stream, &[0, 0, 63, 255, 255])).await.unwrap();
        let piece = frame(DATA, 0, stream, &[0; 16 << 10]);
        peers.push(tokio::spawn(async move {
            let mut sent = 5;
            while sent < 3 * MIB && !raw.is_over() && raw.seen.headers.load(Relaxed) == 0 {
                // Within the window: beyond it the daemon may end the connection.
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
    attack.hold(2).await;
    let told = held.iter().filter(|raw| raw.seen.headers.load(Relaxed) > 0).count();
    println!("{told} of {connections} were refused for lack of memory");
    assert!(told * 3 > connections, "{told} of {connections}");
    drop(held);
    // 64 MiB, and what the allocator keeps of it.
    attack.end(224).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_messages_over_the_size_limit_are_refused() {
    let attack = MeasuredAttack::begin("messages of 4 MiB", &[]).await;
    // A message that is too large is refused when its length is announced; others are waited for.
    let announced = |length: usize| [&[0][..], &(length as u32).to_be_bytes()].concat();
    let api = attack.daemon.api().await;
    let told = partial_call(&api, BATCH, &announced(4 * MIB + 1)).await.unwrap();
    assert_eq!(
        (told.code(), &*told.get_error_details().error_info().unwrap().reason),
        (Code::InvalidArgument, "INVALID_ARGUMENT")
    );
    assert!(told.message().contains("too large"), "{told:?}");
    let allowed = announced(4 * MIB);
    let waits = timeout(Duration::from_millis(300), partial_call(&api, BATCH, &allowed)).await;
    assert!(waits.is_err(), "{waits:?}");
    drop(api);
    let mut calls = tokio::task::JoinSet::new();
    for place in 0..sized(40, 400) {
        let api = attack.daemon.api().await;
        calls.spawn(async move {
            // A message of the maximum size, which is too large for a batch; and one that is a byte larger.
            let length = 4 * MIB + usize::from(place % 2 == 0);
            let mut whole = message(&vec![0x0a; length]);
            whole.truncate(5 + length);
            partial_call(&api, BATCH, &whole).await
        });
    }
    // A client that is still sending may see a reset instead of the status.
    let told: Vec<Status> = calls.join_all().await.into_iter().flatten().collect();
    assert!(!told.is_empty());
    for told in told {
        assert!([Code::InvalidArgument, Code::ResourceExhausted].contains(&told.code()), "{told:?}");
    }
    attack.end(sized(512, 700)).await;
}
