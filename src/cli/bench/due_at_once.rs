//! [`DueAtOnce`]: leases and delays that all end at one moment in the middle of the measurement, as after an absence,
//! while clients claim what becomes ready.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use tonic::Status;

use super::{
    args::{Ids, Plan},
    claim_next::{CLAIMED_AT_ONCE, LONG_TTL, claim_next},
    load_client::RunState,
    preload,
    progress::Progress,
    saga_pool::SagaPool,
};
use crate::{
    cli::errors::CliError,
    client::{
        Client,
        convert::to_proto,
        time::{self, Moment},
    },
    proto::{ClaimNextRequest, CreateSagaRequest, GetStatsRequest, Policy, StaleAction},
};

/// Leases and delays that can be prepared in a second, on a machine that is busy otherwise.
const PREPARED_PER_SECOND: u32 = 10_000;
/// The contract's shortest lease. Preparing must be done this long before the common end.
const SHORTEST: Duration = Duration::from_millis(100);
/// Calls in flight while it is prepared.
const IN_FLIGHT: usize = 8;
/// How long half of the claimers wait for a saga; the others don't wait.
const WAIT: Duration = Duration::from_millis(500);
/// The pause between a claimer's answer and its next call.
const PAUSE: Duration = Duration::from_millis(2);

/// Leases and delays with one common end.
pub struct DueAtOnce {
    /// Sagas that stay stale.
    held: SagaPool,
    /// Sagas that are requeued.
    again: SagaPool,
    /// Sagas that are delayed.
    late: SagaPool,
    at: Moment,
}

impl DueAtOnce {
    /// Creates the sagas and takes the leases that the plan asks for; none if it asks for none. All end half the
    /// measurement's length after [`DueAtOnce::begin`] and the warmup.
    ///
    /// # Errors
    /// A call failed, or the machine is too slow: leases would end before the measurement begins.
    pub async fn prepare(client: &Client, plan: &Plan, progress: &Progress) -> Result<Option<Self>, CliError> {
        if plan.args.due + plan.args.delays == 0 {
            return Ok(None);
        }
        let pool = |count: u32| SagaPool::new(rand::random(), Ids::Ordered, count.into());
        let (held, again, late) =
            (pool(plan.args.due / 2), pool(plan.args.due - plan.args.due / 2), pool(plan.args.delays));
        let requeued = Policy { on_stale: StaleAction::Requeue.into(), ..Default::default() };
        let requeued = CreateSagaRequest { policy: Some(requeued), ..Default::default() };
        preload::create(client, &held, &CreateSagaRequest::default(), progress).await?;
        preload::create(client, &again, &requeued, progress).await?;

        let allowed = Duration::from_secs((8 + (plan.args.due + plan.args.delays) / PREPARED_PER_SECOND).into());
        let before = plan.args.warmup + plan.args.duration / 2;
        let at = time::now() + allowed + before;
        for pool in [&held, &again] {
            take(client, pool, at, progress).await?;
        }
        let delay = Some(to_proto(left(at)?));
        let delayed = CreateSagaRequest { delay, ..Default::default() };
        preload::create(client, &late, &delayed, progress).await?;
        left(at - before)?;
        Ok(Some(DueAtOnce { held, again, late, at }))
    }

    /// Waits until the warmup has to begin.
    pub async fn begin(&self, plan: &Plan) {
        let begin = self.at - (plan.args.warmup + plan.args.duration / 2);
        tokio::time::sleep(begin.since(time::now())).await;
    }

    /// The queues that claimers claim from.
    pub fn queues(&self) -> Vec<String> {
        [&self.held, &self.again, &self.late].map(SagaPool::queue).into()
    }

    /// What the daemon has processed by now.
    ///
    /// # Errors
    /// The daemon has not processed all of it, so the figures mean nothing.
    pub async fn done(&self, client: &Client) -> Result<Value, CliError> {
        let stats = client.sagas().get_stats(client.unary(GetStatsRequest {})).await?.into_inner();
        let stale = stats.queues.iter().find(|of| of.queue == self.held.queue()).map_or(0, |of| of.stale);
        if u64::try_from(stale).ok() != Some(self.held.total()) {
            let of = self.held.total();
            return Err(CliError::Failed(format!(
                "only {stale} of {of} expired leases were processed: try a longer --duration"
            )));
        }
        Ok(json!({ "leases": self.held.total() + self.again.total(), "delays": self.late.total(), "stale": stale }))
    }
}

/// The time until then, as a lease's length.
fn left(at: Moment) -> Result<Duration, CliError> {
    let left = at.since(time::now());
    if left < SHORTEST {
        return Err(CliError::Failed(
            "the machine is too slow to prepare that many leases: try a smaller --due".to_owned(),
        ));
    }
    Ok(left)
}

/// Takes a lease on each saga of a pool; all end at `at`, except for the time that a call takes to arrive.
async fn take(client: &Client, pool: &SagaPool, at: Moment, progress: &Progress) -> Result<(), CliError> {
    let bar = progress.counting(pool.total(), "leases");
    stream::iter((0..pool.total()).step_by(CLAIMED_AT_ONCE as usize))
        .map(|first| {
            let (count, bar) = ((pool.total() - first).min(CLAIMED_AT_ONCE), &bar);
            async move {
                let request = claim_next(&pool.queue(), "bench-gone", left(at)?, count);
                let claimed = client.sagas().claim_next(client.unary(request)).await?.into_inner().sagas;
                bar.inc(count);
                if claimed.len() as u64 == count {
                    Ok(())
                } else {
                    Err(CliError::Failed(format!("{} sagas were claimed instead of {count}", claimed.len())))
                }
            }
        })
        .buffered(IN_FLIGHT)
        .try_collect::<()>()
        .await
}

/// Claims repeatedly from one of the queues, or from an empty one; half of the claimers wait for a saga.
pub async fn claim_on(client: Client, number: u32, mut queues: Vec<String>, shared: &RunState) -> Result<(), Status> {
    queues.push("bench-empty".to_owned());
    let queue = queues.swap_remove(number as usize % queues.len());
    let wait = if (number / 4).is_multiple_of(2) { Duration::ZERO } else { WAIT };
    let mut sagas = client.sagas();
    shared.window.ready();
    loop {
        let request = claim_next(&queue, "bench-claimer", LONG_TTL, 1);
        sagas.claim_next(ClaimNextRequest { wait: Some(to_proto(wait)), ..request }).await?;
        tokio::time::sleep(PAUSE).await;
    }
}
