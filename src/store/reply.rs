//! Delivers the writer's outcomes to the tasks that wait for them, with one wake-up per network thread and batch.
//!
//! Waking a sleeping thread costs a system call, and a batch has hundreds of outcomes for a few threads. So each
//! network thread has a reply queue: the writer appends the outcomes of a batch and wakes the thread once; the thread
//! passes them to its own tasks, which needs no system call.

use std::{cell::RefCell, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::{CallOutcome, memory_budget::MemoryReservation};

/// After how many replies a thread is woken again: it starts with the first while the others are still being appended.
const WAKE_EVERY: usize = 64;

thread_local! {
    /// The reply queue of this thread, if it has one.
    static THREAD_QUEUE: RefCell<Option<Arc<ReplyQueue>>> = const { RefCell::new(None) };
}

/// An outcome and the task that waits for it.
type PendingReply = (oneshot::Sender<CallOutcome>, CallOutcome);

/// The replies for the tasks of one thread.
#[derive(Default)]
struct ReplyQueue {
    replies: Mutex<Vec<PendingReply>>,
    wake: Notify,
}

/// Creates a reply queue for this thread and delivers its replies for as long as this runs. For threads that run
/// nothing but one single-threaded runtime. Callers on other threads are answered directly.
pub async fn deliver_replies() {
    let queue = Arc::new(ReplyQueue::default());
    THREAD_QUEUE.set(Some(queue.clone()));
    loop {
        queue.wake.notified().await;
        let replies = std::mem::take(&mut *queue.replies.lock());
        for (to, outcome) in replies {
            // A caller that is gone is not told; its change happened all the same.
            let _ = to.send(outcome);
        }
    }
}

/// The sending end for one outcome.
pub struct Reply {
    to: oneshot::Sender<CallOutcome>,
    queue: Option<Arc<ReplyQueue>>,
    /// Memory of the change, and of its answer until it has arrived.
    pub(super) memory: Arc<MemoryReservation>,
}

impl Reply {
    /// A reply to a task of this thread.
    pub(super) fn channel(memory: Arc<MemoryReservation>) -> (Self, oneshot::Receiver<CallOutcome>) {
        let (to, channel) = oneshot::channel();
        (Reply { to, queue: THREAD_QUEUE.with_borrow(Clone::clone), memory }, channel)
    }

    /// Sends one outcome directly.
    pub fn send(self, outcome: CallOutcome) {
        let _ = self.to.send(outcome);
    }

    /// True if nobody waits any more.
    pub fn is_closed(&self) -> bool {
        self.to.is_closed()
    }
}

/// Sends the outcomes of a batch, in order for each thread.
pub fn send_all(answered: Vec<(Reply, CallOutcome)>) {
    let mut batches: Vec<(Arc<ReplyQueue>, Vec<PendingReply>)> = Vec::new();
    for (Reply { to, queue, memory: _ }, outcome) in answered {
        let Some(queue) = queue else {
            let _ = to.send(outcome);
            continue;
        };
        let place = batches.iter().position(|(known, _)| Arc::ptr_eq(known, &queue)).unwrap_or_else(|| {
            batches.push((queue, Vec::new()));
            batches.len() - 1
        });
        let (queue, batch) = &mut batches[place];
        batch.push((to, outcome));
        if batch.len() == WAKE_EVERY {
            queue.put(batch);
        }
    }
    for (queue, mut batch) in batches {
        queue.put(&mut batch);
    }
}

impl ReplyQueue {
    fn put(&self, batch: &mut Vec<PendingReply>) {
        if batch.is_empty() {
            return;
        }
        self.replies.lock().append(batch);
        self.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{StoreError, memory_budget::MemoryBudget};

    fn channel() -> (Reply, oneshot::Receiver<CallOutcome>) {
        Reply::channel(Arc::new(MemoryBudget::default().reserve(1).unwrap()))
    }

    #[tokio::test]
    async fn outcomes_are_delivered_with_and_without_a_reply_queue() {
        let (direct, expected_directly) = channel();
        let emptied = tokio::spawn(deliver_replies());
        tokio::task::yield_now().await;
        let (replies, channel): (Vec<_>, Vec<_>) = (0..3 * WAKE_EVERY + 1).map(|_| channel()).unzip();
        assert!(replies.iter().all(|reply| reply.queue.is_some()));
        let outcome = || Err(StoreError::ShuttingDown);
        let answered = std::iter::once(direct).chain(replies).map(|reply| (reply, outcome())).collect();
        std::thread::spawn(move || send_all(answered)).join().unwrap();
        assert!(matches!(expected_directly.await, Ok(Err(StoreError::ShuttingDown))));
        for channel in channel {
            assert!(matches!(channel.await, Ok(Err(StoreError::ShuttingDown))));
        }
        emptied.abort();
    }

    #[test]
    fn a_reply_is_closed_when_its_receiver_is_dropped() {
        let (reply, channel) = channel();
        assert!(!reply.is_closed());
        drop(channel);
        assert!(reply.is_closed());
        reply.send(Err(StoreError::ShuttingDown));
    }
}
