//! Prepares the queue for `--ahead` and `--undo`: sagas to be compensated, and sagas ahead that the load's claims
//! can't take.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};

use super::{
    args::{Ids, Plan},
    claim_next::{CLAIMED_AT_ONCE, LONG_TTL, claim_next},
    preload,
    progress::Progress,
    saga_pool::SagaPool,
};
use crate::{
    cli::errors::CliError,
    client::{Client, convert::to_proto, time},
    proto::{CompensationSpec, CreateSagaRequest, DispatchRequest, GetStatsRequest, Policy, SagaState, StaleAction},
};

/// The kind of compensation that the load's claims handle.
pub const KIND: &str = "bench";
/// A kind that they don't handle.
const OTHER_KIND: &str = "bench-other";
/// Calls in flight while the queue is prepared.
const IN_FLIGHT: usize = 16;
/// The shortest lease: it is left to expire, which leads to compensation.
const SHORT_TTL: Duration = Duration::from_millis(100);
/// How long to wait for the next saga to become compensating.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pause between two checks of it.
const LOOK: Duration = Duration::from_millis(200);

/// Creates the pool's sagas by calls, after those that the plan wants ahead of them in the queue.
///
/// # Errors
/// A call failed, or the daemon did not make the sagas with expired leases compensating.
pub async fn create(client: &Client, plan: &Plan, pool: &SagaPool, progress: &Progress) -> Result<(), CliError> {
    let queue = pool.queue();
    let ahead = SagaPool::new(rand::random(), Ids::Ordered, plan.args.ahead.into()).in_queue(queue.clone());
    if !plan.args.undo {
        preload::create(client, &ahead, &CreateSagaRequest::default(), progress).await?;
        reserve(client, &ahead, progress).await?;
        return preload::create(client, pool, &CreateSagaRequest::default(), progress).await;
    }
    preload::create(client, &ahead, &undoable(OTHER_KIND), progress).await?;
    preload::create(client, pool, &undoable(KIND), progress).await?;
    compensate(client, &queue, ahead.total() + pool.total(), progress).await
}

/// A saga that becomes compensating as soon as a lease on it expires.
fn undoable(kind: &str) -> CreateSagaRequest {
    let spec = CompensationSpec { kind: kind.to_owned(), ..Default::default() };
    let settle = Some(to_proto(Duration::ZERO));
    let policy = Policy { on_stale: StaleAction::Compensate.into(), settle, ..Default::default() };
    CreateSagaRequest { compensations: vec![spec], policy: Some(policy), ..Default::default() }
}

/// Reserves all sagas of a pool for a worker that never claims them.
async fn reserve(client: &Client, pool: &SagaPool, progress: &Progress) -> Result<(), CliError> {
    let bar = progress.counting(pool.total(), "reservations");
    stream::iter(0..pool.total())
        .map(|n| {
            let request = DispatchRequest {
                task_id: pool.task_id(n),
                assignee: "bench-elsewhere".to_owned(),
                ttl: Some(to_proto(LONG_TTL)),
                actor: "bench".to_owned(),
                ..Default::default()
            };
            let bar = &bar;
            async move {
                client.sagas().dispatch(client.unary(request)).await?;
                bar.inc(1);
                Ok(())
            }
        })
        .buffer_unordered(4 * IN_FLIGHT)
        .try_collect::<()>()
        .await
}

/// Takes a short lease on each saga of a queue, and waits until all are compensating.
async fn compensate(client: &Client, queue: &str, count: u64, progress: &Progress) -> Result<(), CliError> {
    let bar = progress.counting(count, "sagas to be compensated");
    stream::iter((0..count).step_by(CLAIMED_AT_ONCE as usize))
        .map(|_| async {
            let request = claim_next(queue, "bench-gone", SHORT_TTL, CLAIMED_AT_ONCE);
            client.sagas().claim_next(client.unary(request)).await?;
            Ok::<_, CliError>(())
        })
        .buffer_unordered(IN_FLIGHT)
        .try_collect::<()>()
        .await?;
    let (mut seen, mut give_up) = (0, time::now() + PATIENCE);
    loop {
        let stats = client.sagas().get_stats(client.unary(GetStatsRequest {})).await?.into_inner();
        let states = stats.queues.iter().filter(|of| of.queue == queue).flat_map(|of| &of.states);
        let compensating = states.filter(|of| of.state() == SagaState::Compensating).map(|of| of.count).sum::<i64>();
        let compensating = u64::try_from(compensating).unwrap_or(0);
        if compensating >= count {
            return Ok(());
        }
        if compensating > seen {
            bar.inc(compensating - seen);
            (seen, give_up) = (compensating, time::now() + PATIENCE);
        } else if time::now() > give_up {
            return Err(CliError::Failed(format!("only {seen} of {count} sagas became compensating")));
        }
        tokio::time::sleep(LOOK).await;
    }
}
