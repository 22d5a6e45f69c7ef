//! [`Follower`]: a moving position in the history.

use std::{collections::VecDeque, pin::Pin, sync::Arc, time::Duration};

use futures::FutureExt;
use tokio::{sync::watch, time::Sleep};

use super::event_selection::EventSelection;
use crate::{
    domain::{event::Event, ids::Revision},
    metrics::OpenWatch,
    mutants::{self, Mutant},
    store::{EventFeed, EventQuery, NextEvents, StoreError, recent_events::EventRun},
};

/// The longest time between two items: a little below the promised 10 s, to allow for the way to the client.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(9);

/// The next item.
#[derive(Debug)]
pub(super) enum FollowStep<T> {
    /// One event, or several.
    Next(T),
    /// A bookmark: everything up to here was sent or is not wanted.
    Quiet(Revision),
}

/// A position in the history, and how to get what follows.
pub(super) struct Follower {
    feed: EventFeed,
    /// Which events are followed.
    wanted: EventQuery,
    /// Everything up to here was returned, is in the page, or is not wanted.
    position: Revision,
    /// Wanted events of the last run that were not returned yet. Only [`Follower::next_event`] leaves some.
    page: VecDeque<Arc<Event>>,
    head: watch::Receiver<Revision>,
    /// The timer of the next bookmark; started when the watcher first waits after an item.
    bookmark_timer: Option<Pin<Box<Sleep>>>,
    /// Reports the position to the metrics.
    open_watch: OpenWatch,
}

impl Follower {
    /// Starts after a revision that the watcher got before. Fails if what follows is no longer kept, or if no event
    /// had that revision.
    pub(super) async fn resume(
        feed: EventFeed,
        wanted: EventQuery,
        after: Revision,
        open_watch: OpenWatch,
    ) -> Result<Self, StoreError> {
        feed.check_position(after).await?;
        let after = if mutants::on(Mutant::WatchSkipsAtResume) { feed.head() } else { after };
        Ok(Follower::starting_after(feed, wanted, after, open_watch))
    }

    /// Starts after a revision that is known to be in the history.
    pub(super) fn starting_after(
        feed: EventFeed,
        wanted: EventQuery,
        position: Revision,
        open_watch: OpenWatch,
    ) -> Self {
        let head = feed.subscribe();
        Follower { feed, wanted, position, page: VecDeque::new(), head, bookmark_timer: None, open_watch }
    }

    /// The current position.
    pub(super) fn position(&self) -> Revision {
        self.position
    }

    /// The next wanted event, or a bookmark.
    pub(super) async fn next_event(&mut self) -> Result<FollowStep<Arc<Event>>, StoreError> {
        if self.page.is_empty() {
            match self.advance().await? {
                FollowStep::Next(wanted) => self.page.extend(wanted.events().cloned()),
                FollowStep::Quiet(revision) => return Ok(FollowStep::Quiet(revision)),
            }
        } else {
            // A watcher with many events must let the other tasks of its thread run.
            tokio::task::coop::consume_budget().await;
        }
        match self.page.pop_front() {
            Some(event) => {
                self.open_watch.at(event.revision);
                Ok(FollowStep::Next(event))
            }
            // Can't happen: a selection has at least one event.
            None => Ok(FollowStep::Quiet(self.position)),
        }
    }

    /// The next wanted events, or a bookmark. Holds at most [`PAGE_BYTES`](super::PAGE_BYTES) of events, or a single
    /// larger one.
    pub(super) async fn next_events(&mut self) -> Result<FollowStep<EventSelection>, StoreError> {
        let step = self.advance().await?;
        self.open_watch.at(self.position);
        Ok(step)
    }

    /// Moves to the end of the next run with wanted events, or to the end of the history.
    async fn advance(&mut self) -> Result<FollowStep<EventSelection>, StoreError> {
        loop {
            tokio::task::coop::consume_budget().await;
            self.open_watch.at(self.position);
            if self.bookmark_is_due().await {
                return Ok(self.bookmark());
            }
            // Read before the feed: what is published in between wakes the wait below.
            let head = *self.head.borrow_and_update();
            let NextEvents { run, through } = self.feed.next(&self.wanted, self.position, head).await?;
            let before = std::mem::replace(&mut self.position, through);
            let wanted = run.and_then(|run| self.select(run, before));
            if let Some(wanted) = wanted {
                self.bookmark_timer = None;
                return Ok(FollowStep::Next(wanted));
            }
            if self.position == before && !self.wait().await? {
                return Ok(self.bookmark());
            }
        }
    }

    /// The wanted events of a run after a position.
    fn select(&self, run: Arc<EventRun>, after: Revision) -> Option<EventSelection> {
        if self.wanted.matches_all() && run.events().first().is_some_and(|first| first.revision > after) {
            return Some(EventSelection::all(run));
        }
        EventSelection::of(run, |event| event.revision > after && self.wanted.matches(event))
    }

    /// Waits for new events; returns false if a bookmark is due first.
    async fn wait(&mut self) -> Result<bool, StoreError> {
        let bookmark_timer = self.bookmark_timer.get_or_insert_with(bookmark_timer);
        tokio::select! {
            changed = self.head.changed() => match changed {
                Ok(()) => Ok(true),
                // Can't fail: the sender lives as long as the feed, which this follower holds.
                Err(_) => Err(StoreError::ShuttingDown),
            },
            () = bookmark_timer => Ok(false),
        }
    }

    /// True if a bookmark is due although unwanted events keep this watcher busy.
    async fn bookmark_is_due(&mut self) -> bool {
        self.bookmark_timer.get_or_insert_with(bookmark_timer).now_or_never().is_some()
    }

    fn bookmark(&mut self) -> FollowStep<EventSelection> {
        self.bookmark_timer = None;
        FollowStep::Quiet(self.position)
    }
}

fn bookmark_timer() -> Pin<Box<Sleep>> {
    Box::pin(tokio::time::sleep(BOOKMARK_INTERVAL))
}
