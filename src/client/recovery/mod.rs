//! The recovery worker: claims sagas to be compensated, runs their compensations in reverse order, records each
//! outcome, and finishes them. It never reports more than it knows: a kind without a handler, or one that keeps
//! failing, quarantines the saga with the kind in the reason.
//!
//! It gets sagas from two sources. `ClaimNext` returns sagas that are compensating already. With `stale`, `WatchStale`
//! reports running sagas whose lease expired, and these are claimed by id. Each source has its own slots, so that one
//! that waits in the coordinator never blocks the other.

mod options;
mod pool;
mod stale;
mod undo;

use std::{future::Future, sync::Arc};

use tonic::Status;

pub use options::{CompensationHandler, CompensationResult, CompensationRun, RecoveryOptions};

use options::Recovery;
use pool::claim_next;

use super::{Client, Notes, Shutdown, WorkerError, failed_starts::FailedStarts};

/// Runs until told to stop, or with `drain` until there is nothing left. Waits for running compensations before it
/// returns.
///
/// ```no_run
/// use std::{sync::Arc, time::Duration};
///
/// use sagad::client::{
///     Client, Shutdown,
///     recovery::{self, CompensationHandler, RecoveryOptions, CompensationRun, CompensationResult},
/// };
///
/// struct Files;
///
/// impl CompensationHandler for Files {
///     fn handles(&self, kind: &str) -> bool {
///         kind == "remove-file"
///     }
///
///     async fn undo(&self, undo: CompensationRun<'_>) -> CompensationResult {
///         match std::fs::remove_file(&undo.compensation.target) {
///             // Whoever undid it before may have died before it was recorded.
///             Err(error) if error.kind() != std::io::ErrorKind::NotFound => CompensationResult::Failed(error.to_string()),
///             Err(_) | Ok(()) => CompensationResult::Done(String::new()),
///         }
///     }
/// }
///
/// # async fn example(client: Client) -> Result<(), sagad::client::WorkerError> {
/// let options = RecoveryOptions {
///     queues: vec!["default".into()],
///     owner_id: format!("my-host:{}", std::process::id()),
///     ttl: Duration::from_secs(30),
///     concurrency: 1,
///     stale: true,
///     drain: false,
///     kinds: Vec::new(),
///     attempts: 3,
/// };
/// recovery::run(client, options, Files, Shutdown::default(), Arc::new(|note| println!("{note}"))).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// The coordinator refused a claim or a watch (an invalid queue, no permission); with `drain`, also if it was away for
/// a minute; without, it is waited for. Or compensations could not be started five times in a row.
pub async fn run<H: CompensationHandler>(
    client: Client,
    options: RecoveryOptions,
    handler: H,
    shutdown: Shutdown,
    notes: Notes,
) -> Result<(), WorkerError> {
    // An error here stops only this worker, not others that share the switches.
    let shutdown = Shutdown { drain: shutdown.drain.child_token(), kill: shutdown.kill };
    let failed_starts = FailedStarts::new(shutdown.drain.clone());
    let recovery = Arc::new(Recovery { client, options, handler, shutdown, notes, failed_starts });
    let result = if recovery.options.drain {
        stale::drain(&recovery).await
    } else {
        // If one source fails, the other is stopped, so that the error is not hidden by a healthy half.
        let both = async {
            tokio::try_join!(guarded(&recovery, claim_next(&recovery)), guarded(&recovery, stale::follow(&recovery)))
        };
        both.await.map(|_| ())
    };
    match recovery.failed_starts.error() {
        Some(error) => Err(error),
        None => Ok(result?),
    }
}

async fn guarded<H>(recovery: &Recovery<H>, source: impl Future<Output = Result<(), Status>>) -> Result<(), Status> {
    let result = source.await;
    if result.is_err() {
        recovery.shutdown.drain.cancel();
    }
    result
}
