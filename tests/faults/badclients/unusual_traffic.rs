//! Unusual traffic: connections split into tiny packets, malformed trace headers, floods of TLS handshakes, long certificate
//! chains.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::HeaderValue;
use sagad::proto::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tonic::body::Body;
use tower::Service;

use super::{lockout, measured_attack::MeasuredAttack, raw_connection::*, sized};
use crate::support::{pki::Ca, process_usage::ProcessUsage, *};

/// A proxy that passes on what it reads in packets of these lengths in turn.
async fn proxy(daemon: SocketAddr, lengths: &'static [usize]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(daemon).await.unwrap();
            client.set_nodelay(true).unwrap();
            server.set_nodelay(true).unwrap();
            let ((mut from, mut back), (mut answers, mut to)) = (client.into_split(), server.into_split());
            tokio::spawn(async move { copy_in_pieces(&mut from, &mut to, lengths).await });
            tokio::spawn(async move { copy_in_pieces(&mut answers, &mut back, lengths).await });
        }
    });
    address
}

async fn copy_in_pieces(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    lengths: &[usize],
) {
    let (mut buffer, mut turn) = ([0; 4096], lengths.iter().cycle());
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(rest.len().min(*turn.next().unwrap()));
            rest = more;
            if to.write_all(piece).await.is_err() {
                return;
            }
            // The next piece is another packet, and often another read of the daemon.
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_requests_split_into_tiny_packets_are_answered() {
    let attack = MeasuredAttack::begin("a proxy that splits everything", &[]).await;
    for (name, lengths) in [("bytes", &[1][..]), ("odd", &[9, 1, 24, 2, 5, 1, 1, 13, 3])] {
        let through = proxy(attack.daemon.address(), lengths).await;
        let api = Api::new(daemon::connect(through).await);
        let id = format!("split-{name}");
        let payload: bytes::Bytes = vec![7; 20_000].into();
        api.create_saga(CreateSagaRequest { payload: payload.clone(), ..create(&id) }).await.unwrap();
        let key = key(&api.claim(claim(&id, "w", 60_000)).await.unwrap());
        let (send, items) = tokio::sync::mpsc::channel(1);
        let stream = tokio_stream::wrappers::ReceiverStream::new(items);
        let mut answers = api.sagas.clone().keep_alive(stream).await.unwrap().into_inner();
        for _ in 0..5 {
            send.send(key.keep_alive()).await.unwrap();
            assert_eq!(answers.message().await.unwrap().unwrap().code, 0);
        }
        assert_eq!(api.get(&id).await.payload, payload);
        api.complete(key.complete()).await.unwrap();
    }
    attack.end(96).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_malformed_trace_headers_are_ignored() {
    // There is no collector; each call would send a trace.
    let attack =
        MeasuredAttack::begin("odd traces", &["--otlp-endpoint", "http://127.0.0.1:9", "--trace-sample", "1"]).await;
    let api = attack.daemon.api().await;
    let id = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";
    let long = "k=v,".repeat(1500);
    let odd: Vec<(&str, Vec<u8>)> = vec![
        ("traceparent", format!("00-{id}-01").into_bytes()),
        ("traceparent", Vec::new()),
        ("traceparent", b"-".repeat(2000)),
        ("traceparent", vec![0xff; 55]),
        ("traceparent", format!("00-{id}-\u{2028}").into_bytes()),
        ("traceparent", format!("cc-{id}-01-{}", "more-".repeat(1000)).into_bytes()),
        ("traceparent", format!("00-{}-01", id.to_uppercase()).into_bytes()),
        ("tracestate", long.clone().into_bytes()),
        ("tracestate", b",,,=,;".to_vec()),
        ("tracestate", vec![0xc3, 0x28]),
        ("baggage", long.into_bytes()),
        ("baggage", b"k=%ff%00;p=1,=,,".to_vec()),
        ("baggage", vec![0x80; 1000]),
    ];
    for (name, value) in &odd {
        for times in [1, 3] {
            let mut request = http::Request::post(format!("http://daemon{STATS}"))
                .header("content-type", "application/grpc")
                .header("te", "trailers");
            // Beside a valid sampled header, so that the call has a span.
            request = request.header("traceparent", format!("00-{id}-01"));
            let whole = value.len() * times < 7000;
            for _ in 0..times {
                request = request.header(*name, HeaderValue::from_bytes(value).unwrap());
            }
            let body = Body::new(http_body_util::Full::from(message(&[])));
            let mut channel = api.channel.clone();
            std::future::poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
            let answer = timeout(WAIT_MAX, channel.call(request.body(body).unwrap())).await.expect("it is answered");
            let answer = answer.unwrap();
            let status = tonic::Status::from_header_map(answer.headers());
            // All headers together may have 8 KiB.
            assert!(!whole || (answer.status() == 200 && status.is_none()), "{name} {times}: {status:?} {answer:?}");
        }
    }
    drop(api);
    attack.end(96).await;
}

/// Handshakes as fast as two attackers can make them. Each costs the daemon more than the attacker, and other calls are
/// answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_a_flood_of_tls_handshakes_delays_no_other_call() {
    let _alone = lockout::ALONE.lock().await;
    for port in [lockout::Transport::Tls, lockout::Transport::Mutual] {
        let target = lockout::AttackTarget::start(port);
        let (mut client, _) = target.connect_and_call([127, 0, 0, 1]).await;
        let (shaken, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let mut floods = JoinSet::new();
        for _ in 0..8 {
            let (shaken, over, tls, address) = (shaken.clone(), over.clone(), target.tls(), target.daemon.address());
            floods.spawn(async move {
                while !over.load(Relaxed) {
                    // With client certificates the handshake ends with an alert after the daemon's part.
                    drop(lockout::whole(address, &tls).await);
                    shaken.fetch_add(1, Relaxed);
                }
            });
        }
        let begun = now();
        let (mut calls, mut slowest) = (0, Duration::ZERO);
        while begun.elapsed() < sized(Duration::from_secs(2), Duration::from_secs(20)) {
            let one = now();
            timeout(Duration::from_secs(10), client.sagas.get_stats(GetStatsRequest {})).await.unwrap().unwrap();
            slowest = slowest.max(one.elapsed());
            calls += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (newcomer, took) = target.connect_and_call([127, 0, 0, 1]).await;
        over.store(true, Relaxed);
        let each = shaken.load(Relaxed) as f64 / begun.elapsed().as_secs_f64();
        println!(
            "{port:?}: {each:.0} handshakes a second; {calls} calls, the slowest {slowest:?}; a newcomer: {took:?}"
        );
        assert!(each > 20.0, "too few handshakes for a flood");
        drop((newcomer, floods));
        assert_eq!(client.sagas.get_stats(GetStatsRequest {}).await.map(drop).ok(), Some(()));
    }
}

/// Large certificates or many, not signed by a known CA: they are refused before they are verified.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_long_or_large_certificate_chains_are_refused_before_verification() {
    let _alone = lockout::ALONE.lock().await;
    let target = lockout::AttackTarget::logging(lockout::Transport::Mutual, "sagad=debug");
    target.connect_and_call([127, 0, 0, 1]).await;
    let usage = ProcessUsage::of(target.daemon.pid());
    // They have the name of the daemon's CA, so that each could be the issuer of the others.
    let others = Ca::new();
    let chain = |count: usize| -> Vec<_> { (0..count).map(|_| others.intermediate("a CA of a test", 0)).collect() };
    // RSA keys of 16 KiB take long to generate; a certificate that is refused by its size needs no real one.
    let large = vec![others.intermediate("a CA of a test", 16 << 10)];
    let cases = [
        ("one of another CA", Vec::new(), false),
        ("four", chain(4), false),
        ("a hundred", chain(100), true),
        ("16 KiB", large, true),
    ];
    for (what, chain, too_long) in cases {
        let before = target.daemon.log().matches("has too many certificates, or too large ones").count();
        let tls = target.tls_with(&others.client("operator", ""), &chain);
        let (cpu, begun) = (usage.cpu(), now());
        for _ in 0..sized(30, 300) {
            drop(lockout::whole(target.daemon.address(), &tls).await);
        }
        let refused = || target.daemon.log().matches("has too many certificates, or too large ones").count() - before;
        println!("{what}: {:?} of CPU in {:?}", usage.cpu() - cpu, begun.elapsed());
        if too_long {
            eventually("all are refused", || async { (refused() == sized(30, 300)).then_some(()) }).await;
        } else {
            assert_eq!(refused(), 0, "{what}");
        }
    }
    target.connect_and_call([127, 0, 0, 1]).await;
}
