//! [`LibraryStreamLimiter`]: how many streams of `tonic`'s health and reflection services may be open. The contract's own
//! streams are limited in `grpc`, by caller.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    health_watch_limiter::{HealthWatchLimiter, HealthWatchPermit},
    method_table::MethodProperties,
};
use crate::{domain::time::Span, grpc::problem::Problem, listen::ConnectionState};

/// The part that health watches get: an eighth, 512 with the defaults. They need no credentials, so their limit is
/// separate.
const HEALTH_SHARE: usize = 8;
/// When clients should retry after a refusal.
const RETRY: Span = Span::from_secs(1);

/// The limit on these streams.
pub(in crate::serve) struct LibraryStreamLimiter {
    others: Arc<Semaphore>,
    health_watches: Arc<HealthWatchLimiter>,
}

/// Permission for one such stream, until it is dropped.
pub(in crate::serve) enum LibraryStreamPermit {
    Health { _permit: HealthWatchPermit },
    Other { _permit: OwnedSemaphorePermit },
}

impl LibraryStreamLimiter {
    /// At most `max` streams, health watches not included.
    pub(in crate::serve) fn new(max: usize) -> Self {
        LibraryStreamLimiter {
            others: Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS))),
            health_watches: HealthWatchLimiter::new((max / HEALTH_SHARE).max(1)),
        }
    }

    /// A permit for a call of this method, if it needs one.
    ///
    /// # Errors
    /// The limit is reached.
    pub(in crate::serve) fn permit(
        &self,
        method: MethodProperties,
        connection: &Arc<ConnectionState>,
    ) -> Result<Option<LibraryStreamPermit>, Problem> {
        let overloaded = |why| Problem::overloaded(why, RETRY);
        if method.is_health_watch {
            let _permit = self.health_watches.take(Some(connection)).map_err(overloaded)?;
            return Ok(Some(LibraryStreamPermit::Health { _permit }));
        }
        if !method.is_library_stream {
            return Ok(None);
        }
        let why = "too many streams are open: close some, or try again (max_watches)";
        let _permit = self.others.clone().try_acquire_owned().map_err(|_| overloaded(why))?;
        Ok(Some(LibraryStreamPermit::Other { _permit }))
    }
}
