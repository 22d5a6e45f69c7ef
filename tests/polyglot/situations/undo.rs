//! A full compensation, by `worker compensate`.

use sagad::proto::*;

use crate::{
    languages::{Language, Role},
    situation_run::{SituationRun, make_dir, mark, remove_dir},
    support::{api::claim, key},
};

/// Creates a saga that has failed and waits to be compensated.
async fn to_be_undone(run: &SituationRun, task_id: &str, compensations: Vec<CompensationSpec>) {
    let policy = Some(Policy { on_failure: FailureAction::Compensate.into(), ..Default::default() });
    run.create(CreateSagaRequest { compensations, policy, ..run.report(task_id, &[], 0) }).await;
    let saga = run.api.claim(claim(task_id, "somebody", 60_000)).await.unwrap();
    let saga = run.api.fail(key(&saga).fail("it went wrong")).await.unwrap();
    assert_eq!(saga.state(), SagaState::Compensating);
}

/// Three directories in reverse order, one of which does not exist; then a directory of another task.
pub async fn undone(language: &'static Language) {
    let run = SituationRun::new(language).await;
    let (outer, inner, absent) = (run.path("outer"), run.path("outer/inner"), run.path("absent"));
    make_dir(&outer, "t");
    make_dir(&inner, "t");
    to_be_undone(&run, "t", [&outer, &inner, &absent].map(|path| remove_dir(path)).to_vec()).await;

    let mut compensator = run.ready(Role::Compensator, "c", &[("SAGAD_TTL", "15")]).await;
    assert_eq!(compensator.until_of("compensated", "t").await["state"], "SAGA_STATE_COMPENSATED");
    let settled = compensator.of("settled", "t");
    let order: Vec<_> = settled.iter().map(|event| event["position"].as_i64().unwrap()).collect();
    assert_eq!(order, [3, 2, 1]);
    assert!(settled.iter().all(|event| event["outcome"] == "DONE"));
    assert!(!outer.exists());
    let saga = run.api.get("t").await;
    assert_eq!(saga.state(), SagaState::Compensated);
    assert!(saga.compensations.iter().all(|one| one.state() == CompensationState::Done && one.settled_by == "c"));

    // It does not claim sagas with other kinds, even while it waits.
    to_be_undone(&run, "other-kind", vec![crate::support::compensation("melt-ice")]).await;
    // A directory of another task is not removed, and its compensation is not reported as done.
    let foreign = run.path("foreign");
    make_dir(&foreign, "another");
    to_be_undone(&run, "u", vec![remove_dir(&foreign)]).await;
    let settled = compensator.until_of("settled", "u").await;
    assert_eq!((&settled["position"], &settled["outcome"]), (&1.into(), &"FAILED".into()));
    assert_eq!((mark(&foreign).as_str(), foreign.join("report.txt").exists()), ("another", true));
    let saga = run.api.get("u").await;
    assert_ne!(saga.state(), SagaState::Compensated);
    assert!(saga.compensations[0].attempts >= 1 && !saga.compensations[0].last_error.is_empty());
    assert_eq!(compensator.of("claimed", "other-kind").len(), 0);
    assert_eq!(run.api.get("other-kind").await.state(), SagaState::Compensating);
    assert_eq!(compensator.of("refused", "t").len(), 0);
}
