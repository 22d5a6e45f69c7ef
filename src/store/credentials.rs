//! [`Credentials`]: whether the caller of a change still is who it was when its call came in.
//!
//! A change can wait for its turn: behind others in the queue, or held until there is work. So this is looked at in the turn
//! that carries the change out, and not only when the call arrives: after a revocation nothing is handed out any more.

use tokio_util::sync::CancellationToken;

use crate::{clock::Clock, domain::time::Timestamp};

/// What a call came with, as far as the store looks at it.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// Cancelled once they stand for their principal no more.
    pub revoked: CancellationToken,
    /// Cancelled once the certificate of the call's connection holds no more, whatever else was shown.
    pub certificate: CancellationToken,
    /// From when on they are refused, on the wall clock, if there is an end.
    pub not_after: Option<Timestamp>,
}

impl Credentials {
    /// Whether the call is to be refused.
    pub fn are_over(&self, clock: &dyn Clock) -> bool {
        self.are_over_at(clock.utc())
    }

    /// The same, at this time of the wall clock.
    pub fn are_over_at(&self, utc: Timestamp) -> bool {
        self.revoked.is_cancelled() || self.certificate.is_cancelled() || self.not_after.is_some_and(|end| utc >= end)
    }

    /// Ready once they are revoked. (What runs out by `not_after` is seen by whoever looks.)
    pub async fn end(&self) {
        tokio::select! {
            () = self.revoked.cancelled() => {}
            () = self.certificate.cancelled() => {}
        }
    }
}

/// Where a change comes from, as far as the store looks at it.
#[derive(Clone, Debug, Default)]
pub struct CallOrigin {
    /// What its caller showed, where callers are known.
    pub credentials: Option<Credentials>,
    /// The connection that it came over, by a number that no two open ones share.
    pub connection: Option<u64>,
}
