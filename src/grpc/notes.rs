//! [`Notes`]: what a call turned out to be about, for whoever looks at calls from outside. The handler knows it and the
//! layers do not, since they see bytes.

use std::{future::Future, sync::Arc};

use parking_lot::Mutex;

tokio::task_local! {
    static NOTES: Arc<Notes>;
}

/// What is noted of one call.
#[derive(Debug, Default)]
pub struct Notes {
    subject: Mutex<Option<String>>,
}

impl Notes {
    /// A call whose handler finds these notes.
    pub fn taken_in<F: Future>(notes: Arc<Notes>, call: F) -> impl Future<Output = F::Output> {
        NOTES.scope(notes, call)
    }

    /// What the call is about: a saga's task id, or what it names instead of one.
    pub fn subject(&self) -> Option<String> {
        self.subject.lock().clone()
    }
}

/// Notes what this call is about; false: nobody asked for it.
pub(super) fn about(subject: &str) -> bool {
    NOTES
        .try_with(|notes| {
            if !subject.is_empty() {
                *notes.subject.lock() = Some(subject.to_owned());
            }
        })
        .is_ok()
}
