//! `sagad compensate`: handlers, their order, their failures.

use serde_json::Value;

use super::cli_fixture::CliFixture;
use crate::support::until;

#[test]
fn handlers_run_in_reverse_and_each_outcome_is_recorded() {
    let d = CliFixture::start();
    d.compensating("t-1", "--queue q --compensate branch=one --compensate dir=/w --compensate-reason 'made by us'");
    let log = "echo $SAGAD_POSITION $SAGAD_KIND $SAGAD_TARGET $SAGAD_REASON $SAGAD_TASK_ID $SAGAD_OWNER >> log";
    let ran = d.run(&format!(
        "compensate --queue q --owner me --drain --handler 'branch={log}' --handler 'dir={log}; echo out'"
    ));
    assert_eq!((ran.code, ran.out.as_str()), (0, "out\n"), "{}", ran.err);
    assert_eq!(d.lines("log"), ["2 dir /w made by us t-1 me", "1 branch one made by us t-1 me"]);
    assert!(
        ran.err.contains("undone t-1: compensation 2 (dir)\n") && ran.err.contains("compensated t-1\n"),
        "{}",
        ran.err
    );
    assert_eq!(d.state("t-1"), "compensated");
    let settled: Vec<String> = d
        .json("history t-1")
        .iter()
        .filter(|event| event["type"] == "EVENT_TYPE_COMPENSATION_SETTLED")
        .map(|event| format!("{} {}", event["details"]["position"].as_str().unwrap(), event["actor"].as_str().unwrap()))
        .collect();
    assert_eq!(settled, ["2 me", "1 me"]);
    let saga = d.get("t-1");
    assert!(saga["compensations"].as_array().unwrap().iter().all(|one| one["state"] == "COMPENSATION_STATE_DONE"));
}

#[test]
fn a_failed_handler_is_retried() {
    let d = CliFixture::start();
    d.compensating("t-1", "--queue q --compensate branch=one");
    let script = d.script("undo", "echo . >> tries; [ \"$(wc -l < tries)\" -ge 2 ] || exit 4");
    let ran = d.run(&format!("compensate --queue q --drain --handler branch={script}"));
    assert!(ran.err.contains("undo failed t-1: compensation 1 (branch): exit code 4"), "{}", ran.err);
    assert_eq!((d.lines("tries").len(), d.state("t-1").as_str()), (2, "compensated"), "{}", ran.err);
    let saga = d.get("t-1");
    assert_eq!(
        (&saga["compensations"][0]["attempts"], &saga["compensations"][0]["lastError"]),
        (&1.into(), &"exit code 4".into())
    );
}

#[test]
fn a_handler_that_keeps_failing_quarantines_the_saga_with_the_kind_named() {
    let d = CliFixture::start();
    d.compensating("t-1", "--queue q --compensate dir=/w --compensate branch=one");
    let line =
        "compensate --queue q --drain --attempts 2 --handler 'branch=echo . >> tries; exit 4' --handler dir=true";
    let ran = d.run(line);
    assert_eq!((ran.code, d.lines("tries").len()), (0, 2), "{}", ran.err);
    let saga = d.get("t-1");
    assert_eq!(saga["state"], "SAGA_STATE_QUARANTINED");
    let reason = saga["terminalReason"].as_str().unwrap();
    assert!(reason.contains("kind `branch` failed 2 times") && reason.contains("exit code 4"), "{reason}");
    assert_eq!(saga["compensations"][0]["state"], "COMPENSATION_STATE_PENDING", "the earlier ones are not touched");
}

#[test]
fn a_kind_without_a_handler_quarantines_the_saga_with_the_kind_named() {
    let d = CliFixture::start();
    d.compensating("t-1", "--queue q --compensate unheard-of=x --compensate branch=one");
    d.compensating("t-2", "--queue q --compensate branch=two");
    let ran = d.run("compensate --queue q --drain --handler branch=true");
    assert_eq!(ran.code, 0, "{}", ran.err);
    let saga = d.get("t-1");
    let reason = saga["terminalReason"].as_str().unwrap();
    assert!(reason.contains("no handler") && reason.contains("`unheard-of`"), "{reason}");
    assert_eq!((d.state("t-1").as_str(), d.state("t-2").as_str()), ("quarantined", "compensated"));
    assert!(ran.err.contains("quarantined t-1: no handler"), "{}", ran.err);
}

#[test]
fn stale_running_sagas_are_skipped_by_default() {
    let d = CliFixture::start();
    d.stale("t-1", "--queue q --compensate branch=one");
    assert_eq!(d.run("compensate --queue q --drain --handler branch=true").code, 0);
    assert_eq!(d.state("t-1"), "running");
    let ran = d.run("compensate --queue q --drain --stale --handler branch=true");
    assert_eq!((ran.code, d.state("t-1").as_str()), (0, "compensated"), "{}", ran.err);
}

#[test]
fn stale_sagas_are_compensated_as_they_appear() {
    let d = CliFixture::start();
    let undo = d.spawn("compensate --queue q --stale --handler 'branch=echo $SAGAD_TARGET >> log'");
    d.expiring("t-1", "--queue q --compensate branch=one");
    d.await_state("t-1", "compensated");
    d.compensating("t-2", "--queue q --compensate branch=two");
    d.await_state("t-2", "compensated");
    assert_eq!(d.lines("log"), ["one", "two"]);
    let ran = undo.term();
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("compensated t-1") && ran.err.contains("compensated t-2"), "{}", ran.err);
}

#[test]
fn a_settling_saga_is_waited_for() {
    let d = CliFixture::start();
    d.stale("t-1", "--queue q --settle 2s --compensate branch=one");
    d.refused(3, "SETTLING", "claim t-1 --purpose compensate");
    let ran = d.run("compensate --queue q --drain --stale --handler branch=true");
    assert_eq!((ran.code, d.state("t-1").as_str()), (0, "compensated"), "{}", ran.err);
    let events = d.json("history t-1");
    let last = |kind: &str| events.iter().rfind(|event| event["type"] == format!("EVENT_TYPE_{kind}")).unwrap();
    let time = |value: &Value| chrono::DateTime::parse_from_rfc3339(value.as_str().unwrap()).unwrap();
    // Settling counts from the expiry, not from when it was applied.
    let ran_out = time(&last("LEASE_EXPIRED")["details"]["expire_time"]);
    assert!((time(&last("CLAIMED")["time"]) - ran_out).num_milliseconds() >= 2_000, "{events:?}");
}

#[test]
fn several_sagas_are_compensated_at_once() {
    let d = CliFixture::start();
    for number in 0..3 {
        d.compensating(&format!("t-{number}"), "--queue q --compensate branch=x");
    }
    let script =
        d.script("undo", "echo . >> begun; while [ -e undo ] && [ \"$(wc -l < begun)\" -lt 3 ]; do sleep 0.05; done");
    let undo = d.spawn(&format!("compensate --queue q --concurrency 3 --handler branch={script}"));
    until("all three to be undone", || d.json("list --state compensated").len() == 3);
    assert_eq!(undo.term().code, 0);
}

#[test]
fn a_second_handler_of_a_kind_is_refused() {
    let d = CliFixture::start();
    let error = d.refused(2, "USAGE", "compensate --queue q --handler branch=true --handler branch=false");
    assert!(error["message"].as_str().unwrap().contains("`branch`"), "{error}");
    d.run("compensate --queue q --handler branch").assert_usage();
}
