//! What is there before it is measured: sagas, in large batches, and leases that are live all the while.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};

use super::{ids::Stock, progress::Progress};
use crate::{
    cli::errors::CliError,
    client::{Client, convert::to_proto, retry::Again, time},
    proto::{BatchCreateSagasRequest, ClaimNextRequest, CreateSagaRequest},
};

/// Sagas of one call; the contract's bound.
const BATCH: u64 = 1_000;
/// Batches in flight: one is written while the others are on their way.
const IN_FLIGHT: usize = 4;
/// A batch that meets a busy daemon is repeated for so long.
const PATIENCE: Duration = Duration::from_secs(60);
/// Most sagas of one `ClaimNext`.
const CLAIMED_AT_ONCE: u32 = 100;
/// No lease ends while it measures.
const TTL: Duration = Duration::from_secs(12 * 3600);

/// Creates all of the stock's sagas.
pub async fn create(client: &Client, stock: &Stock, progress: &Progress) -> Result<(), CliError> {
    let bar = progress.counting(stock.total(), "sagas");
    let queue = &stock.queue();
    let batches = (0..stock.total()).step_by(BATCH as usize).map(|first| {
        let last = (first + BATCH).min(stock.total());
        let one = |n| CreateSagaRequest { task_id: stock.task_id(n), queue: queue.clone(), ..Default::default() };
        BatchCreateSagasRequest { requests: (first..last).map(one).collect(), ..Default::default() }
    });
    stream::iter(batches)
        .map(|batch| {
            let (count, bar) = (batch.requests.len() as u64, &bar);
            async move {
                let give_up = time::now() + PATIENCE;
                let send = |mut sagas: Sagas, request| async move { sagas.batch_create_sagas(request).await };
                client.call(batch, Again::NotNow, || give_up, send).await?;
                bar.inc(count);
                Ok(())
            }
        })
        .buffered(IN_FLIGHT)
        .try_collect::<()>()
        .await
}

type Sagas = crate::proto::saga_service_client::SagaServiceClient<crate::client::Wire>;

/// Takes so many leases from a queue, of which it must have that many sagas.
pub async fn lease(client: &Client, queue: &str, count: u32, progress: &Progress) -> Result<(), CliError> {
    let bar = progress.counting(count.into(), "leases");
    let mut left = count;
    while left > 0 {
        let request = ClaimNextRequest {
            queues: vec![queue.to_owned()],
            owner_id: "bench-holder".to_owned(),
            ttl: Some(to_proto(TTL)),
            max_sagas: i32::try_from(left.min(CLAIMED_AT_ONCE)).unwrap_or(1),
            ..Default::default()
        };
        let claimed = client.sagas().claim_next(client.unary(request)).await?.into_inner().sagas;
        let got = u32::try_from(claimed.len()).unwrap_or(left);
        if got == 0 {
            return Err(CliError::Failed(format!("{left} sagas are missing in queue {queue}")));
        }
        left = left.saturating_sub(got);
        bar.inc(got.into());
    }
    Ok(())
}
