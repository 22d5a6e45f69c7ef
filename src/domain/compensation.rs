//! Compensations: what undoes the effects of the work. They are registered before the effect and run in reverse order.

use super::{
    ids::FencingToken,
    text::{Kind, Text},
    time::Timestamp,
};

/// A compensation as a caller registers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompensationSpec {
    /// Which handler undoes it.
    pub kind: Kind,
    /// What it undoes: a path, a branch, an address.
    pub target: Text,
    /// Why it is needed.
    pub reason: Text,
}

/// A registered compensation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compensation {
    /// 1, 2, … in order of registration.
    pub position: u32,
    /// What was registered.
    pub spec: CompensationSpec,
    /// How far it is.
    pub state: CompensationState,
    /// How often it was recorded as failed.
    pub attempts: u32,
    /// What the last failure said.
    pub last_error: Text,
    /// The owner that did it or the person who waived it.
    pub settled_by: Option<std::sync::Arc<str>>,
    /// When that was.
    pub settle_time: Option<Timestamp>,
    /// The lease that registered it; none when it came with the creation.
    pub registered_under: Option<FencingToken>,
    /// The lease whose outcome was recorded last.
    pub recorded_under: Option<FencingToken>,
}

impl Compensation {
    /// A new compensation that has not been run.
    pub fn pending(position: u32, spec: CompensationSpec, under: Option<FencingToken>) -> Self {
        Compensation {
            position,
            spec,
            state: CompensationState::Pending,
            attempts: 0,
            last_error: Text::default(),
            settled_by: None,
            settle_time: None,
            registered_under: under,
            recorded_under: None,
        }
    }

    /// True if there is nothing left to undo.
    pub fn is_settled(&self) -> bool {
        match self.state {
            CompensationState::Done | CompensationState::Waived => true,
            CompensationState::Pending | CompensationState::Failed => false,
        }
    }
}

/// The state of a compensation. `Done` and `Waived` are final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CompensationState {
    /// Not run yet.
    Pending,
    /// Undone.
    Done,
    /// Tried, without success so far.
    Failed,
    /// Declared not needed by a named person.
    Waived,
}

/// How a worker's attempt to undo went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompensationOutcome {
    /// The effect is undone.
    Done,
    /// The attempt failed.
    Failed,
}
