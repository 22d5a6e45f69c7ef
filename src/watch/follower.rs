//! [`Follower`]: one position in the history that moves on.

use std::{collections::VecDeque, pin::Pin, sync::Arc, time::Duration};

use futures::FutureExt;
use tokio::{sync::watch, time::Sleep};

use super::{PageRoom, event_selection::EventSelection};
use crate::{
    domain::{
        event::Event,
        ids::{QueueName, Revision, TaskId},
    },
    mutants::{self, Mutant},
    store::{
        EventQuery, Store, StoreError, Stretch,
        tail::{EventRun, NextRun},
        vitals::Watching,
    },
};

/// Events read from the store at once: enough to keep a reader busy. What is held of them is bounded by [`PAGE_BYTES`].
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
    /// Whether that is every event there is.
    fn is_all(&self) -> bool {
        self.task_id.is_none() && self.queues.is_empty() && !self.marked_only
    }

    pub(super) fn wants(&self, event: &Event) -> bool {
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
pub(super) enum Step<T> {
    /// One event, or several.
    Next(T),
    /// Nothing for a while: everything up to here was sent or is not wanted.
    Quiet(Revision),
}

/// A position in the history, and what follows it.
pub(super) struct Follower {
    store: Store,
    which: Which,
    /// Everything up to here was handed out, is in the page, or is not wanted.
    position: Revision,
    /// EventSelection events of the last run that were not handed out yet. Only [`Follower::next_event`] leaves some.
    page: VecDeque<Arc<Event>>,
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
        Follower { store, which, position, page: VecDeque::new(), head, quiet: None, watching }
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
    pub(super) async fn next_event(&mut self) -> Result<Step<Arc<Event>>, StoreError> {
        if self.page.is_empty() {
            match self.advance().await? {
                Step::Next(wanted) => self.page.extend(wanted.events().cloned()),
                Step::Quiet(revision) => return Ok(Step::Quiet(revision)),
            }
        } else {
            // Whoever has much to tell lets the other tasks of its thread have their turn.
            tokio::task::coop::consume_budget().await;
        }
        match self.page.pop_front() {
            Some(event) => {
                self.watching.at(event.revision);
                Ok(Step::Next(event))
            }
            // What is handed on holds one event at least.
            None => Ok(Step::Quiet(self.position)),
        }
    }

    /// The next events that are wanted, or a sign of life. Holds at most [`PAGE_BYTES`](super::PAGE_BYTES) of them, or one.
    pub(super) async fn next_events(&mut self) -> Result<Step<EventSelection>, StoreError> {
        let step = self.advance().await?;
        self.watching.at(self.position);
        Ok(step)
    }

    /// Moves on to the end of the next run with wanted events, or as far as there is one.
    async fn advance(&mut self) -> Result<Step<EventSelection>, StoreError> {
        loop {
            tokio::task::coop::consume_budget().await;
            self.watching.at(self.position);
            if self.is_due().await {
                return Ok(self.sign_of_life());
            }
            // Looked at before the ring is: what is published in between wakes the wait below.
            let head = *self.head.borrow_and_update();
            let before = self.position;
            let wanted = match self.store.tail().next_run(self.position) {
                NextRun::Run(run) => self.wanted_of(run),
                NextRun::NotKept => self.wanted_of_store(head).await?,
                NextRun::UpToDate => None,
            };
            if let Some(wanted) = wanted {
                self.quiet = None;
                return Ok(Step::Next(wanted));
            }
            if self.position == before && !self.wait().await? {
                return Ok(self.sign_of_life());
            }
        }
    }

    /// What is wanted of a run behind the position, which moves to the run's end.
    fn wanted_of(&mut self, run: Arc<EventRun>) -> Option<EventSelection> {
        let after = std::mem::replace(&mut self.position, run.end());
        if self.which.is_all() && run.events().first().is_some_and(|first| first.revision > after) {
            return Some(EventSelection::all(run));
        }
        EventSelection::of(run, |event| event.revision > after && self.which.wants(event))
    }

    /// For a watcher that fell behind the ring: a stretch of the history, though nothing in it may be wanted.
    async fn wanted_of_store(&mut self, head: Revision) -> Result<Option<EventSelection>, StoreError> {
        let Stretch { found, through } =
            self.store.events_of_stretch(self.which.query(self.position, head, PAGE)).await?;
        let read = found.len();
        let mut room = PageRoom::default();
        let page: Vec<_> = found.into_iter().take_while(|event| room.admits(event.weight())).map(Arc::new).collect();
        self.position = match page.last() {
            Some(last) if page.len() < read => last.revision,
            Some(_) | None => through.max(self.position),
        };
        Ok(EventRun::of(page).map(|run| EventSelection::all(Arc::new(run))))
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

    fn sign_of_life(&mut self) -> Step<EventSelection> {
        self.quiet = None;
        Step::Quiet(self.position)
    }
}

fn begin_quiet() -> Pin<Box<Sleep>> {
    Box::pin(tokio::time::sleep(BOOKMARK_AFTER))
}
