//! [`TransitionEffect`]: what an accepted command did.

/// What an accepted operation did to its saga.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransitionEffect {
    /// The draft holds the changes.
    Changed,
    /// Nothing changed: the call repeats an earlier one, or only asked whether it would be accepted.
    Unchanged,
}
