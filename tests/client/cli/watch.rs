//! `sagad watch`: stale sagas and their resolution, and all events; also over restarts of the daemon.

use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use super::{cli_fixture::CliFixture, running_command::RunningCommand};
use crate::support::SAGAD;

fn parsed(running: &RunningCommand) -> Vec<Value> {
    running.out().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn revision(item: &Value) -> i64 {
    item["revision"].as_str().map_or(0, |text| text.parse().unwrap())
}

#[test]
fn a_snapshot_prints_the_stale_sagas_and_ends() {
    let d = CliFixture::start();
    assert_eq!(d.ok("watch --stale --snapshot"), "");
    let token = d.stale("a", "--queue one");
    d.stale("b", "--queue two");
    let text = d.ok("watch --stale --snapshot");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].contains("stale     a  queue one  owner gone") && lines[0].contains("cause ttl"), "{text}");
    assert!(lines[0].contains(&format!("token {token}  expired 2")) && lines[0].contains("Z ("), "{text}");
    assert_eq!(d.ok("watch --snapshot --queue two").lines().count(), 1);
    let items = d.json("watch --snapshot");
    assert_eq!(items[0]["stale"]["saga"]["state"], "SAGA_STATE_RUNNING");
    assert_eq!(items.last().unwrap()["bookmark"]["snapshotEnd"], true);
}

#[test]
fn a_watch_follows_and_resumes_after_a_revision() {
    let d = CliFixture::start();
    d.stale("early", "");
    let (text, json) = (d.spawn("watch"), d.spawn("watch -o json"));
    text.await_out(&["stale     early"]);
    json.await_out(&["snapshotEnd"]);
    d.stale("late", "");
    d.ok("recover early --decision requeue --reason r");
    text.await_out(&["stale     late"]);
    text.await_out(&["resolved  early  requeued"]);
    json.await_out(&["RESOLUTION_REQUEUED"]);
    let seen = parsed(&json);
    let early = seen.iter().find(|item| item["stale"]["taskId"] == "early").map(revision).unwrap();

    // From a revision in the middle: only later items.
    let resumed = d.spawn(&format!("watch --after {early} -o json"));
    resumed.await_out(&["RESOLUTION_REQUEUED"]);
    let items: Vec<Value> = parsed(&resumed).into_iter().filter(|item| item["bookmark"].is_null()).collect();
    assert_eq!(items[0]["stale"]["taskId"], "late");
    assert_eq!(items[1]["resolved"]["taskId"], "early");
    let (first, again) = (seen.iter().filter(|item| item["bookmark"].is_null()).skip(1), items.iter());
    assert!(first.map(revision).eq(again.map(revision)));
    d.refused(3, "REVISION_UNKNOWN", "watch --after 4711");
    d.refused(2, "INVALID_ARGUMENT", "watch --after -1");
}

/// Both watches continue after the daemon ended by this signal and was started again.
fn survives(by: Signal) {
    let mut d = CliFixture::start();
    d.stale("before", "");
    let (stale, events) = (d.spawn("watch"), d.spawn("watch --events -o json --after 0"));
    stale.await_out(&["stale     before"]);
    events.await_out(&["LEASE_EXPIRED"]);
    d.restart(by);
    stale.await_err(&["the watch broke, resuming after revision"]);
    d.ok("recover before --decision requeue --reason r");
    stale.await_out(&["resolved  before  requeued"]);
    events.await_out(&["EVENT_TYPE_REQUEUED"]);
    let revisions: Vec<i64> = parsed(&events).iter().filter(|item| !item["event"].is_null()).map(revision).collect();
    let history = d.events("before").len();
    assert_eq!(revisions.len(), history, "nothing twice, nothing missed: {revisions:?}");
    assert!(revisions.windows(2).all(|pair| pair[0] < pair[1]), "{revisions:?}");
    let told = stale.out();
    assert_eq!(told.iter().filter(|line| line.contains("stale     before")).count(), 1, "{told:?}");
}

#[test]
fn a_watch_continues_after_a_restart() {
    survives(Signal::TERM);
}

#[test]
fn a_watch_continues_after_a_killed_daemon() {
    survives(Signal::KILL);
}

#[test]
fn a_watch_of_events_selects_by_queue_and_task() {
    let d = CliFixture::start();
    d.ok("create --task-id old --queue one");
    let (all, one, task) = (
        d.spawn("watch --events"),
        d.spawn("watch --events --queue one -o json"),
        d.spawn("watch --events --task t-2"),
    );
    one.await_out(&["bookmark"]);
    // Text output has no bookmarks to wait for, so the test repeats until the line is there.
    crate::support::until("the watches to have begun", || {
        d.ok("create --queue noise");
        d.run("annotate t-2 --note n").code + d.run("create --task-id t-2 --queue two").code >= 0
            && !all.out().is_empty()
            && !task.out().is_empty()
    });
    d.ok("create --task-id t-1 --queue one");
    one.await_out(&["\"taskId\":\"t-1\""]);
    let line = all.await_out(&["created", " t-1 "]);
    assert!(line.contains("t-1  -> planned"), "{line}");
    assert!(!one.out().iter().any(|line| line.contains("noise") || line.contains("\"old\"")));
    assert!(task.out().iter().all(|line| line.contains(" t-2 ") || line.ends_with(" t-2")), "{:?}", task.out());
    d.run("watch --task t-1").assert_usage();
}

#[test]
fn an_interrupt_ends_a_watch() {
    let d = CliFixture::start();
    // The signal may be ignored where the tests run in the background, and that is inherited.
    let mut command = Command::new("env");
    let sagad = SAGAD;
    command.args(["--default-signal=INT", sagad, "watch", "-o", "json", "--server", &d.url()]);
    let watch = RunningCommand::start(command);
    watch.await_out(&["bookmark"]);
    watch.signal(Signal::INT);
    assert_eq!(watch.finish().err, "");
}
