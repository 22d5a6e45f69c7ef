//! Retention: sagas that ended long enough ago are purged, with their events, beside the daemon's other work.
//!
//! Each step goes through the writer's queue like any command, is bounded, and is followed by a pause in proportion to the
//! time it took. Where an export is wanted, a saga is on disk there before it is purged, and purged only if it is still as
//! it was written: annotated meanwhile, it is written again. After a crash between the two it is there twice, with the same
//! revision.

use std::{io, sync::Arc, time::Duration};

use tokio::{task, time};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Retention,
    domain::{
        command::{Answer, Command, Purge, PurgeResult, Request},
        ids::{Malformed, Revision, TaskId},
        saga::{Saga, State},
        text::{Actor, Text},
        time::Span,
    },
    grpc,
    store::{EventQuery, ReadTime, Store, StoreError},
};

use super::export::{Export, Lines};

/// Most sagas of one step; the store ends it earlier where they have many rows.
const STEP: usize = 500;
/// Most sagas that are exported in one step, and the bytes behind which no more are added.
const EXPORT_STEP: usize = 64;
const EXPORT_BYTES: u64 = 4 << 20;
/// Events that are read at a time: with the largest notes, some 5 MiB.
const EVENTS: usize = 200;
/// The pause, in times of the step before it: so a quarter of the writer's time at most is retention's.
const PAUSE: u32 = 3;
/// The shortest pause.
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// How often it looks for what has come of age, unless an age is so short that it has to be oftener.
const LOOK_EVERY: Span = Span::from_secs(10);
const LOOK_LEAST: Span = Span::from_millis(250);
/// How many looks it leaves out behind a failure: half a minute, as a rule.
const RETRY: u32 = 3;

/// Why a step failed. Nothing was purged by it.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("nothing is purged, because it can't be exported: {0}")]
    Export(#[from] io::Error),
    #[error("nothing is purged, because it has no JSON form: {0}")]
    Form(String),
    #[error("{0}")]
    Mistake(String),
}

impl From<Malformed> for Failure {
    fn from(error: Malformed) -> Self {
        Failure::Mistake(error.0.to_string())
    }
}

/// Purges what comes of age, until it is told to stop. Returns at once where everything is kept.
pub(super) async fn keep(store: Store, retention: Retention, stop: CancellationToken) {
    let ages = retention.ages();
    let Some(shortest) = ages.iter().map(|(_, age)| *age).min() else { return };
    let look_every = shortest.third().clamp(LOOK_LEAST, LOOK_EVERY).to_std();
    let mut keeper = Keeper { store, export: retention.export.as_deref().map(Export::into).map(Arc::new) };
    let work = async {
        loop {
            for (state, age) in &ages {
                if let Err(failure) = keeper.purge_all(*state, *age).await {
                    tracing::error!(state = state.name(), %failure, "retention failed; it tries again later");
                    time::sleep(look_every * RETRY).await;
                }
            }
            time::sleep(look_every).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => {}
    }
}

struct Keeper {
    store: Store,
    export: Option<Arc<Export>>,
}

impl Keeper {
    /// Purges all sagas in a state that are of age, step by step.
    async fn purge_all(&mut self, state: State, age: Span) -> Result<(), Failure> {
        let mut all = PurgeResult::default();
        let outcome = loop {
            let begun = self.store.read_time().now;
            let step = match self.step(state, age).await {
                Ok(step) => step,
                Err(failure) => break Err(failure),
            };
            all.sagas += step.sagas;
            all.events += step.events;
            all.through = all.through.max(step.through);
            if !step.more {
                break Ok(());
            }
            let took = self.store.read_time().now.since(begun).to_std();
            time::sleep((took * PAUSE).max(PAUSE_MIN)).await;
        };
        if all.sagas > 0 {
            let (sagas, events, through) = (all.sagas, all.events, all.through.0);
            tracing::info!(state = state.name(), sagas, events, through, "sagas that were of age were purged");
        }
        outcome
    }

    async fn step(&mut self, state: State, age: Span) -> Result<PurgeResult, Failure> {
        match self.export.clone() {
            None => self.purge(state, age, Vec::new()).await,
            Some(export) => self.export_and_purge(&export, state, age).await,
        }
    }

    async fn purge(&self, state: State, age: Span, only: Vec<(TaskId, Revision)>) -> Result<PurgeResult, Failure> {
        let purge = Purge {
            states: vec![state],
            older_than: age,
            only,
            max_sagas: STEP,
            actor: Actor::parse("sagad")?,
            reason: Text::parse("retention")?,
            validate_only: false,
        };
        match self.store.submit(Request { command: Command::Purge(purge), key: None, by: None }).await? {
            Answer::Purged(purged) => Ok(purged),
            Answer::Saga(_) | Answer::Sagas(_) | Answer::Lease(_) | Answer::Queue(_) => {
                Err(Failure::Mistake("a purge was answered with something else".into()))
            }
        }
    }

    /// Exports some of those that are of age, and purges them.
    async fn export_and_purge(&self, export: &Arc<Export>, state: State, age: Span) -> Result<PurgeResult, Failure> {
        let read_time = self.store.read_time();
        let before = read_time.now.minus(age);
        let found = self.store.ended(state, before, EXPORT_STEP).await?;
        if found.is_empty() {
            return Ok(PurgeResult::default());
        }
        let utc = self.store.utc();
        let begun = export.clone();
        let mut lines = blocking(move || begun.begin(utc)).await?;
        let (mut exported, asked) = (Vec::new(), found.len());
        for saga in found {
            if lines.bytes() >= EXPORT_BYTES {
                break;
            }
            let is_whole;
            (lines, is_whole) = self.add_line(lines, &saga, &read_time).await?;
            // Otherwise it has changed since it was found: it is found again when it is of age again.
            if is_whole {
                exported.push((saga.task_id().clone(), saga.revision));
            }
        }
        if exported.is_empty() {
            return Ok(PurgeResult::default());
        }
        let left = asked == EXPORT_STEP || exported.len() < asked;
        blocking(move || lines.keep()).await?;
        let mut purged = PurgeResult::default();
        // The store takes up to so many rows at a time; what it has taken it passes over.
        loop {
            let step = self.purge(state, age, exported.clone()).await?;
            purged.sagas += step.sagas;
            purged.events += step.events;
            purged.through = purged.through.max(step.through);
            if !step.more || step.sagas == 0 {
                break;
            }
        }
        purged.more = left;
        Ok(purged)
    }

    /// Adds a saga with its whole history as a line, which is written as it is read; not, if the saga has changed.
    async fn add_line(&self, mut lines: Lines, saga: &Saga, read_time: &ReadTime) -> Result<(Lines, bool), Failure> {
        let mut query = EventQuery {
            task_id: Some(saga.task_id().clone()),
            through: saga.revision,
            limit: EVENTS,
            whole: true,
            ..EventQuery::default()
        };
        lines.push(&grpc::export::begin(saga, read_time).map_err(Failure::Form)?);
        let mut newest = None;
        loop {
            let page = self.store.events(query.clone()).await?;
            for event in &page {
                if newest.replace(event.revision).is_some() {
                    lines.push(",");
                }
                lines.push(&grpc::export::event(event).map_err(Failure::Form)?);
            }
            if page.len() < EVENTS {
                break;
            }
            query.after = newest.unwrap_or(query.after);
            if lines.are_many() {
                lines = blocking(move || lines.write().map(|()| lines)).await?;
            }
        }
        let is_whole = newest == Some(saga.revision);
        if !is_whole {
            lines = blocking(move || lines.cut().map(|()| lines)).await?;
            return Ok((lines, false));
        }
        lines.push(grpc::export::END);
        lines.end_line();
        if lines.are_many() {
            lines = blocking(move || lines.write().map(|()| lines)).await?;
        }
        Ok((lines, true))
    }
}

/// What waits for a disk, on a thread that may.
async fn blocking<T: Send + 'static>(act: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, Failure> {
    let done = task::spawn_blocking(act).await;
    Ok(done.unwrap_or_else(|gone| Err(io::Error::other(gone)))?)
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;

    use super::*;
    use crate::{
        clock::ManualClock,
        domain::{
            command::{Change, Operation, UnleasedOperation},
            text::Labels,
            time::Timestamp,
        },
        store::{
            SagaKey, StoreOptions,
            memory::{Memory, testing::creation},
        },
    };

    const START: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);
    const NOTES: usize = 4000;

    fn task_id() -> TaskId {
        TaskId::parse("long").unwrap()
    }

    fn note() -> Command {
        let (actor, note) = (Actor::parse("op").unwrap(), Text::parse(&"x".repeat(4000)).unwrap());
        let operation = UnleasedOperation::Annotate { actor, note, details: Labels::default(), terminal_reason: None };
        Command::Change(Change { task_id: task_id(), operation: Operation::Unleased(operation) })
    }

    #[tokio::test]
    async fn a_long_history_is_exported_piece_by_piece() {
        let options =
            StoreOptions { restart_grace: Span::ZERO, queue: 10_000, batch: 1000, readers: 1, max_waiting: 1 };
        let (store, _writer) = Memory::default().open(&options, Arc::new(ManualClock::at(START))).unwrap();
        let submit = |command| store.submit(Request { command, key: None, by: None });
        submit(Command::Create(vec![creation("long", "q")])).await.unwrap();
        assert!(join_all((0..NOTES).map(|_| submit(note()))).await.iter().all(Result::is_ok));
        let dir = tempfile::tempdir().unwrap();
        let export = Export::into(dir.path());
        let keeper = Keeper { store: store.clone(), export: None };
        let saga = store.get(SagaKey::Task(task_id())).await.unwrap().unwrap();
        // One that has changed since it was looked for leaves nothing of its line.
        let mut old = saga.clone();
        old.revision = Revision(saga.revision.0 + 1);
        let read_time = store.read_time();
        let (lines, is_whole) = keeper.add_line(export.begin(START).unwrap(), &old, &read_time).await.unwrap();
        assert!(!is_whole && lines.bytes() == 0);
        let (lines, is_whole) = keeper.add_line(lines, &saga, &read_time).await.unwrap();
        let (bytes, peak) = (lines.bytes(), lines.peak());
        assert!(is_whole && bytes > 16 << 20, "{bytes} bytes");
        // A page of events, and what was there before it.
        assert!(peak < 2 << 20, "{peak} bytes of {bytes} were in memory at once");
        lines.keep().unwrap();
        let file = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap();
        let line: serde_json::Value = serde_json::from_slice(&std::fs::read(file.path()).unwrap()).unwrap();
        assert_eq!(line["events"].as_array().unwrap().len(), NOTES + 1);
        assert_eq!(line["saga"]["taskId"], "long");
    }
}
