//! For how long sagas that have ended are kept, and where they are written before they go.

use std::path::PathBuf;

use crate::domain::{saga::State, time::Span};

use super::{ConfigError, setting, source::Sources, value};

/// Shortest age: below it a saga is gone before anybody has looked.
pub const AGE_MIN: Span = Span::from_secs(1);
/// Longest age, ten years: beyond it, "forever" is meant.
pub const AGE_MAX: Span = Span::from_secs(315_576_000);

/// What is kept for how long. By default everything, for ever.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Completed sagas: for so long after their last change; none: for ever.
    pub completed: Option<Span>,
    /// Failed ones.
    pub failed: Option<Span>,
    /// Compensated ones.
    pub compensated: Option<Span>,
    /// Quarantined ones.
    pub quarantined: Option<Span>,
    /// An existing directory in which each saga is written before it is purged.
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

    /// The states that are not kept for ever, each with its age.
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
