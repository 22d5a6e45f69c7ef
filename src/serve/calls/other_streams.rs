//! [`OtherStreams`]: how many streams may be open that are not the contract's. Its own are counted with their callers.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    health_watches::{HealthWatch, HealthWatches},
    methods::Form,
};
use crate::{domain::time::Span, grpc::status::Problem, listen::Line};

/// The part of the streams that are not the contract's which may watch the daemon's health: an eighth, 512 with the defaults.
/// Everybody may open them, so they have a share of their own.
const HEALTH_SHARE: usize = 8;
/// When to try again after there was no place.
const RETRY: Span = Span::from_secs(1);

/// Counts them.
pub(in crate::serve) struct OtherStreams {
    others: Arc<Semaphore>,
    health_watches: Arc<HealthWatches>,
}

/// A stream's place among them, until it is dropped.
pub(in crate::serve) enum StreamPlace {
    /// Among health watches.
    Health { _place: HealthWatch },
    /// Among the others.
    Other { _permit: OwnedSemaphorePermit },
}

impl OtherStreams {
    /// At most so many.
    pub(in crate::serve) fn new(max: usize) -> Self {
        OtherStreams {
            others: Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS))),
            health_watches: HealthWatches::new((max / HEALTH_SHARE).max(1)),
        }
    }

    /// The place of a call of this form, if it needs one.
    ///
    /// # Errors
    /// There is none.
    pub(in crate::serve) fn place(&self, form: Form, line: &Arc<Line>) -> Result<Option<StreamPlace>, Problem> {
        let overloaded = |why| Problem::overloaded(why, RETRY);
        if form.is_health_watch {
            let _place = self.health_watches.take(Some(line)).map_err(overloaded)?;
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
