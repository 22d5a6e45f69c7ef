//! [`EventFeed`]: the history for followers: its head, and the events after a revision.
//!
//! Recent events come from memory, older ones are read from the store; followers don't see the difference. This module
//! doesn't know who puts events into memory: the writer of this process, or a listener for what another process
//! commits.

use std::sync::Arc;

use tokio::sync::watch;

use crate::domain::ids::Revision;

use super::{
    EventQuery, ScanPage, StoreError,
    read_queue::CallerReader,
    recent_events::{EventRun, NextRun, RecentEvents, runs},
};

/// Events read from the store at once: enough to use a reader well. What is kept of them is bounded like a run.
const EVENTS_READ: usize = 128;

/// The history for one caller, whose reads take turns with those of others. Cheap to clone.
#[derive(Clone)]
pub struct EventFeed {
    recent: Arc<RecentEvents>,
    reads: CallerReader,
}

/// What follows a revision, as far as it was searched.
#[derive(Clone, Debug)]
pub struct NextEvents {
    /// Events up to `through`: at most [`RUN_BYTES`](super::recent_events::RUN_BYTES) of them, or a single larger one.
    /// They include all wanted events after the revision; there may be others, and the run may begin before the
    /// revision.
    pub run: Option<Arc<EventRun>>,
    /// Up to here nothing else is wanted.
    pub through: Revision,
}

impl EventFeed {
    pub(super) fn new(recent: Arc<RecentEvents>, reads: CallerReader) -> Self {
        EventFeed { recent, reads }
    }

    /// The newest durable revision.
    pub fn head(&self) -> Revision {
        self.recent.head()
    }

    /// A signal that carries the newest durable revision.
    pub fn subscribe(&self) -> watch::Receiver<Revision> {
        self.recent.subscribe()
    }

    /// Checks that the history can be followed from a revision on.
    ///
    /// # Errors
    /// What follows it is not kept any more, or it was never given.
    pub async fn check_position(&self, after: Revision) -> Result<(), StoreError> {
        let begin = EventQuery { after, through: Revision(i64::MAX), limit: 1, ..EventQuery::default() };
        self.reads.read(move |reader| reader.events(&begin)).await.map(drop)
    }

    /// What follows a revision, up to a known head. The limits of `wanted` are ignored.
    ///
    /// # Errors
    /// What follows is not kept any more, or can't be read.
    pub async fn next(&self, wanted: &EventQuery, after: Revision, head: Revision) -> Result<NextEvents, StoreError> {
        match self.recent.next_run(after) {
            NextRun::Run(run) => Ok(NextEvents { through: run.end(), run: Some(run) }),
            NextRun::UpToDate => Ok(NextEvents { run: None, through: after }),
            NextRun::NotKept => self.read(wanted, after, head).await,
        }
    }

    async fn read(&self, wanted: &EventQuery, after: Revision, head: Revision) -> Result<NextEvents, StoreError> {
        let query = EventQuery { after, through: head, limit: EVENTS_READ, whole: false, ..wanted.clone() };
        let ScanPage { found, through } = self.reads.read(move |reader| reader.events(&query)).await?;
        let mut runs = runs(found).into_iter();
        let run = runs.next();
        // Only the first run is returned; the rest is read again later, so that no follower holds more than one run.
        let through = match &run {
            Some(run) if runs.next().is_some() => run.end(),
            Some(_) | None => through.max(after),
        };
        Ok(NextEvents { run: run.map(Arc::new), through })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        memory::Memory,
        recent_events::{RUN_BYTES, tests::event},
    };
    use super::*;

    /// The number of events of each page read from the store.
    async fn pages(bytes: &[usize]) -> Vec<usize> {
        let memory = Memory::default();
        memory.append((1..).zip(bytes).map(|(revision, bytes)| event(revision, *bytes)));
        let feed = memory.read_only_store().event_feed();
        let (mut lengths, mut after) = (Vec::new(), Revision::ZERO);
        while after < feed.head() {
            let NextEvents { run, through } = feed.next(&EventQuery::default(), after, feed.head()).await.unwrap();
            let run = run.unwrap();
            assert!(run.events()[0].revision > after && run.end() == through);
            lengths.push(run.events().len());
            after = through;
        }
        lengths
    }

    #[tokio::test]
    async fn p10_a_page_is_bounded_in_bytes_but_has_at_least_one_event() {
        let most = RUN_BYTES - event(1, 0).weight();
        assert_eq!(pages(&[most + 1, 1, 1]).await, [1, 2], "an event that is too large has its own page");
        assert_eq!(pages(&[most, 1]).await, [1, 1]);
        let fit = RUN_BYTES / event(1, 100).weight();
        assert!(fit < EVENTS_READ);
        assert_eq!(pages(&vec![100; 2 * fit + 1]).await, [fit, fit, 1]);
    }
}
