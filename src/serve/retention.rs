//! Retention: purges sagas that ended longer ago than configured, with their events, while the daemon serves.
//!
//! Each step is a command in the writer's queue, bounded, and followed by a pause in proportion to its duration. With an
//! export directory a saga is synced there before it is purged, and purged only if it has not changed since; if it was
//! annotated meanwhile it is exported again. After a crash between export and purge it is there twice, with the same
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

use super::export_directory::{ExportBatch, ExportDirectory};

/// Most sagas of one step; the store ends a step earlier if they have many rows.
const STEP: usize = 500;
/// Most sagas exported in one step, and the number of bytes after which no more are added.
const EXPORT_STEP: usize = 64;
const EXPORT_BYTES: u64 = 4 << 20;
/// Events read at a time: some 5 MiB with the largest notes.
const EVENTS: usize = 200;
/// The pause after a step, as a multiple of its duration: retention gets at most a quarter of the writer's time.
const PAUSE: u32 = 3;
/// The shortest pause.
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// How often it looks for sagas to purge, and the shortest interval if a retention time is very short.
const INTERVAL: Span = Span::from_secs(10);
const INTERVAL_MIN: Span = Span::from_millis(250);
/// How many intervals it waits after a failure: usually half a minute.
const RETRY_INTERVALS: u32 = 3;

/// Why a step failed; it has purged nothing.
#[derive(Debug, thiserror::Error)]
enum PurgeError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("nothing is purged, because it can't be exported: {0}")]
    Export(#[from] io::Error),
    #[error("nothing is purged, because it has no JSON form: {0}")]
    Json(String),
    #[error("{0}")]
    Internal(String),
}

impl From<Malformed> for PurgeError {
    fn from(error: Malformed) -> Self {
        PurgeError::Internal(error.0.to_string())
    }
}

/// Purges sagas until `stop` is cancelled. Returns at once if everything is kept.
pub(super) async fn run(store: Store, retention: Retention, stop: CancellationToken) {
    let ages = retention.ages();
    let Some(shortest) = ages.iter().map(|(_, age)| *age).min() else { return };
    let interval = shortest.third().clamp(INTERVAL_MIN, INTERVAL).to_std();
    let mut purger = Purger { store, export: retention.export.as_deref().map(ExportDirectory::new).map(Arc::new) };
    let work = async {
        loop {
            for (state, age) in &ages {
                if let Err(failure) = purger.purge_all(*state, *age).await {
                    tracing::error!(state = state.name(), %failure, "retention failed; it tries again later");
                    time::sleep(interval * RETRY_INTERVALS).await;
                }
            }
            time::sleep(interval).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => {}
    }
}

struct Purger {
    store: Store,
    export: Option<Arc<ExportDirectory>>,
}

impl Purger {
    /// Purges all sagas in `state` that ended at least `age` ago, step by step.
    async fn purge_all(&mut self, state: State, age: Span) -> Result<(), PurgeError> {
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

    async fn step(&mut self, state: State, age: Span) -> Result<PurgeResult, PurgeError> {
        match self.export.clone() {
            None => self.purge(state, age, Vec::new()).await,
            Some(export) => self.export_and_purge(&export, state, age).await,
        }
    }

    async fn purge(&self, state: State, age: Span, only: Vec<(TaskId, Revision)>) -> Result<PurgeResult, PurgeError> {
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
                Err(PurgeError::Internal("a purge was answered with something else".into()))
            }
        }
    }

    /// Exports some of these sagas and purges them.
    async fn export_and_purge(
        &self,
        export: &Arc<ExportDirectory>,
        state: State,
        age: Span,
    ) -> Result<PurgeResult, PurgeError> {
        let read_time = self.store.read_time();
        let before = read_time.now.minus(age);
        let found = self.store.ended(state, before, EXPORT_STEP).await?;
        if found.is_empty() {
            return Ok(PurgeResult::default());
        }
        let utc = self.store.utc();
        let begun = export.clone();
        let mut batch = blocking(move || begun.begin(utc)).await?;
        let (mut exported, asked) = (Vec::new(), found.len());
        for saga in found {
            if batch.bytes() >= EXPORT_BYTES {
                break;
            }
            let is_complete;
            (batch, is_complete) = self.add_line(batch, &saga, &read_time).await?;
            // Otherwise it has changed since it was read, and a later step finds it again.
            if is_complete {
                exported.push((saga.task_id().clone(), saga.revision));
            }
        }
        if exported.is_empty() {
            return Ok(PurgeResult::default());
        }
        let left = asked == EXPORT_STEP || exported.len() < asked;
        blocking(move || batch.commit()).await?;
        let mut purged = PurgeResult::default();
        // The store purges a limited number of rows at a time, and skips what it has purged already.
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

    /// Adds a saga with its whole history as a line, written while it is read. False, and no line, if the saga has changed.
    async fn add_line(
        &self,
        mut batch: ExportBatch,
        saga: &Saga,
        read_time: &ReadTime,
    ) -> Result<(ExportBatch, bool), PurgeError> {
        let mut query = EventQuery {
            task_id: Some(saga.task_id().clone()),
            through: saga.revision,
            limit: EVENTS,
            whole: true,
            ..EventQuery::default()
        };
        batch.push(&grpc::export_json::begin(saga, read_time).map_err(PurgeError::Json)?);
        let mut newest = None;
        loop {
            let page = self.store.events(query.clone()).await?;
            for event in &page {
                if newest.replace(event.revision).is_some() {
                    batch.push(",");
                }
                batch.push(&grpc::export_json::event(event).map_err(PurgeError::Json)?);
            }
            if page.len() < EVENTS {
                break;
            }
            query.after = newest.unwrap_or(query.after);
            if batch.is_large() {
                batch = blocking(move || batch.flush().map(|()| batch)).await?;
            }
        }
        let is_complete = newest == Some(saga.revision);
        if !is_complete {
            batch = blocking(move || batch.discard_line().map(|()| batch)).await?;
            return Ok((batch, false));
        }
        batch.push(grpc::export_json::END);
        batch.end_line();
        if batch.is_large() {
            batch = blocking(move || batch.flush().map(|()| batch)).await?;
        }
        Ok((batch, true))
    }
}

/// Runs disk I/O on a thread that may block.
async fn blocking<T: Send + 'static>(act: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, PurgeError> {
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
    async fn a_long_history_is_exported_in_parts() {
        let options =
            StoreOptions { restart_grace: Span::ZERO, queue: 10_000, batch: 1000, readers: 1, max_waiting: 1 };
        let (store, _writer) = Memory::default().open(&options, Arc::new(ManualClock::at(START))).unwrap();
        let submit = |command| store.submit(Request { command, key: None, by: None });
        submit(Command::Create(vec![creation("long", "q")])).await.unwrap();
        assert!(join_all((0..NOTES).map(|_| submit(note()))).await.iter().all(Result::is_ok));
        let dir = tempfile::tempdir().unwrap();
        let export = ExportDirectory::new(dir.path());
        let purger = Purger { store: store.clone(), export: None };
        let saga = store.get(SagaKey::Task(task_id())).await.unwrap().unwrap();
        // A saga that has changed since it was read leaves no line.
        let mut old = saga.clone();
        old.revision = Revision(saga.revision.0 + 1);
        let read_time = store.read_time();
        let (batch, is_complete) = purger.add_line(export.begin(START).unwrap(), &old, &read_time).await.unwrap();
        assert!(!is_complete && batch.bytes() == 0);
        let (batch, is_complete) = purger.add_line(batch, &saga, &read_time).await.unwrap();
        let (bytes, peak) = (batch.bytes(), batch.peak());
        assert!(is_complete && bytes > 16 << 20, "{bytes} bytes");
        // One page of events, and what was in the buffer before.
        assert!(peak < 2 << 20, "{peak} bytes of {bytes} were in memory at once");
        batch.commit().unwrap();
        let file = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap();
        let line: serde_json::Value = serde_json::from_slice(&std::fs::read(file.path()).unwrap()).unwrap();
        assert_eq!(line["events"].as_array().unwrap().len(), NOTES + 1);
        assert_eq!(line["saga"]["taskId"], "long");
    }
}
