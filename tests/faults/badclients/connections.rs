//! Connections: ten thousand of them, silent and idle ones, and no descriptors left.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, prlimit, setrlimit};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{measure::Share, raw::*, siege::Siege};
use crate::support::*;

/// Raises this process's own limit as far as it goes; returns it.
fn raise() -> usize {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    limit.maximum.map_or(usize::MAX, |limit| limit as usize)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_ten_thousand_connections() {
    const WANTED: usize = 10_000;
    let wanted = WANTED.min(raise().saturating_sub(500));
    if wanted < WANTED {
        tools::skip(&format!("only {wanted} connections instead of {WANTED}: the hard limit on open files is too low"));
    }
    // None of them makes a call.
    let siege = Siege::begin("10,000 idle connections", &["--auth-timeout", "10m"]).await;
    let before = siege.gauge.memory();
    let mut idle = Vec::with_capacity(wanted);
    while idle.len() < wanted {
        idle.push(Raw::connect(siege.daemon.address()).await.unwrap());
    }
    siege.hold(2).await;
    eventually("all have been accepted", || async { (siege.gauge.descriptors() >= wanted).then_some(()) }).await;
    let each = (siege.gauge.memory() - before) as f64 / wanted as f64;
    let share = Share::begin(siege.gauge);
    tokio::time::sleep(Duration::from_secs(1)).await;
    println!("{wanted} idle connections: {each:.1} KiB each, {:.2} cores", share.so_far());
    siege.hold(2).await;
    drop(idle);
    siege.end(384).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_silent_and_half_open_connections_give_their_places_back() {
    raise();
    // Only for want of a preface: no call would close them much later.
    let settings = ["--max-connections", "1500", "--preface-timeout", "1s", "--auth-timeout", "1h"];
    let siege = Siege::begin("2,000 silent connections", &settings).await;
    let mut silent = Vec::new();
    for place in 0..2000 {
        // More than there are places for: the well-behaved newcomers wait for theirs among them.
        let mut stream = TcpStream::connect(siege.daemon.address()).await.unwrap();
        if place % 2 == 0 {
            stream.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
        }
        silent.push(stream);
    }
    siege.hold(2).await;
    eventually("their places are free", || async { (siege.gauge.descriptors() < 100).then_some(()) }).await;
    drop(silent);
    siege.end(128).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_without_descriptors_those_who_are_in_are_served() {
    let mut siege = Siege::begin("no descriptors left", &[]).await;
    let pid = siege.daemon.process().pid();
    let limit = getrlimit(Resource::Nofile);
    // The well-behaved client's newcomers have none either: they wait in the backlog, and those who are in go on.
    let keeper = siege.daemon.api().await;
    let saga = keeper.running("kept-through", "w").await;
    let open = siege.gauge.descriptors() as u64;
    prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(open + 20), maximum: limit.maximum }).unwrap();
    let mut peers = Vec::new();
    for _ in 0..200 {
        peers.push(TcpStream::connect(siege.daemon.address()).await.unwrap());
    }
    eventually("none is left", || async { (siege.gauge.descriptors() as u64 >= open + 20).then_some(()) }).await;
    let share = Share::begin(siege.gauge);
    let begun = now();
    while begun.elapsed() < Duration::from_secs(2) {
        keeper.heartbeat(key(&saga).heartbeat()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let share = share.so_far();
    println!("no descriptors left: {share:.2} cores");
    assert!(share < 0.5, "it does not spin: {share:.2} cores");
    prlimit(Some(pid), Resource::Nofile, limit).unwrap();
    keeper.complete(key(&saga).complete()).await.unwrap();
    drop((peers, keeper));
    siege.end(128).await;
}
