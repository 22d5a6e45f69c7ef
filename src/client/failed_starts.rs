//! [`FailedStarts`]: work that could not be started: a missing program, no memory, a full disk. That is the worker's
//! problem and not the saga's, so the saga is released, the worker waits longer each time, and ends if it goes on.

use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    retry::Backoff,
    time::{self, Moment},
};

/// After this many failures in a row the worker ends: it would not recover by itself, and its operator should know.
/// With the pauses this takes up to eight seconds, which is longer than a short lack of processes or descriptors.
const FAILURES_MAX: u32 = 5;

/// The pause after the first failure, for the saga and for the worker. It doubles.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Why a worker ended without being told to.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The coordinator refused a claim or a watch, or was away for too long.
    #[error(transparent)]
    Coordinator(#[from] Status),
    /// The work could not be started several times in a row. Each saga was given back.
    #[error("the work could not be started {times} times in a row, at last: {reason}")]
    CannotStart {
        /// How many times.
        times: u32,
        /// What went wrong the last time.
        reason: String,
    },
}

/// Counts failed starts in a row, and spaces them. Failures at one moment, of sagas claimed together, count once.
#[derive(Debug)]
pub(super) struct FailedStarts {
    state: Mutex<FailureState>,
    /// Set when there were too many.
    stop: CancellationToken,
}

#[derive(Debug)]
struct FailureState {
    in_a_row: u32,
    reason: String,
    backoff: Backoff,
    pause: Duration,
    paused_until: Option<Moment>,
    /// Whether a saga was released since [`Self::look_again`] was last called.
    given_back: bool,
}

impl FailedStarts {
    pub fn new(stop: CancellationToken) -> Self {
        let state = FailureState {
            in_a_row: 0,
            reason: String::new(),
            backoff: Backoff::new(PAUSE_FIRST, PAUSE_MAX),
            pause: PAUSE_FIRST,
            paused_until: None,
            given_back: false,
        };
        FailedStarts { state: Mutex::new(state), stop }
    }

    /// Records a failed start; returns the delay with which the saga is to be released.
    pub fn failed(&self, reason: &str) -> Duration {
        let mut state = self.state.lock();
        let now = time::now();
        if state.paused_until.is_none_or(|until| now >= until) {
            state.in_a_row += 1;
            state.pause = state.backoff.delay();
            reason.clone_into(&mut state.reason);
            if state.in_a_row >= FAILURES_MAX {
                self.stop.cancel();
            }
        }
        state.paused_until = Some(now + state.pause);
        state.pause
    }

    /// Records that the saga was released with `delay`. It is ready again before the pause is over.
    pub fn given_back(&self, delay: Duration) {
        let mut state = self.state.lock();
        state.paused_until = state.paused_until.max(Some(time::now() + delay));
        state.given_back = true;
    }

    /// Records a successful start.
    pub fn started(&self) {
        let mut state = self.state.lock();
        state.in_a_row = 0;
        state.backoff.reset();
    }

    /// Waits until the pause is over, or until the worker must stop.
    pub async fn pause(&self) {
        loop {
            let until = self.state.lock().paused_until;
            match until {
                Some(until) if until > time::now() => {
                    tokio::select! {
                        () = time::sleep_until(until) => {}
                        () = self.stop.cancelled() => return,
                    }
                }
                Some(_) | None => return,
            }
        }
    }

    /// True if a saga was released since the last call, so that a queue that seems empty must be checked again.
    pub fn look_again(&self) -> bool {
        std::mem::take(&mut self.state.lock().given_back)
    }

    /// Why the worker must end, if it must.
    pub fn error(&self) -> Option<WorkerError> {
        let state = self.state.lock();
        let (times, reason) = (state.in_a_row, state.reason.clone());
        (times >= FAILURES_MAX).then_some(WorkerError::CannotStart { times, reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_one_moment_count_once() {
        let stop = CancellationToken::new();
        let failed_starts = FailedStarts::new(stop.clone());
        let first = failed_starts.failed("no memory");
        for _ in 0..50 {
            assert_eq!(failed_starts.failed("no memory"), first);
        }
        assert!(!stop.is_cancelled() && failed_starts.error().is_none());
        assert!(!failed_starts.look_again());
        failed_starts.given_back(first);
        assert!(failed_starts.look_again() && !failed_starts.look_again());
    }

    #[test]
    fn five_in_a_row_are_the_end_and_one_success_between_them_is_not() {
        let stop = CancellationToken::new();
        let failed_starts = FailedStarts::new(stop.clone());
        let again = || {
            failed_starts.state.lock().paused_until = None;
            failed_starts.failed("no memory")
        };
        let pauses: Vec<Duration> = (0..4).map(|_| again()).collect();
        assert!(pauses[3] > pauses[0] * 2, "{pauses:?}");
        failed_starts.started();
        for _ in 0..4 {
            again();
        }
        assert!(!stop.is_cancelled() && failed_starts.error().is_none());
        again();
        assert!(stop.is_cancelled());
        let error = failed_starts.error().expect("it has to end").to_string();
        assert_eq!(error, "the work could not be started 5 times in a row, at last: no memory");
    }
}
