//! `sagad work` when it or the daemon has to end: draining, a second signal, restarts.

use std::fs;

use rustix::process::Signal;

use super::daemon::Daemon;
use crate::support::until;

/// A job that says that it runs, and ends when the file `go` is there.
fn waiting(d: &Daemon) -> String {
    d.script(
        "job",
        "echo \"$SAGAD_TASK_ID\" >> ready; while [ ! -e go ] && [ -e job ]; do sleep 0.05; done; echo end >> ready",
    )
}

#[test]
fn drain_ends_when_nothing_is_left() {
    let d = Daemon::start();
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
fn a_first_term_lets_the_job_end_and_takes_nothing_new() {
    let d = Daemon::start();
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
fn a_second_term_ends_the_job_and_gives_the_saga_back() {
    let d = Daemon::start();
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
    // At once, not when the lease would have run out.
    assert_eq!(d.events("a"), ["created", "claimed", "released"]);
    d.claim("a", "heir", "");
}

#[test]
fn a_worker_that_waits_for_work_ends_at_once() {
    let d = Daemon::start();
    let work = d.spawn("work --queue q -- true");
    d.ok("create --task-id a --queue q");
    work.await_err(&["completed a"]);
    let ran = work.term();
    assert_eq!(ran.code, 0, "{}", ran.err);
    d.ok("create --task-id b --queue q");
    assert_eq!(d.state("b"), "planned", "no claim outlives the worker");
}

/// A job runs on over the daemon's end and new start, and so does its lease.
fn survives(by: Signal) {
    let mut d = Daemon::start();
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
    // And the worker goes on.
    d.ok("create --task-id b --queue q");
    d.await_state("b", "completed");
    assert_eq!(work.term().code, 0);
}

#[test]
fn a_restart_costs_neither_the_lease_nor_the_result() {
    survives(Signal::TERM);
}

#[test]
fn a_kill_of_the_daemon_costs_neither_the_lease_nor_the_result() {
    survives(Signal::KILL);
}

#[test]
fn a_result_that_comes_while_the_daemon_is_away_is_reported_when_it_is_back() {
    let mut d = Daemon::start();
    d.ok("create --task-id a --queue q");
    let work = d.spawn(&format!("work --queue q --ttl 20s -- {}", waiting(&d)));
    until("the job to run", || d.lines("ready") == ["a"]);
    // Stopped, it takes the report into its socket and loses it with the kill.
    d.signal(Signal::STOP);
    fs::write(d.file("go"), "").unwrap();
    until("the job to end", || d.lines("ready").len() == 2);
    std::thread::sleep(std::time::Duration::from_millis(300));
    d.restart(Signal::KILL);
    work.await_err(&["completed a"]);
    assert_eq!(d.events("a"), ["created", "claimed", "completed"]);
    work.term();
}
