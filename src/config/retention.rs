//! How long ended sagas are kept, and where they are archived before they are purged.

use std::path::PathBuf;

use crate::domain::{saga::State, time::Span};

use super::{ConfigError, setting, source::Sources, value};

/// Shortest age: with a shorter one a saga is purged before anybody can look at it.
pub const AGE_MIN: Span = Span::from_secs(1);
/// Longest age, ten years: for more, use "forever".
pub const AGE_MAX: Span = Span::from_secs(315_576_000);

/// How long sagas are kept, by state. By default forever.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Age of completed sagas, from their last change; `None`: forever.
    pub completed: Option<Span>,
    /// Age of failed sagas.
    pub failed: Option<Span>,
    /// Age of compensated sagas.
    pub compensated: Option<Span>,
    /// Age of quarantined sagas.
    pub quarantined: Option<Span>,
    /// An existing directory to which each saga is written before it is purged.
    pub export: Option<PathBuf>,
}

impl Retention {
    pub(super) fn read(sources: &Sources<'_>) -> Result<Self, ConfigError> {
        let age = |key| sources.read(key, None, value::age(AGE_MIN, AGE_MAX), setting::age);
        Ok(Retention {
            completed: age("retain_completed")?,
            failed: age("retain_failed")?,
            compensated: age("retain_compensated")?,
            quarantined: age("retain_quarantined")?,
            export: sources.read("retention_export", None, value::file, setting::file)?,
        })
    }

    /// The states that are not kept forever, each with its age.
    pub fn ages(&self) -> Vec<(State, Span)> {
        let ages = [
            (State::Completed, self.completed),
            (State::Failed, self.failed),
            (State::Compensated, self.compensated),
            (State::Quarantined, self.quarantined),
        ];
        ages.into_iter().filter_map(|(state, age)| Some((state, age?))).collect()
    }
}
