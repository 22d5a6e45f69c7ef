//! [`ReadQueue`]: decides which read is next when all readers are busy.
//!
//! If reads were served in order of arrival, a caller with many reads would make all others wait. So each caller has
//! its own queue, and a free reader goes to the caller with the fewest running reads; among several, to the one served
//! longest ago. A read that scans much does so a page at a time and queues again for each page. So a caller that reads
//! little waits for one page of each caller that reads much.
//!
//! The queue has no bound of its own: a call or a stream has one read at a time, and calls and streams are bounded.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::clock::Clock;

use super::{CallerKey, Credentials, Reader, StoreError};

/// The caller of a read.
#[derive(Clone, Debug, Default)]
pub struct ReadCaller {
    /// The caller that the reads count for; none: the daemon itself.
    pub share: Option<CallerKey>,
    /// The caller's credentials, if callers are authenticated. Once they are invalid, its reads are refused when their
    /// turn comes.
    pub credentials: Option<Credentials>,
}

/// Runs the reads of one caller, each when its turn comes. Cheap to clone.
#[derive(Clone)]
pub(super) struct CallerReader {
    pub(super) reader: Arc<dyn Reader>,
    pub(super) queue: Arc<ReadQueue>,
    pub(super) caller: ReadCaller,
    pub(super) clock: Arc<dyn Clock>,
}

impl CallerReader {
    /// Reads when it is the caller's turn.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&dyn Reader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = self.queue.turn(&self.caller, &*self.clock).await?;
        let reader = self.reader.clone();
        spawn_read(move || {
            let _permit = permit;
            look(&*reader)
        })
        .await
    }
}

/// Runs a read on a thread that may block.
pub(super) async fn spawn_read<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let read = tokio::task::spawn_blocking(read).await;
    read.unwrap_or_else(|gone| Err(StoreError::Unavailable(format!("a read ended early: {gone}"))))
}

/// A bounded number of readers, and the callers that wait for one.
pub(super) struct ReadQueue {
    state: Mutex<State>,
}

struct State {
    /// Free readers. If there are any, no read waits.
    free: usize,
    /// The reads of each caller that has or waits for a reader.
    callers: HashMap<Option<CallerKey>, CallerReads>,
    /// Waiting callers, the next one first: by the number of running reads, then by their last turn.
    order: BTreeSet<(usize, u64, Option<CallerKey>)>,
    /// The last number assigned to a turn or a waiting read.
    last: u64,
}

struct CallerReads {
    running: usize,
    /// The number of its last turn, or else of its arrival. The smallest was served longest ago.
    turn: u64,
    /// The waiting reads in order of arrival.
    waiting: BTreeMap<u64, oneshot::Sender<ReadPermit>>,
}

/// A reader that is assigned to a read. It is free again when this is dropped.
pub(super) struct ReadPermit {
    queue: Arc<ReadQueue>,
    share: Option<CallerKey>,
}

/// A place in the queue, given up when this is dropped.
struct QueuePlace {
    queue: Arc<ReadQueue>,
    share: Option<CallerKey>,
    number: u64,
    permit: oneshot::Receiver<ReadPermit>,
}

impl ReadQueue {
    pub(super) fn new(readers: usize) -> Arc<Self> {
        let state = State { free: readers, callers: HashMap::new(), order: BTreeSet::new(), last: 0 };
        Arc::new(ReadQueue { state: Mutex::new(state) })
    }

    /// Waits for a reader. Fails if the caller's credentials are revoked during the wait or invalid after it.
    pub(super) async fn turn(
        self: &Arc<Self>,
        caller: &ReadCaller,
        clock: &dyn Clock,
    ) -> Result<ReadPermit, StoreError> {
        let permit = match self.take(&caller.share) {
            Ok(permit) => permit,
            Err(mut place) => {
                let revoked = async {
                    match &caller.credentials {
                        Some(credentials) => credentials.wait_revoked().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    // Can't fail: the queue keeps the sender, and it lives as long as this place.
                    permit = &mut place.permit => permit.map_err(|_| StoreError::ShuttingDown)?,
                    () = revoked => return Err(StoreError::Revoked),
                }
            }
        };
        match &caller.credentials {
            Some(credentials) if credentials.are_invalid(clock) => Err(StoreError::Revoked),
            Some(_) | None => Ok(permit),
        }
    }

    /// Takes a free reader, or else a place in the queue.
    fn take(self: &Arc<Self>, share: &Option<CallerKey>) -> Result<ReadPermit, QueuePlace> {
        let mut state = self.state.lock();
        let number = state.next_number();
        let is_free = state.free > 0;
        state.free = state.free.saturating_sub(1);
        let new = || CallerReads { running: 0, turn: number, waiting: BTreeMap::new() };
        let reads = state.callers.entry(share.clone()).or_insert_with(new);
        if is_free {
            (reads.running, reads.turn) = (reads.running + 1, number);
            return Ok(ReadPermit { queue: self.clone(), share: share.clone() });
        }
        let (give, permit) = oneshot::channel();
        reads.waiting.insert(number, give);
        let at = (reads.running, reads.turn, share.clone());
        state.order.insert(at);
        Err(QueuePlace { queue: self.clone(), share: share.clone(), number, permit })
    }

    /// Takes a reader back and gives it to the next caller.
    fn give_back(self: &Arc<Self>, share: &Option<CallerKey>) {
        let mut state = self.state.lock();
        state.change(share, |reads| reads.running -= 1);
        let Some((_, _, next)) = state.order.first().cloned() else {
            state.free += 1;
            return;
        };
        let turn = state.next_number();
        let give = state.change(&next, |reads| {
            reads.running += 1;
            reads.turn = turn;
            reads.waiting.pop_first()
        });
        drop(state);
        let permit = ReadPermit { queue: self.clone(), share: next };
        if let Some((_, give)) = give.flatten() {
            // If the read was given up just now, the permit comes back, is dropped, and the next caller gets it.
            let _ = give.send(permit);
        }
    }
}

impl State {
    fn next_number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Changes a caller's reads and updates the order.
    fn change<T>(&mut self, share: &Option<CallerKey>, change: impl FnOnce(&mut CallerReads) -> T) -> Option<T> {
        let reads = self.callers.get_mut(share)?;
        self.order.remove(&(reads.running, reads.turn, share.clone()));
        let changed = change(reads);
        if !reads.waiting.is_empty() {
            self.order.insert((reads.running, reads.turn, share.clone()));
        } else if reads.running == 0 {
            self.callers.remove(share);
        }
        Some(changed)
    }
}

impl Drop for ReadPermit {
    fn drop(&mut self) {
        self.queue.give_back(&self.share);
    }
}

impl Drop for QueuePlace {
    fn drop(&mut self) {
        let mut state = self.queue.state.lock();
        // If the read is not in the queue any more, its permit was sent and is dropped with the receiver.
        state.change(&self.share, |reads| reads.waiting.remove(&self.number));
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{clock::ManualClock, domain::time::Timestamp};

    fn caller(connection: u64) -> ReadCaller {
        ReadCaller { share: Some(CallerKey::Connection(connection)), credentials: None }
    }

    /// A read queue under test, with its clock.
    struct CallerReader {
        queue: Arc<ReadQueue>,
        clock: ManualClock,
    }

    type Read<'a> = std::pin::Pin<Box<dyn Future<Output = Result<ReadPermit, StoreError>> + 'a>>;

    impl CallerReader {
        fn over(readers: usize) -> Self {
            CallerReader { queue: ReadQueue::new(readers), clock: ManualClock::default() }
        }

        /// A read that has asked for its turn.
        fn ask<'a>(&'a self, caller: &'a ReadCaller) -> Read<'a> {
            let mut read: Read<'_> = Box::pin(self.queue.turn(caller, &self.clock));
            if let Some(turn) = (&mut read).now_or_never() {
                return Box::pin(std::future::ready(turn));
            }
            read
        }

        fn is_idle(&self, readers: usize) -> bool {
            let state = self.queue.state.lock();
            state.free == readers && state.callers.is_empty() && state.order.is_empty()
        }
    }

    #[test]
    fn the_next_caller_has_the_fewest_running_reads_then_the_oldest_turn() {
        let reads = CallerReader::over(2);
        let callers: Vec<_> = (0..3).map(caller).collect();
        // Two reads of the first caller run, and five wait. Then each of the other callers asks for two.
        let mut running: Vec<_> = (0..2).map(|_| reads.ask(&callers[0]).now_or_never().unwrap().unwrap()).collect();
        let asked = [0, 0, 0, 0, 0, 1, 1, 2, 2];
        let mut waiting: Vec<_> = asked.into_iter().map(|who| (who, Some(reads.ask(&callers[who])))).collect();
        let mut order = Vec::new();
        while !running.is_empty() {
            drop(running.remove(0));
            for (who, read) in &mut waiting {
                if let Some(turn) = read.as_mut().and_then(|read| read.now_or_never()) {
                    *read = None;
                    order.push(*who);
                    running.push(turn.unwrap());
                }
            }
        }
        assert_eq!(order, [1, 0, 2, 1, 0, 2, 0, 0, 0]);
        assert!(reads.is_idle(2));
    }

    #[test]
    fn dropped_and_revoked_reads_take_no_reader() {
        let reads = CallerReader::over(1);
        let running = reads.ask(&caller(0)).now_or_never().unwrap().unwrap();
        let (gone, other) = (caller(1), caller(2));
        let given_up = reads.ask(&gone);
        let revoked = CancellationToken::new();
        let credentials = Credentials { revoked: revoked.clone(), ..Credentials::default() };
        let ends = ReadCaller { credentials: Some(credentials), ..caller(3) };
        let mut revoked_while_waiting = reads.ask(&ends);
        let over = Credentials { not_after: Some(Timestamp::ZERO), ..Credentials::default() };
        let over = ReadCaller { credentials: Some(over), ..caller(4) };
        let mut over_by_its_turn = reads.ask(&over);
        let mut waits = reads.ask(&other);
        drop(given_up);
        revoked.cancel();
        let refused = (&mut revoked_while_waiting).now_or_never().expect("at once").err();
        assert_eq!(refused, Some(StoreError::Revoked));
        drop(running);
        assert!((&mut waits).now_or_never().is_none(), "the read before it has the turn");
        assert_eq!((&mut over_by_its_turn).now_or_never().unwrap().err(), Some(StoreError::Revoked));
        let permit = (&mut waits).now_or_never().expect("nobody else waits").unwrap();
        // This read is dropped after it got its turn and before it was polled.
        let late = reads.ask(&gone);
        drop(permit);
        drop(late);
        drop((revoked_while_waiting, over_by_its_turn, waits));
        assert!(reads.is_idle(1));
    }
}
