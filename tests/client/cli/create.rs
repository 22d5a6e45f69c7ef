//! `sagad create` of one saga.

use std::fs;

use serde_json::json;

use super::cli_fixture::CliFixture;

const ID: &str = "6f1c2f0e-6f0e-4b6e-9d53-0f0a6b9f5f11";

#[test]
fn every_flag_reaches_the_saga() {
    let d = CliFixture::start();
    fs::write(d.file("letter"), b"\x00\xffhello").unwrap();
    let saga = d.one(
        "create --task-id t-1 --saga-id s-1 --queue builds --priority -3 --issue 7 --branch fix-7 --worktree /w/7 \
         --label team=a --label empty= --payload @letter --compensate branch=fix-7 --compensate url=http://x/?a=b \
         --compensate-reason 'made by us' --delay 1h --retry-of t-0",
    );
    assert_eq!(saga["taskId"], "t-1");
    assert_eq!(saga["sagaId"], "s-1");
    assert_eq!(saga["state"], "SAGA_STATE_PLANNED");
    assert_eq!(saga["queue"], "builds");
    assert_eq!(saga["priority"], -3);
    assert_eq!(saga["issue"], "7");
    assert_eq!((&saga["branch"], &saga["worktree"]), (&json!("fix-7"), &json!("/w/7")));
    assert_eq!(saga["labels"], json!({"team": "a", "empty": ""}));
    assert_eq!(saga["payload"], "AP9oZWxsbw==");
    assert_eq!(saga["compensations"][1]["target"], "http://x/?a=b");
    assert_eq!(saga["compensations"][1]["position"], 2);
    assert_eq!(saga["compensations"][0]["reason"], "made by us");
    assert_eq!(saga["retryOf"], "t-0");
    assert!(saga["notBefore"].is_string(), "{saga}");
    assert_eq!(d.get("t-1"), saga);
}

#[test]
fn every_policy_flag_reaches_the_saga() {
    let d = CliFixture::start();
    let saga = d.one(
        "create --on-stale requeue --max-expirations 2 --on-failure compensate --max-attempts 4 --retry-backoff 2s \
         --retry-backoff-max 1m --execution-timeout 2h --progress-timeout 5m --settle 1m30s --compensation-timeout 1h",
    );
    let policy = json!({
        "onStale": "STALE_ACTION_REQUEUE", "maxExpirations": 2, "onFailure": "FAILURE_ACTION_COMPENSATE",
        "maxAttempts": 4, "retryBackoff": "2s", "retryBackoffMax": "60s", "executionTimeout": "7200s",
        "progressTimeout": "300s", "settle": "90s", "compensationTimeout": "3600s",
    });
    assert_eq!(saga["policy"], policy);
    let text = d.ok(&format!("get {}", saga["taskId"].as_str().unwrap()));
    assert!(text.contains("on-stale requeue, max-expirations 2, on-failure compensate"), "{text}");
    assert!(text.contains("settle 1m 30s"), "{text}");
}

#[test]
fn without_flags_the_coordinators_defaults_apply() {
    let d = CliFixture::start();
    let text = d.ok("create");
    let (id, rest) = text.split_once("  ").unwrap();
    assert_eq!((id.len(), rest), (36, "planned  queue default\n"));
    assert_eq!(d.get(id)["sagaId"], id);
    assert!(d.ok(&format!("get {id}")).contains("policy        default"), "a policy of defaults says so");
}

#[test]
fn payload_may_be_text_or_standard_input_or_escaped() {
    let d = CliFixture::start();
    assert_eq!(d.one("create --payload plain")["payload"], "cGxhaW4=");
    assert_eq!(d.one("create --payload @@at")["payload"], "QGF0");
    let ran = d.run_with("-o json create --payload @-", "piped");
    assert!(ran.out.contains(r#""payload":"cGlwZWQ=""#), "{ran:?}");
    let error = d.refused(2, "USAGE", "create --payload @nowhere").to_string();
    assert!(error.contains("can't read nowhere"), "{error}");
}

#[test]
fn a_request_id_makes_it_safe_to_repeat() {
    let d = CliFixture::start();
    let first = d.one(&format!("create --queue q --request-id {ID}"));
    let again = d.one(&format!("create --queue q --request-id {ID}"));
    assert_eq!(first, again);
    assert_eq!(d.json("list").len(), 1);
    d.refused(3, "REQUEST_ID_REUSED", &format!("create --queue other --request-id {ID}"));
}

#[test]
fn a_second_saga_with_the_same_id_is_refused_and_the_first_unchanged() {
    let d = CliFixture::start();
    let first = d.one("create --task-id t-1 --saga-id s-1 --branch one");
    d.refused(3, "SAGA_EXISTS", "create --task-id t-1 --branch two");
    d.refused(3, "SAGA_EXISTS", "create --task-id t-2 --saga-id s-1");
    assert_eq!(d.get("t-1"), first);
}

#[test]
fn all_malformed_flags_are_reported_at_once() {
    let d = CliFixture::start();
    let error = d.refused(
        2,
        "INVALID_ARGUMENT",
        "create --task-id 'no blanks' --queue ../up --compensate a=b --compensate-reason '\t' --settle 40d",
    );
    let violations = error["violations"].as_array().unwrap();
    assert!(violations.len() >= 3, "{error}");
    let text = d.run("create --task-id 'no blanks' --queue ../up").err;
    assert!(text.contains("\n  task_id: ") && text.contains("\n  queue: "), "{text}");
}
