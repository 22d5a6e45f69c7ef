//! The actor in the history is the principal, whatever the request says.

use sagad::proto::*;

use crate::support::{
    ExpectRefusal,
    principals::{AuthSetup, everyone},
};

#[tokio::test]
async fn the_actor_in_the_history_is_the_principal() {
    let setup = AuthSetup::start(&everyone());
    let (mut operator, mut worker) = (setup.client("operator").await, setup.client("worker").await);
    worker.sagas.create_saga(CreateSagaRequest { task_id: "t".into(), ..Default::default() }).await.unwrap();
    let annotate = |actor: &str| AnnotateRequest {
        task_id: "t".into(),
        actor: actor.into(),
        note: "looked at it".into(),
        ..Default::default()
    };
    for actor in ["", "operator", "jo@laptop", "admin"] {
        operator.sagas.annotate(annotate(actor)).await.unwrap();
    }
    let long = operator.sagas.annotate(annotate(&"x".repeat(190))).await.refused();
    assert_eq!((long.reason.as_str(), &long.fields[..]), ("INVALID_ARGUMENT", &["actor".to_owned()][..]));
    let claim = ClaimRequest { task_id: "t".into(), owner_id: "worker/7".into(), ..Default::default() };
    worker.sagas.claim(claim).await.unwrap();
    let parked =
        QuarantineRequest { task_id: "t".into(), reason: "why".into(), revoke_lease: true, ..Default::default() };
    operator.sagas.quarantine(parked).await.unwrap();
    let events = operator.sagas.list_events(ListEventsRequest { task_id: "t".into(), ..Default::default() }).await;
    let actors: Vec<_> = events.unwrap().into_inner().events.into_iter().map(|event| event.actor).collect();
    let expected =
        ["worker", "operator", "operator", "operator for jo@laptop", "operator for admin", "worker/7", "operator"];
    assert_eq!(actors, expected);
    let pause = PauseQueueRequest { queue: "q".into(), actor: "jo".into(), ..Default::default() };
    let queue = operator.admin.pause_queue(pause).await.unwrap().into_inner().queue.unwrap();
    assert_eq!(queue.actor, "operator for jo");
    let purge = PurgeSagasRequest { older_than: crate::support::secs(0), ..Default::default() };
    setup.client("admin").await.admin.purge_sagas(purge).await.unwrap();
}
