//! [`Notes`]: what a call turned out to be about, for whoever looks at calls from outside. The handler knows it;
//! from outside only bytes are seen.

use std::{future::Future, sync::Arc};

use parking_lot::Mutex;

use crate::{
    domain::command::{Command, Operation},
    store::vitals::Timing,
};

tokio::task_local! {
    static NOTES: Arc<Notes>;
}

/// What is noted of one call.
#[derive(Debug, Default)]
pub struct Notes {
    subject: Mutex<Option<String>>,
    /// Whose call it is and where it looks, by the names of attributes.
    more: Mutex<Vec<(&'static str, String)>>,
    /// When its change got where, if somebody asked for that.
    timing: Option<Arc<Timing>>,
}

impl Notes {
    /// Notes of a call; `timed`: also of when its change got where.
    pub fn new(timed: bool) -> Arc<Self> {
        Arc::new(Notes { timing: timed.then(Arc::default), ..Notes::default() })
    }

    /// A call whose handler finds these notes.
    pub fn taken_in<F: Future>(notes: Arc<Notes>, call: F) -> impl Future<Output = F::Output> {
        NOTES.scope(notes, call)
    }

    /// The same for what is done at once.
    pub(super) fn noting<T>(notes: Arc<Notes>, call: impl FnOnce() -> T) -> T {
        NOTES.sync_scope(notes, call)
    }

    /// What the call is about: a saga's task id, or what it names instead of one.
    pub fn subject(&self) -> Option<String> {
        self.subject.lock().clone()
    }

    /// Owner and queue, as far as the call names them, by the names of attributes.
    pub fn more(&self) -> Vec<(&'static str, String)> {
        self.more.lock().clone()
    }

    /// When its change got where.
    pub fn timing(&self) -> Option<&Timing> {
        self.timing.as_deref()
    }
}

/// Notes what this call is about; false: nobody asked for it.
pub(super) fn about(subject: &str) -> bool {
    let note = |notes: &Arc<Notes>| {
        if !subject.is_empty() {
            *notes.subject.lock() = Some(subject.to_owned());
        }
    };
    NOTES.try_with(note).is_ok()
}

/// Notes what a traced call's command names; returns where its times are to be noted, if they are.
pub(super) fn traced(command: &Command) -> Option<Arc<Timing>> {
    let note = |notes: &Arc<Notes>| {
        let timing = notes.timing.clone()?;
        let mut more = notes.more.lock();
        match command {
            Command::Create(creations) => {
                more.extend(creations.first().map(|first| ("sagad.queue", first.queue.to_string())));
            }
            Command::ClaimNext(claim) => {
                more.extend(claim.queues.first().map(|first| ("sagad.queue", first.to_string())));
                more.push(("sagad.owner_id", claim.owner.to_string()));
            }
            Command::Change(change) => match &change.operation {
                Operation::ByHolder(holder, _) => more.push(("sagad.owner_id", holder.owner.to_string())),
                Operation::Unleased(_) => {}
            },
            Command::SetPaused(pause) => more.push(("sagad.queue", pause.queue.to_string())),
            Command::Purge(_) => {}
        }
        Some(timing)
    };
    NOTES.try_with(note).ok().flatten()
}
