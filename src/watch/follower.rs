//! [`Follower`]: a moving position in the history.

use std::{collections::VecDeque, pin::Pin, sync::Arc, time::Duration};

use futures::FutureExt;
use tokio::{sync::watch, time::Sleep};

use super::event_selection::EventSelection;
use crate::{
    domain::{event::Event, ids::Revision},
    mutants::{self, Mutant},
    store::{EventQuery, Feed, NextEvents, StoreError, recent_events::EventRun, vitals::Watching},
};

/// The longest time between two items: a little below the promised 10 s, to allow for the way to the client.
const BOOKMARK_AFTER: Duration = Duration::from_secs(9);

/// The next item.
#[derive(Debug)]
pub(super) enum Step<T> {
    /// One event, or several.
    Next(T),
    /// A bookmark: everything up to here was sent or is not wanted.
    Quiet(Revision),
}

/// A position in the history, and how to get what follows.
pub(super) struct Follower {
    feed: Feed,
    /// Which events are followed.
    wanted: EventQuery,
    /// Everything up to here was returned, is in the page, or is not wanted.
    position: Revision,
    /// Wanted events of the last run that were not returned yet. Only [`Follower::next_event`] leaves some.
    page: VecDeque<Arc<Event>>,
    head: watch::Receiver<Revision>,
    /// The timer of the next bookmark; started when the watcher first waits after an item.
    quiet: Option<Pin<Box<Sleep>>>,
    /// Reports the position to the metrics.
    watching: Watching,
}

impl Follower {
    /// Starts after a revision that the watcher got before. Fails if what follows is no longer kept, or if no event
    /// had that revision.
    pub(super) async fn resume(
        feed: Feed,
        wanted: EventQuery,
        after: Revision,
        watching: Watching,
    ) -> Result<Self, StoreError> {
        feed.check_position(after).await?;
        let after = if mutants::on(Mutant::WatchSkipsAtResume) { feed.head() } else { after };
        Ok(Follower::behind(feed, wanted, after, watching))
    }

    /// Starts after a revision that is known to be in the history.
    pub(super) fn behind(feed: Feed, wanted: EventQuery, position: Revision, watching: Watching) -> Self {
        let head = feed.subscribe();
        Follower { feed, wanted, position, page: VecDeque::new(), head, quiet: None, watching }
    }

    /// The current position.
    pub(super) fn position(&self) -> Revision {
        self.position
    }

    /// The next wanted event, or a bookmark.
    pub(super) async fn next_event(&mut self) -> Result<Step<Arc<Event>>, StoreError> {
        if self.page.is_empty() {
            match self.advance().await? {
                Step::Next(wanted) => self.page.extend(wanted.events().cloned()),
                Step::Quiet(revision) => return Ok(Step::Quiet(revision)),
            }
        } else {
            // A watcher with many events must let the other tasks of its thread run.
            tokio::task::coop::consume_budget().await;
        }
        match self.page.pop_front() {
            Some(event) => {
                self.watching.at(event.revision);
                Ok(Step::Next(event))
            }
            // Can't happen: a selection has at least one event.
            None => Ok(Step::Quiet(self.position)),
        }
    }

    /// The next wanted events, or a bookmark. Holds at most [`PAGE_BYTES`](super::PAGE_BYTES) of events, or a single
    /// larger one.
    pub(super) async fn next_events(&mut self) -> Result<Step<EventSelection>, StoreError> {
        let step = self.advance().await?;
        self.watching.at(self.position);
        Ok(step)
    }

    /// Moves to the end of the next run with wanted events, or to the end of the history.
    async fn advance(&mut self) -> Result<Step<EventSelection>, StoreError> {
        loop {
            tokio::task::coop::consume_budget().await;
            self.watching.at(self.position);
            if self.is_due().await {
                return Ok(self.sign_of_life());
            }
            // Read before the feed: what is published in between wakes the wait below.
            let head = *self.head.borrow_and_update();
            let NextEvents { run, through } = self.feed.next(&self.wanted, self.position, head).await?;
            let before = std::mem::replace(&mut self.position, through);
            let wanted = run.and_then(|run| self.wanted_of(run, before));
            if let Some(wanted) = wanted {
                self.quiet = None;
                return Ok(Step::Next(wanted));
            }
            if self.position == before && !self.wait().await? {
                return Ok(self.sign_of_life());
            }
        }
    }

    /// The wanted events of a run after a position.
    fn wanted_of(&self, run: Arc<EventRun>, after: Revision) -> Option<EventSelection> {
        if self.wanted.matches_all() && run.events().first().is_some_and(|first| first.revision > after) {
            return Some(EventSelection::all(run));
        }
        EventSelection::of(run, |event| event.revision > after && self.wanted.matches(event))
    }

    /// Waits for new events; returns false if a bookmark is due first.
    async fn wait(&mut self) -> Result<bool, StoreError> {
        let quiet = self.quiet.get_or_insert_with(begin_quiet);
        tokio::select! {
            changed = self.head.changed() => match changed {
                Ok(()) => Ok(true),
                // Can't fail: the sender lives as long as the feed, which this follower holds.
                Err(_) => Err(StoreError::ShuttingDown),
            },
            () = quiet => Ok(false),
        }
    }

    /// True if a bookmark is due although unwanted events keep this watcher busy.
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
