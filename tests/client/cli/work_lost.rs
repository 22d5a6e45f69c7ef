//! `sagad work` when its lease is lost or its saga is cancelled: the job's processes end, and a lost lease is not reported under.

use std::{fs, thread, time::Duration};

use rustix::process::Signal;

use super::cli_fixture::{CliFixture, runs};
use crate::support::until;

/// A job writes the pids of its processes: itself, a child, and a grandchild that ignores TERM.
///
/// It ends when its directory is removed, whatever happens to its test.
fn stubborn(d: &CliFixture) -> String {
    d.script(
        "job",
        "echo $$ >> pids\n\
         sh -c 'sleep 120 & echo $! >> pids; wait' &\n\
         echo $! >> pids\n\
         sh -c 'trap \"\" TERM; echo $$ >> pids; echo ready >> ready; while [ -e job ]; do sleep 0.1; done' &\n\
         wait",
    )
}

fn all_gone(d: &CliFixture) {
    let pids = d.lines("pids");
    assert_eq!(pids.len(), 4, "{pids:?}");
    until("all of the job's processes to be gone", || !pids.iter().any(|pid| runs(pid)));
}

#[test]
fn a_revoked_lease_kills_the_whole_group_and_reports_nothing() {
    let d = CliFixture::start();
    d.ok("create --task-id t-1 --queue q --compensate branch=x");
    let script = stubborn(&d);
    let work = d.spawn(&format!("work --queue q --ttl 6s --kill-after 500ms -- {script}"));
    until("the job to be there", || !d.lines("ready").is_empty() && d.lines("pids").len() == 4);
    assert!(d.lines("pids").iter().all(|pid| runs(pid)));
    d.ok("quarantine t-1 --reason 'needs a look' --revoke-lease");
    work.await_err(&["lost t-1: "]);
    all_gone(&d);
    // The worker continues with the next saga.
    d.ok("create --task-id t-2 --queue q");
    work.await_err(&["claimed t-2"]);
    let ran = work.end_now();
    assert!(!ran.err.contains("not reported"), "{}", ran.err);
    let saga = d.get("t-1");
    assert_eq!((&saga["state"], &saga["terminalReason"]), (&"SAGA_STATE_QUARANTINED".into(), &"needs a look".into()));
    assert_eq!(d.events("t-1"), ["created", "claimed", "quarantined"]);
}

#[test]
fn a_worker_suspended_past_its_lease_kills_its_job_and_reports_nothing() {
    let d = CliFixture::start();
    d.ok("create --task-id t-1 --queue q --on-stale requeue");
    let script = stubborn(&d);
    let work = d.spawn(&format!("work --queue q --owner sleeper --ttl 3s -- {script}"));
    until("the job to be there", || !d.lines("ready").is_empty() && d.lines("pids").len() == 4);
    work.signal(Signal::STOP);
    d.await_state("t-1", "planned");
    let token = d.claim("t-1", "other", "--ttl 10m");
    work.signal(Signal::CONT);
    let line = work.await_err(&["lost t-1: "]);
    assert!(line.contains("ran out") || line.contains("LEASE_SUPERSEDED"), "{line}");
    all_gone(&d);
    let lease = d.get("t-1")["lease"].clone();
    assert_eq!((lease["ownerId"].as_str(), lease["fencingToken"].as_str()), (Some("other"), Some(token.as_str())));
    assert_eq!(d.state("t-1"), "running");
    assert_eq!(work.term().code, 0);
}

#[test]
fn a_job_that_ended_after_its_lease_is_not_reported() {
    let d = CliFixture::start();
    d.ok("create --task-id t-1 --queue q --on-stale requeue");
    let script = d.script("job", "echo $$ > pids; while [ ! -e go ] && [ -e job ]; do sleep 0.05; done");
    let work = d.spawn(&format!("work --queue q --ttl 3s -- {script}"));
    until("the job to be there", || !d.lines("pids").is_empty());
    work.signal(Signal::STOP);
    d.await_state("t-1", "planned");
    d.claim("t-1", "other", "--ttl 10m");
    fs::write(d.file("go"), "").unwrap();
    until("the job to end", || !runs(&d.lines("pids")[0]));
    work.signal(Signal::CONT);
    until("the worker to have noticed", || {
        let told = work.err().join("\n");
        told.contains("lost t-1") || told.contains("not reported t-1")
    });
    assert_eq!((d.state("t-1").as_str(), d.get("t-1")["lease"]["ownerId"].as_str()), ("running", Some("other")));
    work.term();
}

#[test]
fn a_cancel_ends_the_job_and_its_compensations_are_pending() {
    let d = CliFixture::start();
    d.ok("create --task-id t-1 --queue q --compensate branch=x");
    let script =
        d.script("job", "trap 'echo term >> told; exit 0' TERM; echo . > ready; while [ -e job ]; do sleep 0.05; done");
    let work = d.spawn(&format!("work --queue q --ttl 6s -- {script}"));
    until("the job to be there", || !d.lines("ready").is_empty());
    d.ok("cancel t-1 --reason 'not needed'");
    work.await_err(&["compensating t-1: cancelled: not needed"]);
    assert_eq!(d.lines("told"), ["term"]);
    assert_eq!(d.state("t-1"), "compensating");
    assert!(d.ok("history t-1").contains("cancelled: not needed"));
    assert_eq!(work.term().code, 0);
}

#[test]
fn a_cancelled_job_that_ignores_term_is_killed_while_its_lease_is_kept() {
    let d = CliFixture::start();
    d.ok("create --task-id t-1 --queue q --compensate branch=x");
    let script = stubborn(&d);
    let work = d.spawn(&format!("work --queue q --ttl 3s --kill-after 5s -- {script}"));
    until("the job to be there", || !d.lines("ready").is_empty() && d.lines("pids").len() == 4);
    d.ok("cancel t-1 --reason 'not needed'");
    // Longer than the lease lasts without heartbeats.
    thread::sleep(Duration::from_millis(3_500));
    assert_eq!(d.get("t-1")["stale"], serde_json::Value::Null);
    work.await_err(&["compensating t-1: cancelled: not needed"]);
    all_gone(&d);
    work.term();
}
