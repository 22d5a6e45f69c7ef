//! Retries: with the same request and `request_id`, after a delay that doubles, is jittered, and is never shorter than
//! what the coordinator asked for.

use std::{future::Future, time::Duration};

use tonic::Status;

use super::{
    CallEffect, StatusDetails,
    time::{self, Moment},
};

/// A delay that doubles up to a bound. Half of it is random, so that clients that failed together don't retry
/// together.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    next: Duration,
    max: Duration,
}

impl Backoff {
    /// Starts at `first` and grows to `max`.
    pub fn new(first: Duration, max: Duration) -> Self {
        let first = first.min(max);
        Self { first, next: first, max }
    }

    /// The next delay: between half and all of the current step.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use sagad::client::retry::Backoff;
    /// let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    /// assert!(backoff.delay() <= Duration::from_millis(100));
    /// assert!(backoff.delay() >= Duration::from_millis(100));
    /// ```
    pub fn delay(&mut self) -> Duration {
        let step = self.next;
        self.next = step.saturating_mul(2).min(self.max);
        step.mul_f64(rand::random_range(0.5..=1.0))
    }

    /// Starts again from the first delay, after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

impl Default for Backoff {
    /// From 0.1 to 5 seconds: short enough that a restart of the coordinator goes unnoticed.
    fn default() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(5))
    }
}

/// Which errors are retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryOn {
    /// Only errors by which the coordinator says that it did not happen. For calls of a person: an address that
    /// doesn't answer is reported at once.
    NotNow,
    /// Also errors that leave it open. For calls that are safe to repeat: reads, and calls with a `request_id`.
    Unknown,
}

impl RetryOn {
    fn includes(self, happened: CallEffect) -> bool {
        match (happened, self) {
            (CallEffect::Refused, _) | (CallEffect::Unknown, RetryOn::NotNow) => false,
            (CallEffect::NotNow, _) | (CallEffect::Unknown, RetryOn::Unknown) => true,
        }
    }
}

/// Repeats `call` until it succeeds, is refused, or `give_up` has passed, and returns the last outcome. `give_up` is
/// evaluated before each retry, so it may move, as a lease's deadline does.
pub async fn retry<T, F, Fut>(retry_on: RetryOn, give_up: impl Fn() -> Moment, mut call: F) -> Result<T, Status>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, Status>>,
{
    let mut backoff = Backoff::default();
    loop {
        let status = match call().await {
            Ok(answer) => return Ok(answer),
            Err(status) => status,
        };
        let refusal = StatusDetails::from(&status);
        let delay = backoff.delay().max(refusal.retry_after.unwrap_or_default());
        if !retry_on.includes(refusal.happened) || time::now() + delay >= give_up() {
            return Err(status);
        }
        tokio::time::sleep(delay).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn soon() -> Moment {
        time::now() + Duration::from_secs(5)
    }

    #[tokio::test]
    async fn what_did_not_happen_is_tried_again() {
        let tries = Cell::new(0);
        let answer = retry(RetryOn::NotNow, soon, || {
            tries.set(tries.get() + 1);
            let this = tries.get();
            async move { if this < 3 { Err(Status::resource_exhausted("full")) } else { Ok(this) } }
        })
        .await;
        assert_eq!(answer.expect("the third try succeeds"), 3);
    }

    #[tokio::test]
    async fn a_refusal_and_a_silent_peer_are_reported_at_once() {
        for (status, retry_on) in [
            (Status::failed_precondition("no"), RetryOn::Unknown),
            (Status::unavailable("connection refused"), RetryOn::NotNow),
        ] {
            let tries = Cell::new(0);
            let answer: Result<(), Status> = retry(retry_on, soon, || {
                tries.set(tries.get() + 1);
                let status = status.clone();
                async move { Err(status) }
            })
            .await;
            assert!(answer.is_err());
            assert_eq!(tries.get(), 1);
        }
    }

    #[tokio::test]
    async fn it_gives_up_in_time() {
        let end = time::now();
        let answer: Result<(), Status> =
            retry(RetryOn::Unknown, || end, || async { Err(Status::unavailable("gone")) }).await;
        assert!(answer.is_err());
    }
}
