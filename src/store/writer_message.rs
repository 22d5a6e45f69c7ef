//! [`WriterMessage`]: what the handles send to the writer.

use tokio::sync::oneshot;

use super::{HeldClaimSummary, StoreError, submission::Submission};

/// A message to the writer.
#[allow(clippy::large_enum_variant, reason = "nearly every message is a change, and a box for each would cost more")]
pub(super) enum WriterMessage {
    /// A change to execute.
    Submit(Submission),
    /// Asks for a summary of the held claims.
    ReportHeldClaims(oneshot::Sender<Vec<HeldClaimSummary>>),
    /// Answers all held claims, and stops holding.
    Drain,
    /// The last message: answer what came before it, then end.
    Close,
}

impl WriterMessage {
    /// Answers the sender that the writer has ended.
    pub(super) fn refuse(self) {
        match self {
            WriterMessage::Submit(submission) => submission.caller.send(Err(StoreError::ShuttingDown)),
            // Dropping its sender answers it.
            WriterMessage::ReportHeldClaims(_) | WriterMessage::Drain | WriterMessage::Close => {}
        }
    }
}
