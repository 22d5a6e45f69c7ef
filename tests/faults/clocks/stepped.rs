//! Steps of the wall clock while the daemon runs, and while it is down.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use sagad::proto::{admin_service_client::AdminServiceClient, *};

use super::{claim, claimed, expiry_time, history};
use crate::{
    disk::requests::{annotate, get, heartbeat},
    support::{self, Launch, Sagas, micros, needs, reason},
};

const HOUR: i64 = 3600 * 1_000_000;

/// The library that `faketime` preloads.
fn library() -> PathBuf {
    let found = fs::read_dir("/usr/lib").unwrap().filter_map(Result::ok);
    let mut found = found.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1")).filter(|path| path.is_file());
    found.next().expect("faketime is installed with its library")
}

/// A daemon whose wall clock differs from the machine's by the offset in a file.
fn launch(library: &Path, data: &Path, offset: &Path) -> Launch {
    Launch::on(data)
        .arg("--restart-grace=1s")
        .env("LD_PRELOAD", library.to_str().unwrap())
        .env("FAKETIME_TIMESTAMP_FILE", offset.to_str().unwrap())
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
}

/// The daemon's clock: its time, and the offset from the wall clock.
async fn clock(sagas: std::net::SocketAddr) -> (i64, i64) {
    let mut admin = AdminServiceClient::new(support::channel(sagas).await.unwrap());
    let info = admin.get_server_info(GetServerInfoRequest {}).await.unwrap().into_inner();
    let offset = info.clock_offset.unwrap();
    (micros(info.current_time.as_ref()), offset.seconds * 1_000_000 + i64::from(offset.nanos) / 1000)
}

/// A lease of a second without heartbeats expires after a second, and one with heartbeats does not.
async fn leases_keep_their_length(sagas: &mut Sagas, name: &str) {
    let short = format!("short-{name}");
    let long = format!("long-{name}");
    let renewed = claimed(sagas, &long, 1500).await;
    let saga = claimed(sagas, &short, 1000).await;
    let acquired = micros(saga.lease.unwrap().acquire_time.as_ref());
    let begun = support::now();
    while begun.elapsed() < Duration::from_secs(3) {
        heartbeat(sagas, &renewed).await.expect("a renewed lease does not expire");
        if begun.elapsed() < Duration::from_millis(800) {
            let status = claim(sagas, &short, "other", 1000).await.expect_err("the lease is still valid");
            assert_eq!(reason(&status), "LEASE_HELD", "{name}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let after = expiry_time(sagas, &short).await.expect("a lease without heartbeats expires") - acquired;
    assert!((1_000_000..2_500_000).contains(&after), "{name}: the lease of 1 s expired after {after} µs");
    assert_eq!(expiry_time(sagas, &long).await, None, "{name}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p6_a_step_of_the_wall_clock_changes_no_lease() {
    needs!("faketime");
    let library = library();
    let directory = tempfile::tempdir().unwrap();
    let offset = directory.path().join("offset");
    fs::write(&offset, "+0").unwrap();
    let mut daemon = launch(&library, &directory.path().join("data"), &offset).start();
    let address = daemon.address();
    let mut sagas = support::sagas(address).await;
    let held = claimed(&mut sagas, "held", 60_000).await;
    let (begun, from_utc) = clock(address).await;
    assert!(from_utc.abs() < HOUR / 60, "at the start the clock is UTC's: {from_utc}");
    let real = support::now();
    for (step, name, expected) in [("+3600", "ahead", -HOUR), ("-3600", "back", HOUR), ("+0", "right", 0)] {
        annotate(&mut sagas, "held", "noted").await.unwrap();
        fs::write(&offset, step).unwrap();
        let (_, from_utc) = clock(address).await;
        assert!((from_utc.abs() - expected.abs()).abs() < HOUR / 60, "the daemon sees the step {name}: {from_utc}");
        annotate(&mut sagas, "held", "noted").await.unwrap();
        leases_keep_their_length(&mut sagas, name).await;
        let status = claim(&mut sagas, "held", "other", 1000).await.expect_err("the lease is still valid");
        assert_eq!(reason(&status), "LEASE_HELD", "{name}");
    }
    // The daemon's clock advanced as much as the test's.
    let gone = clock(address).await.0 - begun;
    let ours = real.elapsed().as_micros() as i64;
    assert!((gone - ours).abs() < 1_000_000, "{gone} µs went by on its clock, {ours} on ours");
    let times: Vec<_> = history(&mut sagas, "held").await.iter().map(|e| micros(e.time.as_ref())).collect();
    assert!(times.is_sorted(), "times went back: {times:?}");
    assert!(times.last().unwrap() - times[0] < HOUR / 2, "times jumped: {times:?}");
    heartbeat(&mut sagas, &held).await.unwrap();
    daemon.terminate().await;
    support::check(&directory.path().join("data"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p6_time_continues_after_a_restart_with_the_wall_clock_set_back() {
    needs!("faketime");
    let library = library();
    for killed in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let (offset, data) = (directory.path().join("offset"), directory.path().join("data"));
        fs::write(&offset, "+0").unwrap();
        let mut daemon = launch(&library, &data, &offset).start();
        let address = daemon.address();
        let mut sagas = support::sagas(address).await;
        let held = claimed(&mut sagas, "held", 20_000).await;
        let before = annotate(&mut sagas, "held", "noted").await.unwrap();
        let last = micros(before.update_time.as_ref());
        if killed {
            daemon.kill().await
        } else {
            drop(daemon.terminate().await)
        }

        fs::write(&offset, "-86400").unwrap();
        let mut daemon = launch(&library, &data, &offset).start();
        let address = daemon.address();
        let mut sagas = support::sagas(address).await;
        let (now, from_utc) = clock(address).await;
        assert!(now >= last, "time went back by {} µs", last - now);
        assert!(now - last < HOUR / 60, "time continues from the last stored time: {} µs", now - last);
        assert!(from_utc.abs() > 23 * HOUR, "the daemon sees the wall clock a day back: {from_utc}");
        let status = claim(&mut sagas, "held", "other", 1000).await.expect_err("the lease is still valid");
        assert_eq!(reason(&status), "LEASE_HELD");
        assert_eq!(
            get(&mut sagas, "held").await.unwrap().lease.unwrap().expire_time,
            held.lease.clone().unwrap().expire_time
        );
        heartbeat(&mut sagas, &held).await.expect("the lease is still valid");
        leases_keep_their_length(&mut sagas, "a-day-back").await;
        annotate(&mut sagas, "held", "noted").await.unwrap();
        daemon.terminate().await;
        // `sagad check` compares the event times of all sagas.
        support::check(&data);
    }
}
