//! Delivers the writer's outcomes to the tasks that wait for them, with one wake-up per network thread and batch.
//!
//! Waking a sleeping thread costs a system call, and a batch has hundreds of outcomes for a few threads. So each
//! network thread has a reply queue: the writer appends the outcomes of a batch and wakes the thread once; the thread
//! passes them to its own tasks, which needs no system call.

use std::{cell::RefCell, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::{CallOutcome, memory_share::MemoryShare};

/// After how many replies a thread is woken again: it starts with the first while the others are still being appended.
const SLICE: usize = 64;

thread_local! {
    /// The reply queue of this thread, if it has one.
    static HERE: RefCell<Option<Arc<Letterbox>>> = const { RefCell::new(None) };
}

/// An outcome and the task that waits for it.
type Letter = (oneshot::Sender<CallOutcome>, CallOutcome);

/// The replies for the tasks of one thread.
#[derive(Default)]
struct Letterbox {
    letters: Mutex<Vec<Letter>>,
    bell: Notify,
}

/// Creates a reply queue for this thread and delivers its replies for as long as this runs. For threads that run
/// nothing but one single-threaded runtime. Callers on other threads are answered directly.
pub async fn receive_here() {
    let letterbox = Arc::new(Letterbox::default());
    HERE.set(Some(letterbox.clone()));
    loop {
        letterbox.bell.notified().await;
        let letters = std::mem::take(&mut *letterbox.letters.lock());
        for (to, outcome) in letters {
            // A caller that is gone is not told; its change happened all the same.
            let _ = to.send(outcome);
        }
    }
}

/// The sending end for one outcome.
pub struct Reply {
    to: oneshot::Sender<CallOutcome>,
    by: Option<Arc<Letterbox>>,
    /// Memory of the change and its answer, if it is counted.
    memory: Option<Arc<MemoryShare>>,
}

impl Reply {
    /// A reply to a task of this thread.
    pub fn expected() -> (Self, oneshot::Receiver<CallOutcome>) {
        let (to, expected) = oneshot::channel();
        (Reply { to, by: HERE.with_borrow(Clone::clone), memory: None }, expected)
    }

    /// Like [`Self::expected`], and counts the memory of the change, and of its answer until it has arrived.
    pub(super) fn counted(memory: Arc<MemoryShare>) -> (Self, oneshot::Receiver<CallOutcome>) {
        let (reply, expected) = Self::expected();
        (Reply { memory: Some(memory), ..reply }, expected)
    }

    /// Adds the size of the answer.
    pub(super) fn add_bytes(&self, bytes: usize) {
        if let Some(memory) = &self.memory {
            memory.add(bytes);
        }
    }

    /// Releases the memory of a change that is held.
    pub(super) fn release_bytes(&self) {
        if let Some(memory) = &self.memory {
            memory.release();
        }
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
    let mut bags: Vec<(Arc<Letterbox>, Vec<Letter>)> = Vec::new();
    for (Reply { to, by, memory: _ }, outcome) in answered {
        let Some(by) = by else {
            let _ = to.send(outcome);
            continue;
        };
        let place = bags.iter().position(|(letterbox, _)| Arc::ptr_eq(letterbox, &by)).unwrap_or_else(|| {
            bags.push((by, Vec::new()));
            bags.len() - 1
        });
        let (letterbox, bag) = &mut bags[place];
        bag.push((to, outcome));
        if bag.len() == SLICE {
            letterbox.put(bag);
        }
    }
    for (letterbox, mut bag) in bags {
        letterbox.put(&mut bag);
    }
}

impl Letterbox {
    fn put(&self, bag: &mut Vec<Letter>) {
        if bag.is_empty() {
            return;
        }
        self.letters.lock().append(bag);
        self.bell.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;

    #[tokio::test]
    async fn outcomes_reach_those_who_asked_through_a_letterbox_and_without() {
        let (direct, expected_directly) = Reply::expected();
        let emptied = tokio::spawn(receive_here());
        tokio::task::yield_now().await;
        let (replies, expected): (Vec<_>, Vec<_>) = (0..3 * SLICE + 1).map(|_| Reply::expected()).unzip();
        assert!(replies.iter().all(|reply| reply.by.is_some()));
        let outcome = || Err(StoreError::ShuttingDown);
        let answered = std::iter::once(direct).chain(replies).map(|reply| (reply, outcome())).collect();
        std::thread::spawn(move || send_all(answered)).join().unwrap();
        assert!(matches!(expected_directly.await, Ok(Err(StoreError::ShuttingDown))));
        for expected in expected {
            assert!(matches!(expected.await, Ok(Err(StoreError::ShuttingDown))));
        }
        emptied.abort();
    }

    #[test]
    fn a_caller_that_went_away_is_noticed() {
        let (reply, expected) = Reply::expected();
        assert!(!reply.is_closed());
        drop(expected);
        assert!(reply.is_closed());
        reply.send(Err(StoreError::ShuttingDown));
    }
}
