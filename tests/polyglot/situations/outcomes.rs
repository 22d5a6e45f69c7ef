//! The outcomes of undisturbed work: done, failed, or not started.

use std::fs;

use sagad::proto::*;

use crate::{
    languages::{Language, Role},
    situation_run::{SituationRun, make_dir, mark},
    support::{compensation, ms},
};

/// The work is done, with all of its events.
pub async fn completed(language: &'static Language) {
    let run = SituationRun::new(language).await;
    let lines = ["one", "two words", "three", "four", "five", "six"];
    let mut worker = run.worker("", "6").await;
    run.create(run.report("t", &lines, 500)).await;
    let done = worker.until_of("completed", "t").await;
    assert_eq!(done["state"], "SAGA_STATE_COMPLETED");
    run.assert_completed("t", &lines, 1).await;

    let lease = run.api.get("t").await.lease.unwrap();
    assert!(lease.owner_id.starts_with(&format!("{}-", language.name)), "the owner by default: {}", lease.owner_id);
    let claimed = worker.of("claimed", "t");
    assert_eq!(claimed.len(), 1);
    assert_eq!(claimed[0]["fencing_token"], lease.fencing_token);
    assert_eq!((&claimed[0]["attempt"], &claimed[0]["purpose"]), (&1.into(), &"EXECUTE".into()));
    // The compensation is registered before the effect, each line is written once, and the rest are heartbeats.
    let steps: Vec<_> = worker.events().into_iter().filter(|event| event["event"] != "heartbeat").collect();
    let names: Vec<_> = steps.iter().map(|event| event["event"].as_str().unwrap()).collect();
    let wanted = [&["ready", "claimed", "registered"][..], &["line"; 6][..], &["completed"][..]].concat();
    assert_eq!(names, wanted);
    assert_eq!(steps[2]["target"], run.path("t").to_str().unwrap());
    let numbers: Vec<_> = worker.of("line", "t").iter().map(|event| event["n"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
    let beats = worker.of("heartbeat", "t");
    assert!(!beats.is_empty(), "it took half as long as its lease");
    for beat in beats {
        let left = beat["expire_in_ms"].as_i64().unwrap();
        assert!(left <= 6000, "{left} ms: no lease is longer than its ttl, counted from the sending");
    }
    let progress = String::from_utf8(run.api.get("t").await.progress.to_vec()).unwrap();
    assert_eq!(progress, "6/6", "the report has the last progress");
    worker.drain().await;
}

/// Failures of every kind.
pub async fn failed(language: &'static Language) {
    let run = SituationRun::new(language).await;
    let mut worker = run.worker("w", "10").await;

    run.create(run.report("for-good", &["one", "!fail", "three"], 0)).await;
    assert_eq!(worker.until_of("failed", "for-good").await["state"], "SAGA_STATE_FAILED");
    assert_eq!(run.api.get("for-good").await.failures, 0, "it was not retryable");
    assert_eq!(run.text("for-good").lines().count(), 1, "the report has the lines before the failure only");

    let policy = Policy { max_attempts: 2, retry_backoff: ms(100), ..Default::default() };
    let retried = CreateSagaRequest { policy: Some(policy), ..run.report("retried", &["one", "!retry"], 0) };
    run.create(retried).await;
    let what = "the second attempt fails for good";
    worker
        .until(what, |e| e["event"] == "failed" && e["task_id"] == "retried" && e["state"] == "SAGA_STATE_FAILED")
        .await;
    let states: Vec<_> = worker.of("failed", "retried").iter().map(|event| event["state"].clone()).collect();
    assert_eq!(states, ["SAGA_STATE_PLANNED", "SAGA_STATE_FAILED"]);
    let saga = run.api.get("retried").await;
    assert_eq!((saga.failures, saga.attempt, saga.compensations.len()), (2, 2, 1), "registered once");
    assert_eq!(run.text("retried").lines().count(), 1, "the second attempt starts the report again");

    // Without a compensation it can't be failed: it is quarantined, with a reason.
    let bad = CreateSagaRequest { payload: "{\"dir\": 7}".into(), ..run.report("bad", &[], 0) };
    run.create(bad).await;
    assert_eq!(worker.until_of("quarantined", "bad").await["state"], "SAGA_STATE_QUARANTINED");
    assert!(!run.api.get("bad").await.terminal_reason.is_empty());
    let bad = CreateSagaRequest {
        payload: "no json".into(),
        compensations: vec![compensation("something")],
        ..run.report("bad-too", &[], 0)
    };
    run.create(bad).await;
    assert_eq!(worker.until_of("failed", "bad-too").await["state"], "SAGA_STATE_FAILED");
    assert_eq!(run.api.get("bad-too").await.failures, 0, "it was not retryable");

    // A directory of another task is not written to.
    make_dir(&run.path("foreign"), "another");
    run.create(run.report("foreign", &["one"], 0)).await;
    assert_eq!(worker.until_of("failed", "foreign").await["state"], "SAGA_STATE_FAILED");
    assert_eq!((mark(&run.path("foreign")).as_str(), run.text("foreign").as_str()), ("another", "something"));

    // The compensation can't be registered, so the work has no effect.
    let full = (0..128).map(|n| compensation(&format!("kind-{n}"))).collect();
    run.create(CreateSagaRequest { compensations: full, ..run.report("full", &["one"], 0) }).await;
    assert_eq!(worker.until_of("failed", "full").await["state"], "SAGA_STATE_FAILED");
    assert!(!run.path("full").exists(), "an effect before its compensation was registered");

    worker.drain().await;
    assert_eq!(worker.all("refused").len(), 0);
    assert_eq!(worker.all("lost").len(), 0);
}

/// A length of a lease is accepted in each form. An invalid setting causes one line on stderr that names the variable, and exit
/// code 2.
pub async fn settings(language: &'static Language) {
    let run = SituationRun::new(language).await;
    for (text, ttl_ms) in [("30", 30_000), ("45s", 45_000), ("5500ms", 5_500), ("2.5m", 150_000), ("1h", 3_600_000)] {
        let mut worker = run.start_at(run.daemon.address(), Role::Worker, "w", &[("SAGAD_TTL", text)]);
        run.create(run.report(text, &["one"], 0)).await;
        worker.until_of("completed", text).await;
        let lease = run.api.get(text).await.lease.unwrap();
        assert_eq!(lease.ttl, ms(ttl_ms), "SAGAD_TTL={text}");
        worker.drain().await;
    }
    let wrong = [
        (Role::Worker, "SAGAD_TTL", "soon"),
        (Role::Compensator, "SAGAD_TTL", "-1"),
        (Role::Worker, "SAGAD_TTL", "30 s"),
        (Role::Worker, "SAGAD_TTL", "99ms"),
        (Role::Compensator, "SAGAD_TTL", "25h"),
        (Role::Watcher, "SAGAD_TTL", "1d"),
        (Role::Watcher, "SAGAD_SERVER", "nowhere"),
    ];
    let made = fs::read_dir(run.path("")).unwrap().count();
    for (role, name, value) in wrong {
        let mut program = run.start_at(run.daemon.address(), role, "w", &[(name, value)]);
        let code = program.end().await;
        let said = program.stderr();
        assert_eq!(code, 2, "{role:?} with {name}={value}: {said}");
        let lines: Vec<_> = said.lines().filter(|line| !line.trim().is_empty()).collect();
        assert!(lines.len() == 1 && lines[0].contains(name), "{role:?} with {name}={value}: {said}");
        if name == "SAGAD_TTL" {
            for form in ["30", "30s", "500ms", "2m", "1h"] {
                assert!(lines[0].contains(form), "{role:?} with {name}={value} does not name the form {form}: {said}");
            }
        }
        assert!(program.events().is_empty());
    }
    assert_eq!(fs::read_dir(run.path("")).unwrap().count(), made);
}
