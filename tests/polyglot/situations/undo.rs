//! A full compensation, by `worker compensate`.

use sagad::proto::*;

use crate::{
    languages::{Language, Role},
    scene::{Scene, make_dir, mark, remove_dir},
    support::{api::claim, key},
};

/// Makes a saga that is to be undone: it was worked on, and failed.
async fn to_be_undone(scene: &Scene, task_id: &str, compensations: Vec<CompensationSpec>) {
    let policy = Some(Policy { on_failure: FailureAction::Compensate.into(), ..Default::default() });
    scene.make(CreateSagaRequest { compensations, policy, ..scene.report(task_id, &[], 0) }).await;
    let saga = scene.api.claim(claim(task_id, "somebody", 60_000)).await.unwrap();
    let saga = scene.api.fail(key(&saga).fail("it went wrong")).await.unwrap();
    assert_eq!(saga.state(), SagaState::Compensating);
}

/// Three directories in reverse order, one of which is not there; then one that is another task's.
pub async fn undone(language: &'static Language) {
    let scene = Scene::new(language).await;
    let (outer, inner, absent) = (scene.path("outer"), scene.path("outer/inner"), scene.path("absent"));
    make_dir(&outer, "t");
    make_dir(&inner, "t");
    to_be_undone(&scene, "t", [&outer, &inner, &absent].map(|path| remove_dir(path)).to_vec()).await;

    let mut compensator = scene.ready(Role::Compensator, "c", &[("SAGAD_TTL", "15")]).await;
    assert_eq!(compensator.until_of("compensated", "t").await["state"], "SAGA_STATE_COMPENSATED");
    let settled = compensator.of("settled", "t");
    let order: Vec<_> = settled.iter().map(|event| event["position"].as_i64().unwrap()).collect();
    assert_eq!(order, [3, 2, 1]);
    assert!(settled.iter().all(|event| event["outcome"] == "DONE"));
    assert!(!outer.exists());
    let saga = scene.api.get("t").await;
    assert_eq!(saga.state(), SagaState::Compensated);
    assert!(saga.compensations.iter().all(|one| one.state() == CompensationState::Done && one.settled_by == "c"));

    // Of other kinds it takes nothing, even if it waits.
    to_be_undone(&scene, "other-kind", vec![crate::support::compensation("melt-ice")]).await;
    // What another task made is not touched, and is not said to be undone.
    let foreign = scene.path("foreign");
    make_dir(&foreign, "another");
    to_be_undone(&scene, "u", vec![remove_dir(&foreign)]).await;
    let settled = compensator.until_of("settled", "u").await;
    assert_eq!((&settled["position"], &settled["outcome"]), (&1.into(), &"FAILED".into()));
    assert_eq!((mark(&foreign).as_str(), foreign.join("report.txt").exists()), ("another", true));
    let saga = scene.api.get("u").await;
    assert_ne!(saga.state(), SagaState::Compensated);
    assert!(saga.compensations[0].attempts >= 1 && !saga.compensations[0].last_error.is_empty());
    assert_eq!(compensator.of("claimed", "other-kind").len(), 0);
    assert_eq!(scene.api.get("other-kind").await.state(), SagaState::Compensating);
    assert_eq!(compensator.of("refused", "t").len(), 0);
}
