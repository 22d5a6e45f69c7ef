//! The operators' listener: probes, and its behaviour with slow and many clients.

use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use super::watched_daemon::{WatchedDaemon, ask, get};
use crate::support::{Daemon, Launch, daemon::connect, eventually, now};

#[tokio::test(flavor = "multi_thread")]
async fn probes_report_live_and_ready() {
    let watched = WatchedDaemon::start(&[]).await;
    for path in ["/livez", "/readyz", "/livez?verbose", "/readyz?verbose"] {
        let page = watched.get(path);
        assert_eq!((page.status, page.kind.as_str()), (200, "text/plain; charset=utf-8"), "{path}: {page:?}");
    }
    assert_eq!(watched.get("/readyz").text, "ok\n");
    assert_eq!(watched.get("/readyz?verbose").text.matches("[+] ").count(), 4);
    assert_eq!(watched.get("/secrets").status, 404);
    assert_eq!(
        ask(watched.ops, "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").status,
        405
    );
    let long = format!("X: {}\r\n", "x".repeat(100_000));
    let refused = std::panic::catch_unwind(|| get(watched.ops, "/livez", &long).status);
    assert!(refused.is_err() || refused.is_ok_and(|status| status == 431), "a request head without end is not read");
    // Kubernetes probes use gRPC without TLS.
    for service in ["", "sagad.v1.SagaService"] {
        let mut health = HealthClient::new(connect(watched.ops).await);
        let request = HealthCheckRequest { service: service.into() };
        assert_eq!(health.check(request).await.unwrap().into_inner().status(), ServingStatus::Serving);
    }
    let mut sagas = sagad::proto::saga_service_client::SagaServiceClient::new(connect(watched.ops).await);
    let refused = sagas.get_stats(sagad::proto::GetStatsRequest {}).await;
    assert!(refused.is_err(), "no other service is served there");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_listener_is_off_by_default() {
    let daemon = Daemon::start().terminate().await;
    assert!(!daemon.contains("serving metrics and probes"), "{daemon}");
    let empty = Daemon::start_with(&["--ops-listen", ""]).terminate().await;
    assert!(!empty.contains("serving metrics and probes"), "{empty}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use_is_reported_with_its_setting() {
    let watched = WatchedDaemon::start(&[]).await;
    let dir = tempfile::tempdir().unwrap();
    let mut second = Launch::on(dir.path()).args(&["--ops-listen", &watched.ops.to_string()]).spawn();
    let (status, log) = second.end().await;
    assert_eq!(status.code(), Some(1));
    assert!(log.contains(&watched.ops.to_string()) && log.contains("--ops-listen"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_silent_and_slow_peers_delay_no_other_answer() {
    let watched = WatchedDaemon::start(&[]).await;
    let mut peers: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(watched.ops).unwrap()).collect();
    for (n, peer) in peers.iter_mut().enumerate() {
        let said: &[u8] = match n % 3 {
            0 => b"",
            1 => b"GET /met",
            _ => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        };
        // Some were closed for newer ones already.
        let _ = peer.write_all(said);
    }
    for _ in 0..20 {
        assert_eq!(watched.get("/readyz").status, 200);
        assert_eq!(watched.get("/metrics").status, 200);
    }
    let open = watched.metrics().value("process_open_fds").unwrap();
    assert!(open < 210.0, "{open} descriptors are open");
}

/// The answer of a probe.
fn probe(ops: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(ops)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_probes_are_answered_under_a_flood_of_connections() {
    let watched = WatchedDaemon::start(&[]).await;
    let ops = watched.ops;
    let over = Arc::new(AtomicBool::new(false));
    // Partial requests from the probes' address. Each connection is kept open until there are many newer ones.
    let floods: Vec<_> = (0..2)
        .map(|_| {
            let over = over.clone();
            thread::spawn(move || {
                let (mut held, mut opened) = (VecDeque::new(), 0);
                while !over.load(Relaxed) {
                    let Ok(mut stream) = TcpStream::connect(ops) else { continue };
                    let _ = stream.write_all(b"GET /livez HT");
                    held.push_back(stream);
                    opened += 1;
                    if held.len() > 300 {
                        held.pop_front();
                    }
                }
                opened
            })
        })
        .collect();
    let begun = now();
    let (mut wrong, mut slowest) = (Vec::new(), Duration::ZERO);
    for _ in 0..300 {
        let one = now();
        match probe(ops) {
            Ok(answer) if answer.starts_with("HTTP/1.1 200") => {}
            other => wrong.push(format!("{other:?}")),
        }
        slowest = slowest.max(one.elapsed());
    }
    over.store(true, Relaxed);
    let opened: usize = floods.into_iter().map(|flood| flood.join().unwrap()).sum();
    println!("300 probes in {:?} among {opened} connections, the slowest after {slowest:?}", begun.elapsed());
    assert!(wrong.is_empty(), "{} of 300 probes got no answer: {}", wrong.len(), wrong[0]);
    assert!(opened > 1000, "too few connections for a flood");
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_ends_at_once_on_shutdown_and_the_listener_closes_last() {
    let mut watched = WatchedDaemon::start(&["--drain-grace", "8s"]).await;
    // A peer that never closes, so that shutdown takes the second that is allowed for it.
    let mut stubborn = TcpStream::connect(watched.daemon.address()).unwrap();
    stubborn.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    eventually("it is served", || async {
        (watched.metrics().value("sagad_connections_open") == Some(1.0)).then_some(())
    })
    .await;
    watched.daemon.tell_to_end();
    let begun = now();
    let page = loop {
        let page = watched.get("/readyz");
        if page.status != 200 {
            break page;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "readiness does not end");
        thread::sleep(Duration::from_millis(5));
    };
    assert_eq!((page.status, page.text.as_str()), (503, "the daemon is ending\n"));
    assert!(watched.get("/readyz?verbose").text.contains("[-] the daemon is ending"));
    assert_eq!(watched.get("/livez").status, 200, "it is no reason to restart it");
    let (status, log) = watched.daemon.process().end().await;
    assert_eq!(status.code(), Some(0), "{log}");
}
