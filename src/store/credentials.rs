//! [`Credentials`]: whether the caller of a change is still authenticated.
//!
//! A change may wait in the queue, or be held until there is work. So the credentials are checked again in the turn
//! that executes it: after a revocation nothing is handed out any more.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::{clock::Clock, domain::time::Timestamp, metrics::Timing};

/// The credentials of a call, as far as the store needs them.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// Cancelled when the principal or its credentials are revoked.
    pub revoked: CancellationToken,
    /// Cancelled when the certificate of the call's connection is revoked, whatever other credentials the call has.
    pub certificate: CancellationToken,
    /// When they expire, on the wall clock, if they do.
    pub not_after: Option<Timestamp>,
}

impl Credentials {
    /// True if the call must be refused.
    pub fn are_invalid(&self, clock: &dyn Clock) -> bool {
        self.are_invalid_at(clock.utc())
    }

    /// Like [`Self::are_invalid`], at a time of the wall clock.
    pub fn are_invalid_at(&self, utc: Timestamp) -> bool {
        self.revoked.is_cancelled() || self.certificate.is_cancelled() || self.not_after.is_some_and(|end| utc >= end)
    }

    /// Resolves when they are revoked. (It does not wait for `not_after`, which the other methods check.)
    pub async fn wait_revoked(&self) {
        tokio::select! {
            () = self.revoked.cancelled() => {}
            () = self.certificate.cancelled() => {}
        }
    }
}

/// Where a call comes from, as far as the store needs it, and where its progress is recorded.
#[derive(Clone, Debug, Default)]
pub struct CallOrigin {
    /// The caller's credentials, if callers are authenticated.
    pub credentials: Option<Credentials>,
    /// The number of its connection, unique among open connections.
    pub connection: Option<u64>,
    /// Records when the change reached which stage, if wanted.
    pub timing: Option<Arc<Timing>>,
}
