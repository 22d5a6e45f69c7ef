//! Renders answers as messages. Nothing is decided here except how much fits into one answer.

pub mod enums;
pub mod event;
pub mod saga;
pub mod server;
pub mod watch;

use prost::Message;
use prost_types::{Duration, Timestamp as ProtoTimestamp};

use crate::domain::{
    bounds::ANSWER_BYTES,
    time::{Span, Timestamp},
};

/// What an entry of a list costs beside its own bytes: tag and length.
const ENTRY_BYTES: usize = 8;
/// Room for what a response holds beside its list: a page token of some 150 bytes, or a few numbers.
const REST_BYTES: usize = 256;

pub fn time(time: Timestamp) -> ProtoTimestamp {
    let micros = time.micros();
    ProtoTimestamp { seconds: micros.div_euclid(1_000_000), nanos: micros.rem_euclid(1_000_000) as i32 * 1000 }
}

pub fn span(span: Span) -> Duration {
    signed(span.micros())
}

/// A difference of times, in microseconds.
pub fn signed(micros: i64) -> Duration {
    // The type requires that both parts have the same sign.
    Duration { seconds: micros / 1_000_000, nanos: (micros % 1_000_000) as i32 * 1000 }
}

/// A count in the contract's type.
pub fn count(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// How many bytes still fit into one answer.
#[derive(Debug)]
pub struct ResponseBudget {
    left: usize,
}

impl ResponseBudget {
    /// The budget of an empty answer.
    pub fn full() -> Self {
        ResponseBudget { left: ANSWER_BYTES - REST_BYTES }
    }

    /// Whether one more entry fits; if so its bytes are taken off the budget.
    pub fn take(&mut self, entry: &impl Message) -> bool {
        match self.left.checked_sub(entry.encoded_len() + ENTRY_BYTES) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_before_the_epoch_have_positive_nanos() {
        let time = time(Timestamp::from_micros(-1));
        assert_eq!((time.seconds, time.nanos), (-1, 999_999_000));
        assert_eq!(signed(-1_500_000), Duration { seconds: -1, nanos: -500_000_000 });
    }

    proptest! {
        #[test]
        fn times_round_trip(micros: i64) {
            let time = time(Timestamp::from_micros(micros));
            prop_assert!((0..1_000_000_000).contains(&time.nanos));
            prop_assert_eq!(i128::from(time.seconds) * 1_000_000 + i128::from(time.nanos / 1000), i128::from(micros));
        }
    }
}
