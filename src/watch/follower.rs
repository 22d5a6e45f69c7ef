//! [`Follower`]: one position in the history that moves on.

use std::{collections::VecDeque, pin::Pin, sync::Arc, time::Duration};

use futures::FutureExt;
use tokio::{sync::watch, time::Sleep};

use super::PageRoom;
use crate::{
    domain::{
        event::Event,
        ids::{QueueName, Revision, TaskId},
    },
    mutants::{self, Mutant},
    store::{EventQuery, Store, StoreError, Stretch, vitals::Watching},
};

/// Events read at once: enough to keep a reader busy. What is held of them is bounded by [`PAGE_BYTES`].
const PAGE: usize = 128;
/// How long nothing is said before a bookmark: a little below the 10 s that are promised, for the way to the client.
const BOOKMARK_AFTER: Duration = Duration::from_secs(9);

/// Which events are followed.
#[derive(Clone, Debug, Default)]
pub(super) struct Which {
    /// Of this saga alone.
    pub(super) task_id: Option<TaskId>,
    /// Of these queues alone; empty: of all.
    pub(super) queues: Vec<QueueName>,
    /// Only those that begin or end staleness.
    pub(super) marked_only: bool,
}

impl Which {
    fn wants(&self, event: &Event) -> bool {
        self.task_id.as_ref().is_none_or(|task_id| *task_id == event.task_id)
            && (self.queues.is_empty() || self.queues.contains(&event.queue))
            && (!self.marked_only || event.mark.is_some())
    }

    fn query(&self, after: Revision, through: Revision, limit: usize) -> EventQuery {
        EventQuery {
            task_id: self.task_id.clone(),
            queues: self.queues.clone(),
            marked_only: self.marked_only,
            after,
            through,
            limit,
            ..EventQuery::default()
        }
    }
}

/// What comes next.
#[derive(Debug)]
pub(super) enum Step {
    /// An event.
    Event(Arc<Event>),
    /// Nothing for a while: everything up to here was sent or is not wanted.
    Quiet(Revision),
}

/// A position in the history, and what follows it.
pub(super) struct Follower {
    store: Store,
    which: Which,
    /// Everything up to here was handed out, or is not wanted.
    position: Revision,
    /// Wanted events that were read and not handed out yet: one page at most, of [`PAGE_BYTES`].
    page: VecDeque<Arc<Event>>,
    /// The position once the page is handed out.
    page_end: Revision,
    head: watch::Receiver<Revision>,
    /// Runs since something was last handed out, as far as the watcher waited since then.
    quiet: Option<Pin<Box<Sleep>>>,
    /// Tells how far it has come.
    watching: Watching,
}

impl Follower {
    /// Begins behind a revision that was handed out before. Fails when what follows is not kept, or when no event had
    /// that revision.
    pub(super) async fn resume(
        store: Store,
        which: Which,
        after: Revision,
        watching: Watching,
    ) -> Result<Self, StoreError> {
        let begin = Which::default().query(after, Revision(i64::MAX), 1);
        store.events_of_stretch(begin).await?;
        let after = if mutants::on(Mutant::WatchSkipsAtResume) { store.tail().head() } else { after };
        Ok(Follower::behind(store, which, after, watching))
    }

    /// Begins behind a revision that is known to be in the history.
    pub(super) fn behind(store: Store, which: Which, position: Revision, watching: Watching) -> Self {
        let head = store.tail().subscribe();
        Follower { store, which, position, page: VecDeque::new(), page_end: position, head, quiet: None, watching }
    }

    /// Where it is.
    pub(super) fn position(&self) -> Revision {
        self.position
    }

    /// The store that it follows.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// The next event that is wanted, or a sign of life.
    pub(super) async fn next(&mut self) -> Result<Step, StoreError> {
        loop {
            // Whoever has much to tell lets the other tasks of its thread have their turn.
            tokio::task::coop::consume_budget().await;
            if let Some(event) = self.page.pop_front() {
                self.moved_to(event.revision);
                self.quiet = None;
                return Ok(Step::Event(event));
            }
            self.moved_to(self.page_end);
            if self.is_due().await {
                return Ok(self.sign_of_life());
            }
            // Looked at before the ring is: what is published in between wakes the wait below.
            let head = *self.head.borrow_and_update();
            let more = match self.store.tail().after(self.position, PAGE) {
                Some(events) => self.take_from_ring(events),
                None => self.take_from_store(head).await?,
            };
            if !more && !self.wait().await? {
                return Ok(self.sign_of_life());
            }
        }
    }

    fn moved_to(&mut self, position: Revision) {
        self.position = position;
        self.watching.at(position);
    }

    fn take_from_ring(&mut self, events: Vec<Arc<Event>>) -> bool {
        let any = !events.is_empty();
        let mut room = PageRoom::default();
        for event in events {
            if self.which.wants(&event) {
                if !room.admits(event.weight()) {
                    break;
                }
                self.page.push_back(event.clone());
            }
            self.page_end = event.revision;
        }
        any
    }

    /// For a watcher that fell behind the ring: a stretch of the history, though nothing in it may be wanted.
    async fn take_from_store(&mut self, head: Revision) -> Result<bool, StoreError> {
        let Stretch { found, through } =
            self.store.events_of_stretch(self.which.query(self.position, head, PAGE)).await?;
        let read = found.len();
        let mut room = PageRoom::default();
        self.page = found.into_iter().take_while(|event| room.admits(event.weight())).map(Arc::new).collect();
        self.page_end = match self.page.back() {
            Some(last) if self.page.len() < read => last.revision,
            Some(_) | None => through.max(self.position),
        };
        Ok(self.page_end > self.position)
    }

    /// Waits for something to be published; false: nothing was for a while.
    async fn wait(&mut self) -> Result<bool, StoreError> {
        let quiet = self.quiet.get_or_insert_with(begin_quiet);
        tokio::select! {
            changed = self.head.changed() => match changed {
                Ok(()) => Ok(true),
                // The tail lives as long as its store, which this follower holds.
                Err(_) => Err(StoreError::ShuttingDown),
            },
            () = quiet => Ok(false),
        }
    }

    /// Whether nothing was handed out for a while, though other events keep this watcher from waiting.
    async fn is_due(&mut self) -> bool {
        self.quiet.get_or_insert_with(begin_quiet).now_or_never().is_some()
    }

    fn sign_of_life(&mut self) -> Step {
        self.quiet = None;
        Step::Quiet(self.position)
    }
}

fn begin_quiet() -> Pin<Box<Sleep>> {
    Box::pin(tokio::time::sleep(BOOKMARK_AFTER))
}
