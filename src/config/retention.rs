//! For how long sagas that have ended are kept, and where they are written before they go.

use std::path::PathBuf;

use super::sources::EffectiveSettings;
use crate::domain::{saga::State, time::Span};

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
    pub(super) fn read(settings: &EffectiveSettings) -> Self {
        Retention {
            completed: settings.get("retain_completed"),
            failed: settings.get("retain_failed"),
            compensated: settings.get("retain_compensated"),
            quarantined: settings.get("retain_quarantined"),
            export: settings.get("retention_export"),
        }
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
