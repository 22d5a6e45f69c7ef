//! [`Accepted`]: what an accepted command did.

/// How a command was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// The draft holds what it changed.
    Changed,
    /// It changes nothing: it was done before, or was only to be judged.
    Repeated,
}
