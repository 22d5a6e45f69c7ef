//! `sagad compensate` when it or the daemon ends early: done compensations stay done, and another compensator does the rest.

use std::fs;

use rustix::process::Signal;

use super::cli_fixture::CliFixture;
use crate::support::until;

const THREE: &str = "--queue q --compensate a=1 --compensate b=2 --compensate c=3";

/// Handlers of all three kinds; the handler of `b` waits for the file `go`.
fn handlers(d: &CliFixture) -> String {
    let script = d.script(
        "undo",
        "echo \"$SAGAD_OWNER $SAGAD_KIND\" >> log\n\
         [ \"$SAGAD_KIND\" != b ] || while [ ! -e go ] && [ -e undo ]; do sleep 0.05; done",
    );
    format!("--handler a={script} --handler b={script} --handler c={script}")
}

#[test]
fn another_compensator_continues_where_a_killed_one_stopped() {
    let d = CliFixture::start();
    d.compensating("t-1", THREE);
    let flags = handlers(&d);
    let first = d.spawn(&format!("compensate --queue q --owner first --ttl 3s {flags}"));
    until("the first to be at b", || d.lines("log") == ["first c", "first b"]);
    first.signal(Signal::KILL);
    fs::write(d.file("go"), "").unwrap();
    let second = d.spawn(&format!("compensate --queue q --owner second {flags}"));
    d.await_state("t-1", "compensated");
    assert_eq!(d.lines("log"), ["first c", "first b", "second b", "second a"], "c is not undone again");
    assert_eq!(second.term().code, 0);
    let by = d.get("t-1")["compensations"].clone();
    assert_eq!((&by[2]["settledBy"], &by[1]["settledBy"]), (&"first".into(), &"second".into()));
}

#[test]
fn a_second_term_releases_the_saga() {
    let d = CliFixture::start();
    d.compensating("t-1", THREE);
    let flags = handlers(&d);
    let first = d.spawn(&format!("compensate --queue q --owner first --ttl 10m {flags}"));
    until("the first to be at b", || d.lines("log").len() == 2);
    let ran = first.end_now();
    assert!(ran.code == 0 && ran.err.contains("compensating t-1: the worker was told to end"), "{}", ran.err);
    fs::write(d.file("go"), "").unwrap();
    let ran = d.run(&format!("compensate --queue q --owner second --drain {flags}"));
    assert_eq!((ran.code, d.state("t-1").as_str()), (0, "compensated"), "{}", ran.err);
}

#[test]
fn a_first_term_finishes_the_saga() {
    let d = CliFixture::start();
    d.compensating("t-1", THREE);
    let first = d.spawn(&format!("compensate --queue q --ttl 9s {}", handlers(&d)));
    until("the first to be at b", || d.lines("log").len() == 2);
    first.signal(Signal::TERM);
    first.await_err(&["taking nothing new"]);
    fs::write(d.file("go"), "").unwrap();
    let ran = first.finish();
    assert_eq!((ran.code, d.state("t-1").as_str()), (0, "compensated"), "{}", ran.err);
}

#[test]
fn a_killed_daemon_loses_no_compensation() {
    let mut d = CliFixture::start();
    d.compensating("t-1", THREE);
    let undo = d.spawn(&format!("compensate --queue q --owner me --ttl 9s {}", handlers(&d)));
    until("it to be at b", || d.lines("log").len() == 2);
    d.restart(Signal::KILL);
    fs::write(d.file("go"), "").unwrap();
    d.await_state("t-1", "compensated");
    assert_eq!(d.lines("log"), ["me c", "me b", "me a"]);
    assert_eq!(undo.term().code, 0);
}

#[test]
fn a_handler_under_a_lost_lease_is_ended_and_records_nothing() {
    let d = CliFixture::start();
    d.compensating("t-1", THREE);
    let undo = d.spawn(&format!("compensate --queue q --ttl 4s --kill-after 200ms {}", handlers(&d)));
    until("it to be at b", || d.lines("log").len() == 2);
    d.ok("quarantine t-1 --reason 'needs a look' --revoke-lease");
    undo.await_err(&["lost t-1: "]);
    assert_eq!(d.get("t-1")["compensations"][1]["state"], "COMPENSATION_STATE_PENDING");
    assert_eq!(d.get("t-1")["terminalReason"], "needs a look");
    assert_eq!(undo.term().code, 0);
}
