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
        command::{Answer, Command, Purge, Purged, Request},
        ids::{Malformed, Revision, TaskId},
        saga::{Saga, State},
        text::{Actor, Text},
        time::{Span, Timestamp},
    },
    grpc,
    store::{EventQuery, Moment, Store, StoreError},
};

use super::export::Export;

/// Most sagas of one step; the store ends it earlier where they have many rows.
const STEP: usize = 500;
/// Most sagas that are exported in one step, and the bytes behind which no more are added.
const EXPORT_STEP: usize = 64;
const EXPORT_BYTES: usize = 4 << 20;
/// Events that are read at a time.
const EVENTS: usize = 1000;
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
        let mut all = Purged::default();
        let outcome = loop {
            let begun = self.store.moment().now;
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
            let took = self.store.moment().now.since(begun).to_std();
            time::sleep((took * PAUSE).max(PAUSE_MIN)).await;
        };
        if all.sagas > 0 {
            let (sagas, events, through) = (all.sagas, all.events, all.through.0);
            tracing::info!(state = state.name(), sagas, events, through, "sagas that were of age were purged");
        }
        outcome
    }

    async fn step(&mut self, state: State, age: Span) -> Result<Purged, Failure> {
        match self.export.clone() {
            None => self.purge(state, age, Vec::new()).await,
            Some(export) => self.export_and_purge(&export, state, age).await,
        }
    }

    async fn purge(&self, state: State, age: Span, only: Vec<(TaskId, Revision)>) -> Result<Purged, Failure> {
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
    async fn export_and_purge(&self, export: &Arc<Export>, state: State, age: Span) -> Result<Purged, Failure> {
        let moment = self.store.moment();
        let before = moment.now.minus(age);
        let found = self.store.ended(state, before, EXPORT_STEP).await?;
        let (mut lines, mut exported, asked) = (String::new(), Vec::new(), found.len());
        for saga in found {
            if lines.len() >= EXPORT_BYTES {
                break;
            }
            // Changed since it was found: it is found again when it is of age again.
            let Some(line) = self.line(&saga, &moment).await? else { continue };
            lines.push_str(&line);
            lines.push('\n');
            exported.push((saga.task_id().clone(), saga.revision));
        }
        if exported.is_empty() {
            return Ok(Purged::default());
        }
        let left = asked == EXPORT_STEP || exported.len() < asked;
        let (export, utc) = (export.clone(), self.store.utc());
        write(export, lines, utc).await?;
        let mut purged = Purged::default();
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

    /// A saga with its whole history as a line; none: it has changed.
    async fn line(&self, saga: &Saga, moment: &Moment) -> Result<Option<String>, Failure> {
        let mut events = Vec::new();
        let mut query = EventQuery {
            task_id: Some(saga.task_id().clone()),
            through: saga.revision,
            limit: EVENTS,
            whole: true,
            ..EventQuery::default()
        };
        loop {
            let page = self.store.events(query.clone()).await?;
            let is_last = page.len() < EVENTS;
            query.after = page.last().map_or(query.after, |event| event.revision);
            events.extend(page);
            if is_last {
                break;
            }
        }
        if events.last().map(|event| event.revision) != Some(saga.revision) {
            return Ok(None);
        }
        grpc::export::line(saga, &events, moment).map(Some).map_err(Failure::Form)
    }
}

async fn write(export: Arc<Export>, lines: String, utc: Timestamp) -> Result<(), Failure> {
    let written = task::spawn_blocking(move || export.append(&lines, utc)).await;
    Ok(written.unwrap_or_else(|gone| Err(io::Error::other(gone)))?)
}
