//! [`Pool`]: the sagas of one source that are being compensated, and the source that `ClaimNext` is.

use std::sync::Arc;

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tonic::Status;

use super::{
    options::{CompensationHandler, Recovery},
    undo,
};
use crate::{
    client::{
        LeaseKeeper, Note,
        claimer::{ClaimResult, Claimer},
        time::Moment,
        worker::DRAIN_PATIENCE,
    },
    proto::{LeasePurpose, Saga},
};

/// Claims sagas that are compensating already. With `drain`, until there are none.
pub(super) async fn claim_next<H: CompensationHandler>(recovery: &Arc<Recovery<H>>) -> Result<(), Status> {
    let options = &recovery.options;
    let claimer = Claimer {
        client: recovery.client.clone(),
        queues: options.queues.clone(),
        owner_id: options.owner_id.clone(),
        ttl: options.ttl,
        purpose: LeasePurpose::Compensate,
        kinds: options.kinds.clone(),
        wait: !options.drain,
        patience: options.drain.then_some(DRAIN_PATIENCE),
        notes: Arc::clone(&recovery.notes),
    };
    let mut pool = Pool::new(recovery);
    let result = loop {
        let Some(slot) = pool.free_slot().await else { break Ok(()) };
        // Checked after the slot: the work that had it before may just have failed to start.
        recovery.failed_starts.pause().await;
        match claimer.next(1, &recovery.shutdown.drain).await {
            Ok(ClaimResult::Stopped) => break Ok(()),
            Err(status) => break Err(status),
            Ok(ClaimResult::Sagas(sagas, _)) if sagas.is_empty() && options.drain => break Ok(()),
            Ok(ClaimResult::Sagas(sagas, asked)) => {
                // At most one was asked for.
                if let Some(saga) = sagas.into_iter().next() {
                    pool.start(saga, asked, slot);
                }
            }
        }
    };
    pool.finish().await;
    result
}

/// Permission to compensate one more saga.
pub(super) type Slot = OwnedSemaphorePermit;

/// The sagas of one source that are being compensated, at most `concurrency` at a time.
pub(super) struct Pool<'a, H> {
    recovery: &'a Arc<Recovery<H>>,
    slots: Arc<Semaphore>,
    running: JoinSet<()>,
}

impl<'a, H: CompensationHandler> Pool<'a, H> {
    pub(super) fn new(recovery: &'a Arc<Recovery<H>>) -> Self {
        let slots = Arc::new(Semaphore::new(recovery.options.concurrency.max(1)));
        Self { recovery, slots, running: JoinSet::new() }
    }

    /// Waits for a free slot and takes it; `None` if told to stop.
    pub(super) async fn free_slot(&mut self) -> Option<Slot> {
        while self.running.try_join_next().is_some() {}
        tokio::select! {
            biased;
            () = self.recovery.shutdown.drain.cancelled() => None,
            permit = Arc::clone(&self.slots).acquire_owned() => permit.ok(),
        }
    }

    /// Starts to compensate a saga that was just claimed.
    pub(super) fn start(&mut self, saga: Saga, asked: Moment, slot: Slot) {
        let recovery = Arc::clone(self.recovery);
        self.running.spawn(async move {
            let _slot = slot;
            let task_id = saga.task_id.clone();
            match LeaseKeeper::start(&recovery.client, &saga, asked).await {
                Ok(lease) => {
                    (recovery.notes)(Note::claimed(&saga));
                    let note = undo::undo_all(&recovery, saga, &lease).await;
                    (recovery.notes)(note);
                }
                Err(lost) => (recovery.notes)(Note::Lost { task_id, lost }),
            }
        });
    }

    pub(super) async fn finish(&mut self) {
        while self.running.join_next().await.is_some() {}
    }
}
