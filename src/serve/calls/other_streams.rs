//! [`LibraryStreamLimiter`]: how many streams of `tonic`'s health and reflection services may be open. The contract's own
//! streams are limited in `grpc`, by caller.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    health_watches::{HealthWatch, HealthWatches},
    methods::Form,
};
use crate::{domain::time::Span, grpc::status::Problem, listen::ConnectionState};

/// The part that health watches get: an eighth, 512 with the defaults. They need no credentials, so their limit is
/// separate.
const HEALTH_SHARE: usize = 8;
/// When clients should retry after a refusal.
const RETRY: Span = Span::from_secs(1);

/// The limit on these streams.
pub(in crate::serve) struct OtherStreams {
    others: Arc<Semaphore>,
    health_watches: Arc<HealthWatches>,
}

/// Permission for one such stream, until it is dropped.
pub(in crate::serve) enum StreamPlace {
    Health { _place: HealthWatch },
    Other { _permit: OwnedSemaphorePermit },
}

impl OtherStreams {
    /// At most `max` streams, health watches not included.
    pub(in crate::serve) fn new(max: usize) -> Self {
        OtherStreams {
            others: Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS))),
            health_watches: HealthWatches::new((max / HEALTH_SHARE).max(1)),
        }
    }

    /// A permit for a call of this method, if it needs one.
    ///
    /// # Errors
    /// The limit is reached.
    pub(in crate::serve) fn place(
        &self,
        form: Form,
        connection: &Arc<ConnectionState>,
    ) -> Result<Option<StreamPlace>, Problem> {
        let overloaded = |why| Problem::overloaded(why, RETRY);
        if form.is_health_watch {
            let _place = self.health_watches.take(Some(connection)).map_err(overloaded)?;
            return Ok(Some(StreamPlace::Health { _place }));
        }
        if !form.is_other_stream {
            return Ok(None);
        }
        let why = "too many streams are open: close some, or try again (max_watches)";
        let _permit = self.others.clone().try_acquire_owned().map_err(|_| overloaded(why))?;
        Ok(Some(StreamPlace::Other { _permit }))
    }
}
