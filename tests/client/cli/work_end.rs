//! `sagad work` when it or the daemon ends: draining, a second signal, restarts.

use std::fs;

use rustix::process::Signal;

use super::cli_fixture::CliFixture;
use crate::support::until;

/// A job that writes that it runs, and ends when the file `go` exists.
fn waiting(d: &CliFixture) -> String {
    d.script(
        "job",
        "echo \"$SAGAD_TASK_ID\" >> ready; while [ ! -e go ] && [ -e job ]; do sleep 0.05; done; echo end >> ready",
    )
}

#[test]
fn drain_ends_when_the_queue_is_empty() {
    let d = CliFixture::start();
    let ran = d.run("work --queue q --drain -- true");
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "", ""));
    for number in 0..5 {
        d.ok(&format!("create --task-id t-{number} --queue q"));
    }
    d.ok("create --task-id later --queue q --delay 1h");
    let ran = d.run("work --queue q --drain --concurrency 2 -- true");
    assert_eq!((ran.code, d.json("list --state completed").len()), (0, 5), "{}", ran.err);
    assert_eq!(d.state("later"), "planned");
}

#[test]
fn a_first_term_lets_the_job_end_and_claims_nothing_more() {
    let d = CliFixture::start();
    d.ok("create --task-id a --queue q");
    d.ok("create --task-id b --queue q");
    let work = d.spawn(&format!("work --queue q --ttl 9s -- {}", waiting(&d)));
    until("the job to run", || d.lines("ready") == ["a"]);
    work.signal(Signal::TERM);
    work.await_err(&["taking nothing new"]);
    fs::write(d.file("go"), "").unwrap();
    let ran = work.finish();
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("completed a") && !ran.err.contains("claimed b"), "{}", ran.err);
    assert_eq!((d.state("a").as_str(), d.state("b").as_str()), ("completed", "planned"));
}

#[test]
fn a_second_term_ends_the_job_and_releases_the_saga() {
    let d = CliFixture::start();
    d.ok("create --task-id a --queue q");
    let work = d.spawn(&format!("work --queue q --ttl 10m -- {}", waiting(&d)));
    until("the job to run", || d.lines("ready") == ["a"]);
    work.signal(Signal::TERM);
    work.await_err(&["taking nothing new"]);
    work.signal(Signal::INT);
    let ran = work.finish();
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("planned a: the worker was told to end"), "{}", ran.err);
    assert_eq!(d.lines("ready"), ["a"], "the job was ended");
    // At once, before the lease expires.
    assert_eq!(d.events("a"), ["created", "claimed", "released"]);
    d.claim("a", "other", "");
}

#[test]
fn a_term_ends_an_idle_worker_at_once() {
    let d = CliFixture::start();
    let work = d.spawn("work --queue q -- true");
    d.ok("create --task-id a --queue q");
    work.await_err(&["completed a"]);
    let ran = work.term();
    assert_eq!(ran.code, 0, "{}", ran.err);
    d.ok("create --task-id b --queue q");
    assert_eq!(d.state("b"), "planned", "no claim outlives the worker");
}

/// A job and its lease continue over a restart of the daemon.
fn survives(by: Signal) {
    let mut d = CliFixture::start();
    d.ok("create --task-id a --queue q");
    let work = d.spawn(&format!("work --queue q --ttl 9s -- {}", waiting(&d)));
    until("the job to run", || d.lines("ready") == ["a"]);
    let token = d.get("a")["lease"]["fencingToken"].clone();
    d.restart(by);
    let heard = d.get("a")["lease"]["heartbeatTime"].clone();
    until("a heartbeat after the restart", || d.get("a")["lease"]["heartbeatTime"] != heard);
    assert_eq!(d.get("a")["lease"]["fencingToken"], token, "the same lease");
    fs::write(d.file("go"), "").unwrap();
    d.await_state("a", "completed");
    assert_eq!(d.events("a"), ["created", "claimed", "completed"]);
    assert_eq!(d.lines("ready"), ["a", "end"]);
    // The worker continues with the next saga.
    d.ok("create --task-id b --queue q");
    d.await_state("b", "completed");
    assert_eq!(work.term().code, 0);
}

#[test]
fn a_restart_of_the_daemon_loses_neither_lease_nor_result() {
    survives(Signal::TERM);
}

#[test]
fn a_killed_daemon_loses_neither_lease_nor_result() {
    survives(Signal::KILL);
}

#[test]
fn a_result_is_reported_when_the_daemon_is_back() {
    let mut d = CliFixture::start();
    d.ok("create --task-id a --queue q");
    let work = d.spawn(&format!("work --queue q --ttl 20s -- {}", waiting(&d)));
    until("the job to run", || d.lines("ready") == ["a"]);
    // A stopped daemon receives the report in its socket and loses it when it is killed.
    d.signal(Signal::STOP);
    fs::write(d.file("go"), "").unwrap();
    until("the job to end", || d.lines("ready").len() == 2);
    std::thread::sleep(std::time::Duration::from_millis(300));
    d.restart(Signal::KILL);
    work.await_err(&["completed a"]);
    assert_eq!(d.events("a"), ["created", "claimed", "completed"]);
    work.term();
}
