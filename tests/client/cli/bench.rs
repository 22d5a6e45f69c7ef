//! `sagad bench`: every mode in a short run, on its own daemon and on a named one; and its cleanup.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::cli_fixture::{CliFixture, sagad, signal};
use crate::support::{binary::CommandOutput, until};

/// Each mode with the rpcs that it times.
const MODES: &[(&str, &[&str])] = &[
    ("cycle", &["Claim", "Complete", "Heartbeat"]),
    ("create", &["CreateSaga"]),
    ("claim", &["Claim"]),
    ("claim-next", &["ClaimNext"]),
    ("heartbeat", &["Heartbeat"]),
    ("keepalive", &["KeepAlive"]),
    ("session", &["Claim", "Complete", "Heartbeat"]),
    ("watch", &["WatchEvents"]),
    ("echo", &["Check"]),
];
const SHORT: &str = "--duration 300ms --warmup 50ms --clients 4 --connections 2";

/// Runs it; returns the report, which must be one object with plausible figures, and nothing on stderr.
fn reported(command: Command, what: &str) -> Value {
    let ran = CommandOutput::of(command);
    // It warns if the temporary directory is in memory.
    let told: Vec<&str> = ran.err.lines().filter(|line| !line.contains("in memory")).collect();
    assert_eq!((ran.code, told.as_slice()), (0, &[][..]), "{what}\n{}", ran.out);
    assert_eq!(ran.out.lines().count(), 1, "{what}: {}", ran.out);
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&report["errors"], &report["first_error"]), (&0.into(), &Value::Null), "{what}: {report}");
    let (ops, rate) = (number(&report["ops"]), number(&report["ops_per_s"]));
    assert!(ops > 0.0 && rate > 0.0, "{what}: {report}");
    let (seconds, tolerance) = (number(&report["duration_s"]), 0.01 * ops);
    assert!((rate * seconds - ops).abs() <= tolerance, "{what}: {report}");
    in_order(&report["latency_us"], what);
    let rpcs = report["latency_us"]["rpcs"].as_object().unwrap();
    rpcs.values().for_each(|times| in_order(times, what));
    assert_eq!(rpcs.values().map(|times| number(&times["count"])).sum::<f64>(), ops, "{what}: {report}");
    in_order(&report["empty_us"], what);
    report
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("no number: {value}"))
}

fn in_order(times: &Value, what: &str) {
    let quantiles = ["p50", "p90", "p99", "p999", "max"].map(|name| number(&times[name]));
    assert!(quantiles[0] > 0.0 && quantiles.is_sorted(), "{what}: {times}");
}

fn rpcs(report: &Value) -> Vec<&str> {
    report["latency_us"]["rpcs"].as_object().unwrap().keys().map(String::as_str).collect()
}

/// A run with its own daemon, in this directory.
fn own(dir: &Path, line: &str) -> Command {
    let mut command = sagad(&format!("bench -o json {line} --dir"));
    command.arg(dir);
    command
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).unwrap().next().is_none()
}

#[test]
fn every_bench_mode_measures_its_own_daemon() {
    let dir = tempfile::tempdir().unwrap();
    for (mode, expected) in MODES {
        let report = reported(own(dir.path(), &format!("--mode {mode} {SHORT}")), mode);
        assert_eq!((rpcs(&report).as_slice(), &report["mode"]), (*expected, &(*mode).into()), "{report}");
        assert_eq!((&report["clients"], &report["connections"]), (&4.into(), &2.into()), "{report}");
        in_order(&report["fdatasync_us"], mode);
        let server = &report["server"];
        for figure in ["rss_bytes", "rss_idle_bytes", "wal_bytes_max", "start_ms"] {
            assert!(number(&server[figure]) > 0.0, "{mode}: {figure} in {server}");
        }
        assert!(number(&server["cpu_seconds"]) >= 0.0 && server["restart_ms"].is_null(), "{mode}: {server}");
        assert!(number(&server["wal_bytes"]) <= number(&server["wal_bytes_max"]), "{mode}: {server}");
        assert!(is_empty(dir.path()), "{mode}: what was made is gone");
    }
}

#[test]
fn every_bench_mode_measures_a_named_daemon() {
    let d = CliFixture::start();
    for (mode, expected) in MODES {
        let report = reported(d.command(&format!("bench -o json --mode {mode} {SHORT} --server {}", d.url())), mode);
        assert_eq!(rpcs(&report), *expected, "{report}");
        assert!(report["server"].is_null() && report["fdatasync_us"].is_null(), "{report}");
    }
    // The named daemon has the sagas of the cycles, each claimed once and completed.
    let completed = d.json("list --state completed --limit 1");
    let id = completed[0]["taskId"].as_str().unwrap();
    assert_eq!(d.events(id), ["created", "claimed", "completed"]);
}

#[test]
fn bench_ignores_the_server_variable() {
    let d = CliFixture::start();
    reported(d.command(&format!("bench -o json --mode create {SHORT}")), "SAGAD_SERVER is set");
    assert_eq!(d.run("list -o json").out, "", "nothing was created there");
}

#[test]
fn ids_rates_and_background_load_are_as_configured() {
    let dir = tempfile::tempdir().unwrap();
    let line = "--ids random --request-ids --preload 3000 --rate 60 --duration 2s --warmup 1s --clients 4 --connections 2 \
                --leases 150 --readers 1 --watchers 2 --expiring 50 --restart";
    let report = reported(own(dir.path(), line), line);
    assert_eq!((&report["ids"], &report["preload"]), (&"random".into(), &3000.into()));
    assert!(number(&report["ops_per_s"]) <= 90.0, "no faster than the rate: {report}");
    let beside = &report["beside"];
    for figure in ["pages", "sagas_listed", "events", "events_per_s"] {
        assert!(number(&beside[figure]) > 0.0, "{figure} in {beside}");
    }
    in_order(&beside["expiry_us"], "leases that end");
    assert!(number(&report["server"]["restart_ms"]) > 0.0 && number(&report["server"]["restart_rss_bytes"]) > 0.0);
    assert!(is_empty(dir.path()));
}

#[test]
fn sagas_due_at_once_are_swept_while_clients_claim() {
    let dir = tempfile::tempdir().unwrap();
    let line = "--mode heartbeat --clients 2 --connections 2 --rate 100 --duration 6s --warmup 500ms \
                --due 601 --delays 200 --claimers 8";
    let report = reported(own(dir.path(), line), line);
    // Half of the sagas stay stale; the others are requeued and claimed.
    assert_eq!(report["due"], json!({ "leases": 601, "delays": 200, "stale": 300 }));
    assert_eq!(rpcs(&report), ["Heartbeat"]);
    // If the leases end after the measurement, there is nothing to report.
    let ran = CommandOutput::of(own(dir.path(), "--mode echo --duration 1ms --warmup 0s --due 8000"));
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    // On a busy machine it may end before all were claimed.
    let told = ["expired leases were processed", "too slow to prepare"];
    assert!(told.iter().any(|told| ran.err.contains(told)), "{}", ran.err);
}

#[test]
fn sagas_that_cannot_be_claimed_are_left() {
    let dir = tempfile::tempdir().unwrap();
    for undo in ["", "--undo"] {
        let line = format!("--mode claim-next {undo} --preload 300 --ahead 200 --duration 30s --warmup 0s --clients 4");
        let report = reported(own(dir.path(), &line), &line);
        assert!(number(&report["duration_s"]) < 25.0, "it ends when no saga is left that it can take: {report}");
        assert!(
            (200.0..=320.0).contains(&number(&report["ops"])),
            "{undo}: 300 claims, and a few that found nothing: {report}"
        );
        assert_eq!((&report["ahead"], &report["undo"]), (&200.into(), &(undo == "--undo").into()));
    }
    let line = "--mode claim --undo --preload 300 --duration 30s --warmup 0s --clients 4";
    let report = reported(own(dir.path(), line), line);
    assert_eq!(rpcs(&report), ["Claim"]);
}

#[test]
fn sagas_are_preloaded_into_the_store_without_calls() {
    let dir = tempfile::tempdir().unwrap();
    for ids in ["ordered", "random"] {
        let line =
            format!("--mode claim --ids {ids} --preload 100000 --duration 500ms --warmup 0s --clients 4 --restart");
        let report = reported(own(dir.path(), &line), &line);
        assert!(number(&report["server"]["restart_ms"]) > 0.0, "{report}");
    }
}

#[test]
fn a_bench_without_sagas_left_ends_early_and_reports_it() {
    let dir = tempfile::tempdir().unwrap();
    let report =
        reported(own(dir.path(), "--mode claim --preload 2000 --duration 30s --warmup 10ms --clients 4"), "claim");
    assert!(number(&report["duration_s"]) < 25.0 && number(&report["ops"]) <= 2000.0, "{report}");
    let ran = CommandOutput::of(own(dir.path(), "--mode claim --preload 1 --duration 10s --warmup 2s"));
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains("larger --preload"), "{}", ran.err);
}

#[test]
fn errors_are_counted_and_reported() {
    let dir = tempfile::tempdir().unwrap();
    // A writer's queue of one entry is full most of the time.
    let mut command = own(dir.path(), "--mode create --clients 64 --duration 500ms --warmup 0s");
    command.env("SAGAD_WRITER_QUEUE", "1");
    let ran = CommandOutput::of(command);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert!(number(&report["errors"]) > 0.0, "{report}");
    assert!(report["first_error"].as_str().unwrap().starts_with("ResourceExhausted"), "{report}");
}

#[test]
fn the_text_report_is_a_table() {
    let ran = CommandOutput::of(sagad(&format!("bench --mode echo {SHORT}")));
    assert_eq!(ran.code, 0, "{}", ran.err);
    for part in [" ops/s: echo, 4 clients on 2 connections for ", "MICROSECONDS", "P99.9", "\nCheck ", "\nfdatasync "] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    assert!(!ran.out.contains('\u{1b}') && !ran.err.contains('\u{1b}'), "no bar off a terminal: {}", ran.err);
}

#[test]
fn wrong_bench_usage_exits_2_and_no_coordinator_exits_5() {
    for (line, about) in [
        ("--mode keepalive --clients 8 --preload 7", "--preload 8"),
        ("--mode cycle --preload 0", "--preload 1"),
        ("--mode session --rate 100", "--rate"),
        ("--mode cycle --undo", "--undo"),
        ("--mode cycle --ahead 5", "--ahead"),
        ("--mode heartbeat --claimers 5", "--claimers"),
        ("--duration 0s", "--duration"),
        ("--restart --server http://127.0.0.1:1", "--restart"),
        ("--dir /nowhere/at/all", "/nowhere/at/all"),
        ("--clients 0", "--clients"),
        ("--mode everything", "everything"),
    ] {
        let ran = CommandOutput::of(sagad(&format!("bench {line}")));
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{line}: {}", ran.err);
        assert!(ran.err.contains(about), "{line}: {}", ran.err);
    }
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let ran = CommandOutput::of(sagad(&format!("bench --server http://{}", socket.local_addr().unwrap())));
    assert_eq!((ran.code, ran.out.as_str()), (5, ""), "{}", ran.err);
}

/// The pids of daemons whose store is below this directory.
fn daemons(dir: &Path) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let ids = processes.filter_map(|process| process.file_name().to_str()?.parse::<u32>().ok());
    let inside = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(" serve ") && line.contains(dir.to_str().unwrap())
    };
    ids.filter(inside).collect()
}

#[test]
fn an_interrupted_bench_ends_its_daemon_and_removes_its_files() {
    for (kind, wait) in [(Signal::INT, 300), (Signal::TERM, 1500)] {
        let dir = tempfile::tempdir().unwrap();
        let mut command = own(dir.path(), "--duration 1h --preload 3000 --mode echo");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        until("the daemon is there", || !daemons(dir.path()).is_empty());
        std::thread::sleep(Duration::from_millis(wait));
        assert!(child.try_wait().unwrap().is_none(), "it runs for an hour");
        signal(&child, kind);
        let ran = CommandOutput::from(child.wait_with_output().unwrap());
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{}", ran.err);
        assert!(ran.err.contains("interrupted"), "{}", ran.err);
        assert_eq!(daemons(dir.path()), [0; 0]);
        assert!(is_empty(dir.path()));
    }
}
