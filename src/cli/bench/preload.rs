//! Creates what must be there before the measurement: sagas, by large batches or directly in the store, and live
//! leases.

use std::{fmt::Display, path::Path, sync::Arc, time::Duration};

use futures::{StreamExt, TryStreamExt, stream};
use tokio::task::spawn_blocking;

use super::{
    claim_next::{CLAIMED_AT_ONCE, LONG_TTL, claim_next},
    progress::Progress,
    saga_pool::SagaPool,
};
use crate::{
    cli::errors::CliError,
    client::{AuthenticatedChannel, Client, retry::RetryOn, time},
    clock::SystemClock,
    domain::{
        bounds::BATCH_SAGAS,
        command::{Command, Creation, Request as CommandRequest},
        ids::{Malformed, QueueName, TaskId},
        time::Span,
    },
    proto::{BatchCreateSagasRequest, CreateSagaRequest, saga_service_client::SagaServiceClient},
    store::{StoreOptions, sqlite},
};

/// Sagas of one call.
const BATCH: u64 = BATCH_SAGAS as u64;
/// Batches in flight: one is written while the others are on their way.
const IN_FLIGHT: usize = 4;
/// The log's bound while a store is filled directly.
const DIRECT_WAL_BYTES: u64 = 64 << 20;
/// How long a batch is retried if the daemon is busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// Creates all sagas of a pool from a template.
pub async fn create(
    client: &Client,
    pool: &SagaPool,
    template: &CreateSagaRequest,
    progress: &Progress,
) -> Result<(), CliError> {
    let bar = progress.counting(pool.total(), "sagas");
    let queue = &pool.queue();
    let batches = (0..pool.total()).step_by(BATCH as usize).map(|first| {
        let last = (first + BATCH).min(pool.total());
        let one = |n| CreateSagaRequest { task_id: pool.task_id(n), queue: queue.clone(), ..template.clone() };
        BatchCreateSagasRequest { requests: (first..last).map(one).collect(), ..Default::default() }
    });
    stream::iter(batches)
        .map(|batch| {
            let (count, bar) = (batch.requests.len() as u64, &bar);
            async move {
                let give_up = time::now() + PATIENCE;
                let send = |mut sagas: SagaServiceClient<AuthenticatedChannel>, request| async move {
                    sagas.batch_create_sagas(request).await
                };
                client.call(batch, RetryOn::NotNow, || give_up, send).await?;
                bar.inc(count);
                Ok(())
            }
        })
        .buffered(IN_FLIGHT)
        .try_collect::<()>()
        .await
}

/// Creates all sagas of a pool directly in the store of this directory, which no daemon has open: several times faster
/// than by calls.
pub async fn directly(data: &Path, pool: &SagaPool, progress: &Progress) -> Result<(), CliError> {
    let failed = |error: &dyn Display| CliError::Failed(format!("the store can't be filled: {error}"));
    let (restart_grace, batch) = (Span::ZERO, BATCH as usize);
    let options = StoreOptions { restart_grace, queue: IN_FLIGHT, batch, readers: 1, max_waiting: 1 };
    let (data, clock) = (data.to_owned(), Arc::new(SystemClock::start()));
    let opened = spawn_blocking(move || sqlite::open(&data, DIRECT_WAL_BYTES, &options, clock));
    let (store, mut writer) = opened.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    let queue = QueueName::parse(&pool.queue()).map_err(|error| failed(&error.0))?;
    let bar = progress.counting(pool.total(), "sagas");
    let sagas = pool.by_id();
    let batches = sagas.chunks(batch).map(|sagas| {
        let ids = sagas.iter().map(|n| TaskId::parse(&pool.task_id(*n)));
        ids.map(|id| id.map(|id| Creation::new(id, queue.clone()))).collect::<Result<Vec<_>, _>>()
    });
    let filled = stream::iter(batches)
        .map(|batch| async {
            let creations = batch.map_err(|error: Malformed| failed(&error.0))?;
            let count = creations.len() as u64;
            let request = CommandRequest { command: Command::Create(creations), key: None, by: None };
            store.submit(request).await.map_err(|error| failed(&error))?;
            bar.inc(count);
            Ok(())
        })
        .buffered(IN_FLIGHT)
        .try_collect::<()>()
        .await;
    store.close();
    writer.ended().await.map_err(|error| failed(&error))?;
    filled
}

/// Takes leases in a queue, which must have enough sagas.
pub async fn lease(client: &Client, queue: &str, count: u64, progress: &Progress) -> Result<(), CliError> {
    let bar = progress.counting(count, "leases");
    let mut left = count;
    while left > 0 {
        let request = claim_next(queue, "bench-holder", LONG_TTL, left.min(CLAIMED_AT_ONCE));
        let claimed = client.sagas().claim_next(client.unary(request)).await?.into_inner().sagas.len() as u64;
        if claimed == 0 {
            return Err(CliError::Failed(format!("{left} sagas are missing in queue {queue}")));
        }
        left = left.saturating_sub(claimed);
        bar.inc(claimed);
    }
    Ok(())
}
