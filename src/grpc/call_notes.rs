//! [`CallNotes`]: what a handler notes about its call for logs and traces. Outside of the handler a call is only bytes.

use std::{future::Future, sync::Arc};

use parking_lot::Mutex;

use crate::{
    domain::command::{Command, Operation},
    metrics::Timing,
};

tokio::task_local! {
    static NOTES: Arc<CallNotes>;
}

/// The notes of one call.
#[derive(Debug, Default)]
pub struct CallNotes {
    subject: Mutex<Option<String>>,
    /// Span attributes: owner and queue.
    attributes: Mutex<Vec<(&'static str, String)>>,
    /// When its change reached which step, for traced calls.
    timing: Option<Arc<Timing>>,
}

impl CallNotes {
    /// `timed`: the steps of its change are noted, too.
    pub fn new(is_traced: bool) -> Arc<Self> {
        Arc::new(CallNotes { timing: is_traced.then(Arc::default), ..CallNotes::default() })
    }

    /// Runs a call so that its handler finds these notes.
    pub fn scope<F: Future>(notes: Arc<CallNotes>, call: F) -> impl Future<Output = F::Output> {
        NOTES.scope(notes, call)
    }

    /// The same for a synchronous call.
    pub(super) fn sync_scope<T>(notes: Arc<CallNotes>, call: impl FnOnce() -> T) -> T {
        NOTES.sync_scope(notes, call)
    }

    /// The call's subject: a saga's task id, or what it names instead.
    pub fn subject(&self) -> Option<String> {
        self.subject.lock().clone()
    }

    /// Owner and queue, if the call names them, as span attributes.
    pub fn attributes(&self) -> Vec<(&'static str, String)> {
        self.attributes.lock().clone()
    }

    /// When its change reached which step.
    pub fn timing(&self) -> Option<&Timing> {
        self.timing.as_deref()
    }
}

/// Notes the subject of the current call. False: the call has no notes.
pub(super) fn note_subject(subject: &str) -> bool {
    let note = |notes: &Arc<CallNotes>| {
        if !subject.is_empty() {
            *notes.subject.lock() = Some(subject.to_owned());
        }
    };
    NOTES.try_with(note).is_ok()
}

/// Notes what a traced call's command names. Returns where the writer notes its steps, if the call is traced.
pub(super) fn note_command(command: &Command) -> Option<Arc<Timing>> {
    let note = |notes: &Arc<CallNotes>| {
        let timing = notes.timing.clone()?;
        let mut attributes = notes.attributes.lock();
        match command {
            Command::Create(creations) => {
                attributes.extend(creations.first().map(|first| ("sagad.queue", first.queue.to_string())));
            }
            Command::ClaimNext(claim) => {
                attributes.extend(claim.queues.first().map(|first| ("sagad.queue", first.to_string())));
                attributes.push(("sagad.owner_id", claim.owner.to_string()));
            }
            Command::Change(change) => match &change.operation {
                Operation::ByHolder(holder, _) => attributes.push(("sagad.owner_id", holder.owner.to_string())),
                Operation::Unleased(_) => {}
            },
            Command::SetPaused(pause) => attributes.push(("sagad.queue", pause.queue.to_string())),
            Command::Purge(_) => {}
        }
        Some(timing)
    };
    NOTES.try_with(note).ok().flatten()
}
