//! Connections: ten thousand, silent and idle ones, and no file descriptors left.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, prlimit, setrlimit};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{measured_attack::MeasuredAttack, raw_connection::*};
use crate::support::{process_usage::CpuShare, *};

/// Raises this process's limit of open files to its maximum; returns it.
fn raise_file_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    limit.maximum.map_or(usize::MAX, |limit| limit as usize)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_ten_thousand_idle_connections_take_bounded_memory() {
    const WANTED: usize = 10_000;
    let wanted = WANTED.min(raise_file_limit().saturating_sub(500));
    if wanted < WANTED {
        tools::skip(&format!("only {wanted} connections instead of {WANTED}: the hard limit on open files is too low"));
    }
    // None of them makes a call.
    let attack = MeasuredAttack::begin("10,000 idle connections", &["--auth-timeout", "10m"]).await;
    let before = attack.usage.memory();
    let mut idle = Vec::with_capacity(wanted);
    while idle.len() < wanted {
        idle.push(RawConnection::connect(attack.daemon.address()).await.unwrap());
    }
    attack.hold(2).await;
    eventually("all have been accepted", || async { (attack.usage.descriptors() >= wanted).then_some(()) }).await;
    let each = (attack.usage.memory() - before) as f64 / wanted as f64;
    let share = CpuShare::begin(attack.usage);
    tokio::time::sleep(Duration::from_secs(1)).await;
    println!("{wanted} idle connections: {each:.1} KiB each, {:.2} cores", share.so_far());
    attack.hold(2).await;
    drop(idle);
    attack.end(384).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_silent_and_half_open_connections_are_closed_after_the_timeout() {
    raise_file_limit();
    // Closed because of the preface timeout: the timeout for the first call is much longer.
    let settings = ["--max-connections", "1500", "--preface-timeout", "1s", "--auth-timeout", "1h"];
    let attack = MeasuredAttack::begin("2,000 silent connections", &settings).await;
    let mut silent = Vec::new();
    for place in 0..2000 {
        // More than are allowed: new connections of the well-behaved client wait among them.
        let mut stream = TcpStream::connect(attack.daemon.address()).await.unwrap();
        if place % 2 == 0 {
            stream.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
        }
        silent.push(stream);
    }
    attack.hold(2).await;
    eventually("their places are free", || async { (attack.usage.descriptors() < 100).then_some(()) }).await;
    drop(silent);
    attack.end(128).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_without_file_descriptors_open_connections_are_served() {
    let mut attack = MeasuredAttack::begin("no descriptors left", &[]).await;
    let pid = attack.daemon.process().pid();
    let limit = getrlimit(Resource::Nofile);
    // New connections of the well-behaved client wait in the backlog, and open ones are served.
    let keeper = attack.daemon.api().await;
    let saga = keeper.running("kept-through", "w").await;
    let open = attack.usage.descriptors() as u64;
    prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(open + 20), maximum: limit.maximum }).unwrap();
    let mut peers = Vec::new();
    for _ in 0..200 {
        peers.push(TcpStream::connect(attack.daemon.address()).await.unwrap());
    }
    eventually("none is left", || async { (attack.usage.descriptors() as u64 >= open + 20).then_some(()) }).await;
    let share = CpuShare::begin(attack.usage);
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
    attack.end(128).await;
}
