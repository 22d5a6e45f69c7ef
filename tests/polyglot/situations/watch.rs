//! The watcher, over restarts of the coordinator and of the watcher itself.

use std::fs;

use sagad::proto::*;
use serde_json::Value;

use crate::{
    languages::{Language, Role},
    program::Program,
    situation_run::SituationRun,
    support::{claim, claim_undo, create, eventually, held, key, ms},
};

/// Creates a saga whose lease expires soon.
async fn abandon(run: &SituationRun, request: CreateSagaRequest) {
    let task_id = request.task_id.clone();
    run.create(request).await;
    run.api.claim(claim(&task_id, "gone", 100)).await.unwrap();
}

/// Waits until the watcher has stored a position at or after this revision.
async fn until_kept(run: &SituationRun, revision: i64) {
    let path = run.path("revision");
    eventually(&format!("revision {revision} is kept"), || async {
        let kept: i64 = fs::read_to_string(&path).ok()?.trim().parse().ok()?;
        (kept >= revision).then_some(())
    })
    .await;
}

fn revision_of(event: &Value) -> i64 {
    event["revision"].as_i64().unwrap()
}

/// Asserts that the events of several watchers, one after the other, equal the history, each once and in order.
async fn assert_record(run: &SituationRun, watchers: &[&Program], names: &[&str]) {
    let told = |event: &str| -> Vec<(i64, String)> {
        let all = watchers.iter().flat_map(|watcher| watcher.all(event));
        all.map(|e| (revision_of(&e), e["task_id"].as_str().unwrap().to_owned())).collect()
    };
    let mut wanted = Vec::new();
    for name in names {
        let history = run.api.history(name).await;
        let expired = history.iter().filter(|event| event.r#type() == EventType::LeaseExpired);
        wanted.extend(expired.map(|event| (event.revision, (*name).to_owned())));
    }
    wanted.sort();
    assert_eq!(told("stale"), wanted, "each that became stale, once and in order");
}

/// Two watchers of a queue, one after the other with the same stored position, and a coordinator that is killed in between.
pub async fn watched(language: &'static Language) {
    let mut run = SituationRun::new(language).await;
    let file = run.path("revision").to_str().unwrap().to_owned();
    let settings = [("SAGAD_REVISION_FILE", file.as_str())];
    // Stale before the watcher starts, so it is in the snapshot.
    run.api.stale(create("in-snapshot"), "gone").await;
    let mut first = run.ready(Role::Watcher, "the-watcher", &settings).await;
    assert_eq!(first.until_of("decided", "in-snapshot").await["decision"], "REQUEUE");

    abandon(&run, held("with", &["a"])).await;
    assert_eq!(first.until_of("decided", "with").await["decision"], "COMPENSATE");
    let resolved = first.until_of("resolved", "with").await;
    assert_eq!(resolved["resolution"], "RESOLUTION_COMPENSATING");
    assert_eq!(run.event("with", EventType::RecoveryDecided).await.actor, "the-watcher");

    // A stale lease for compensation is left to the compensators: this saga stays stale during the whole test.
    let undoing = claim_undo("undoing", "gone", 100);
    run.create(held("undoing", &["a"])).await;
    run.api.claim(undoing).await.unwrap();
    first.until_of("stale", "undoing").await;

    // The coordinator is killed. The resumed stream reports sagas that become stale afterwards.
    until_kept(&run, revision_of(&first.until_of("stale", "undoing").await)).await;
    run.daemon.kill().await;
    first.until_event("reconnecting").await;
    run.daemon.start_again();
    run.api = run.daemon.api().await;
    abandon(&run, create("after-restart")).await;
    assert_eq!(first.until_of("decided", "after-restart").await["decision"], "REQUEUE");
    until_kept(&run, revision_of(&first.until_of("resolved", "after-restart").await)).await;

    // The watcher is killed. The next one resumes, so it also reports a saga that was stale only in between.
    first.kill();
    let saga = run.api.stale(create("came-and-went"), "gone").await;
    run.api.claim(claim("came-and-went", "quick", 60_000)).await.unwrap();
    run.api.stale(create("meanwhile"), "gone").await;
    let mut second = run.start_at(run.daemon.address(), Role::Watcher, "the-second", &settings);
    assert_eq!(second.until_of("decided", "meanwhile").await["decision"], "REQUEUE");
    second.until_of("resolved", "meanwhile").await;
    assert_eq!(second.of("stale", "came-and-went")[0]["fencing_token"], key(&saga).fencing_token);
    assert_eq!(second.of("resolved", "came-and-went")[0]["resolution"], "RESOLUTION_RECLAIMED");
    assert_eq!(second.of("decided", "came-and-went").len(), 0, "another client has decided first");
    let names = ["in-snapshot", "with", "undoing", "after-restart", "came-and-went", "meanwhile"];
    assert_record(&run, &[&first, &second], &names).await;
    assert_eq!(run.api.get("undoing").await.state(), SagaState::Compensating);
    assert_eq!((first.of("decided", "undoing").len(), second.all("drained").len()), (0, 0));
    second.drain().await;

    // The stored position is compacted, so the watcher starts again with a snapshot.
    let made = run.create(create("purged")).await;
    let cancel = RequestCancelRequest {
        task_id: "purged".into(),
        actor: "a person".into(),
        reason: "not needed".into(),
        ..Default::default()
    };
    run.api.request_cancel(cancel).await.unwrap();
    let purge = PurgeSagasRequest { older_than: ms(0), actor: "a person".into(), ..Default::default() };
    assert_eq!(run.api.purge(purge).await.unwrap().purged_sagas, 1);
    fs::write(&file, format!("{}\n", made.revision - 1)).unwrap();
    let mut third = run.ready(Role::Watcher, "the-third", &settings).await;
    third.until_of("stale", "undoing").await;
    third.drain().await;
}
