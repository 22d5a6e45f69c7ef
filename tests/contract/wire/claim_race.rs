//! Concurrent claims: each saga is given to one worker.

use std::{collections::HashSet, sync::Arc};

use futures::future::join_all;
use sagad::proto::*;
use tokio::sync::Barrier;

use crate::support::*;

const WORKERS: usize = 64;
const CONNECTIONS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m3_exactly_one_of_64_concurrent_claims_gets_the_saga() {
    let daemon = Daemon::start();
    let clients = join_all((0..CONNECTIONS).map(|_| daemon.api())).await;
    let mut tokens = HashSet::new();
    for round in 0..200 {
        let task_id = format!("t-{round}");
        clients[0].create_saga(create(&task_id)).await.unwrap();
        let barrier = Arc::new(Barrier::new(WORKERS));
        let racers = (0..WORKERS).map(|worker| {
            let (api, barrier) = (clients[worker % CONNECTIONS].clone(), barrier.clone());
            let request = claim(&task_id, &format!("worker-{worker}"), 60_000);
            tokio::spawn(async move {
                barrier.wait().await;
                api.claim(request).await
            })
        });
        let answers = join_all(racers).await.into_iter().map(Result::unwrap);
        let (winners, losers): (Vec<_>, Vec<_>) = answers.partition(Result::is_ok);
        assert_eq!(winners.len(), 1, "round {round}");
        let won = winners.into_iter().next().unwrap().unwrap();
        for loser in losers {
            let problem = loser.refused();
            assert_eq!(
                (problem.reason.as_str(), problem.fact("owner_id")),
                ("LEASE_HELD", key(&won).owner_id.as_str())
            );
        }
        let after = clients[1].get(&task_id).await;
        assert_eq!(after, won, "the refused claims changed nothing");
        assert_eq!(clients[1].history(&task_id).await.len(), 2, "created and claimed");
        assert!(tokens.insert(key(&won).fencing_token), "a token was assigned twice");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m3_claim_next_gives_each_saga_to_one_worker() {
    const SAGAS: usize = 300;
    let daemon = Daemon::start();
    let clients = join_all((0..CONNECTIONS).map(|_| daemon.api())).await;
    let requests = (0..SAGAS).map(|saga| create(&format!("t-{saga}"))).collect();
    let batch = BatchCreateSagasRequest { requests, ..Default::default() };
    clients[0].batch_create_sagas(batch).await.unwrap();
    let workers = (0..WORKERS).map(|worker| {
        let api = clients[worker % CONNECTIONS].clone();
        tokio::spawn(async move {
            let mut mine = Vec::new();
            loop {
                let request = ClaimNextRequest {
                    queues: vec!["default".into()],
                    owner_id: format!("worker-{worker}"),
                    max_sagas: 3,
                    ..Default::default()
                };
                let sagas = api.claim_next(request).await.unwrap();
                if sagas.is_empty() {
                    return mine;
                }
                mine.extend(sagas.into_iter().map(|saga| saga.task_id));
            }
        })
    });
    let given: Vec<_> = join_all(workers).await.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!((given.len(), given.iter().collect::<HashSet<_>>().len()), (SAGAS, SAGAS));
}
