//! The commands of a worker, from `claim` to `compensated`.

use std::{fs, time::Duration};

use super::cli_fixture::CliFixture;
use crate::support::now;

const ID: &str = "6f1c2f0e-6f0e-4b6e-9d53-0f0a6b9f5f11";

#[test]
fn claim_takes_a_lease_and_refuses_a_held_saga() {
    let d = CliFixture::start();
    d.ok("create --task-id t-1");
    let text = d.ok(&format!("claim t-1 --owner me --ttl 5m --request-id {ID}"));
    assert!(text.starts_with("t-1  running  queue default  lease of me, token 2, expires "), "{text}");
    assert_eq!(d.claim("t-1", "me", &format!("--ttl 5m --request-id {ID}")), "2", "a repeat is the same lease");
    let error = d.refused(3, "LEASE_HELD", "claim t-1 --owner you");
    assert_eq!(error["metadata"]["owner_id"], "me");
    assert!(error["retryAfterMs"].as_u64().unwrap() > 200_000, "{error}");
    d.refused(4, "SAGA_NOT_FOUND", "claim t-2");
    d.refused(2, "INVALID_ARGUMENT", "claim t-1 --ttl 1ms");
    d.refused(3, "LEASE_HELD", "claim t-1 --purpose compensate");
}

#[test]
fn claim_next_takes_by_priority_and_waits() {
    let d = CliFixture::start();
    d.ok("create --task-id low --queue q");
    d.ok("create --task-id high --queue q --priority 5");
    let sagas = d.json("claim-next --queue q,r --owner me --max 5 --ttl 1m");
    assert_eq!((&sagas[0]["taskId"], &sagas[1]["taskId"]), (&"high".into(), &"low".into()));
    let none = d.run("claim-next --queue q");
    assert_eq!((none.code, none.out.as_str(), none.err.as_str()), (0, "", "sagad: nothing to claim\n"));
    assert_eq!(d.json("claim-next --queue q").len(), 0);

    let begun = now();
    let waiting = d.spawn("claim-next --queue q --owner me --wait 30s --timeout 5s");
    std::thread::sleep(Duration::from_millis(700));
    d.ok("create --task-id late --queue q");
    let ran = waiting.finish();
    assert!(ran.out.starts_with("late  running"), "{ran:?}");
    assert!(begun.elapsed() < Duration::from_secs(25), "woken, not timed out");
    let ran = d.run("claim-next --queue q --wait 300ms --timeout 30s");
    assert_eq!((ran.code, ran.out.as_str()), (0, ""));
    d.refused(2, "INVALID_ARGUMENT", "claim-next --queue 'no blanks'");
}

#[test]
fn claim_next_for_compensation_selects_by_kinds() {
    let d = CliFixture::start();
    d.compensating("t-1", "--queue q --compensate branch=a --compensate dir=b");
    let next = "claim-next --queue q --purpose compensate --kind branch";
    assert_eq!(d.json(next).len(), 0, "one kind of two is not enough");
    let saga = d.one(&format!("{next} --kind dir --owner r"));
    assert_eq!(saga["lease"]["purpose"], "LEASE_PURPOSE_COMPENSATE");
}

#[test]
fn heartbeat_extends_the_lease_and_prints_a_cancel() {
    let d = CliFixture::start();
    d.ok("create --task-id t-1");
    let token = d.claim("t-1", "me", "--ttl 1m");
    let beat = format!("heartbeat t-1 --owner me --token {token}");
    let text = d.ok(&format!("{beat} --ttl 10m --progress 'step 3 of 5'"));
    assert!(text.starts_with(&format!("lease of me, token {token}, expires ")), "{text}");
    assert!(d.ok("get t-1").contains("progress      step 3 of 5\n"));
    assert_eq!(d.one(&beat)["lease"]["ttl"], "600s", "the ttl stays");
    d.ok("cancel t-1 --reason 'not needed'");
    assert!(d.ok(&beat).contains("; CANCEL: not needed"));
    assert_eq!(d.one(&beat)["directive"], "DIRECTIVE_CANCEL");
    d.refused(3, "NOT_OWNER", &format!("heartbeat t-1 --owner you --token {token}"));
    d.refused(3, "NO_LEASE", "heartbeat t-1 --owner me --token 999");
}

#[test]
fn release_ends_the_lease_and_plans_the_saga_again() {
    let d = CliFixture::start();
    d.ok("create --task-id t-1");
    let token = d.claim("t-1", "me", "");
    let text = d.ok(&format!("release t-1 --owner me --token {token} --delay 1h --reason 'disk full'"));
    assert_eq!(text, "t-1  planned  queue default\n");
    assert!(
        d.ok("get t-1").contains(&format!("last lease    me, token {token}, ended by its holder\n")),
        "the message names the owner"
    );
    d.refused(3, "NOT_READY", "claim t-1");
    d.refused(3, "NO_LEASE", &format!("heartbeat t-1 --owner me --token {token}"));
    assert!(d.ok("history t-1").contains("disk full"));
}

#[test]
fn complete_stores_a_result_and_can_be_repeated() {
    let d = CliFixture::start();
    d.ok("create --task-id t-1");
    let token = d.claim("t-1", "me", "");
    fs::write(d.file("out"), "the result").unwrap();
    let line = format!("complete t-1 --owner me --token {token} --result @out");
    assert_eq!(d.one(&line)["state"], "SAGA_STATE_COMPLETED");
    assert_eq!(d.one(&line)["result"], "dGhlIHJlc3VsdA==");
    assert!(d.ok("get t-1").contains("result        the result\n"));
    d.refused(3, "SAGA_TERMINAL", &format!("fail t-1 --owner me --token {token} --reason no"));
    d.refused(3, "SAGA_TERMINAL", "claim t-1");
}

#[test]
fn fail_needs_a_compensation_unless_a_retry_is_left() {
    let d = CliFixture::start();
    d.ok("create --task-id t-1 --max-attempts 2 --retry-backoff 1ms");
    let token = d.claim("t-1", "me", "");
    let text = d.ok(&format!("fail t-1 --owner me --token {token} --reason flaky --retryable"));
    assert_eq!(text, "t-1  planned  queue default\n");
    crate::support::until("the retry to be ready", || d.run("claim t-1 --owner me").code == 0);
    let token = d.get("t-1")["lease"]["fencingToken"].as_str().unwrap().to_owned();
    d.refused(3, "COMPENSATION_REQUIRED", &format!("fail t-1 --owner me --token {token} --reason broken --retryable"));
    let line =
        format!("fail t-1 --owner me --token {token} --reason broken --compensate branch=x --compensate-reason r");
    let saga = d.one(&line);
    assert_eq!((&saga["state"], &saga["terminalReason"]), (&"SAGA_STATE_FAILED".into(), &"broken".into()));
    assert_eq!(saga["compensations"][0]["reason"], "r");
    d.run("fail t-1 --owner me --token 1").assert_usage();
}

#[test]
fn compensations_are_registered_recorded_and_finished() {
    let d = CliFixture::start();
    d.ok("create --task-id t-1 --compensate branch=a --on-failure compensate");
    let token = d.claim("t-1", "me", "");
    let text = d.ok(&format!("register-compensation t-1 --owner me --token {token} --compensate dir=/w --reason made"));
    assert!(text.starts_with("t-1  running"), "{text}");
    let saga = d.one(&format!("register-compensation t-1 --owner me --token {token} --compensate dir=/w"));
    assert_eq!(saga["compensations"].as_array().unwrap().len(), 2, "the same again is no change");
    let saga = d.one(&format!("fail t-1 --owner me --token {token} --reason broken"));
    assert_eq!(saga["state"], "SAGA_STATE_COMPENSATING");
    assert!(!d.ok("list").contains(" me "), "a lease that has ended owns nothing");

    let token = d.claim("t-1", "r", "--purpose compensate");
    let record = format!("record-compensation t-1 --owner r --token {token}");
    d.refused(3, "COMPENSATION_ORDER", &format!("{record} --position 1 --outcome done"));
    d.refused(4, "COMPENSATION_NOT_FOUND", &format!("{record} --position 9 --outcome done"));
    d.ok(&format!("{record} --position 2 --outcome failed --detail 'exit 3'"));
    assert!(d.ok("get t-1").contains("compensation  2 failed: dir /w (made), failed 1 time: exit 3"));
    d.refused(3, "COMPENSATION_PENDING", &format!("compensated t-1 --owner r --token {token}"));
    d.ok(&format!("{record} --position 2 --outcome done"));
    let saga = d.one(&format!("{record} --position 1 --outcome done --detail gone"));
    assert_eq!(saga["compensations"][0]["state"], "COMPENSATION_STATE_DONE");
    let text = d.ok(&format!("compensated t-1 --owner r --token {token}"));
    assert!(text.starts_with("t-1  compensated  queue default"), "{text}");
    assert_eq!(d.one(&format!("compensated t-1 --owner r --token {token}"))["state"], "SAGA_STATE_COMPENSATED");
}

#[test]
fn the_environment_can_name_the_lease() {
    let d = CliFixture::start();
    d.ok("create --task-id t-1");
    let token = d.claim("t-1", "me", "");
    let ran = |line: &str| {
        let mut command = d.command(line);
        command.env("SAGAD_TASK_ID", "t-1").env("SAGAD_OWNER", "me").env("SAGAD_TOKEN", &token);
        crate::support::binary::CommandOutput::of(command)
    };
    assert_eq!(ran("heartbeat --progress half").code, 0);
    assert_eq!(ran("register-compensation --compensate dir=/w").code, 0);
    assert_eq!(ran("complete").out, "t-1  completed  queue default\n");
}
