//! Converts durations and times between protobuf and Rust.

use std::time::Duration;

use chrono::{DateTime, Utc};

/// A duration for a request. A longer one than protobuf can hold becomes the longest, which the coordinator refuses as
/// out of bounds.
pub fn to_proto(length: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(length.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(length.subsec_nanos()).unwrap_or(0),
    }
}

/// A duration from an answer; a negative one becomes zero.
pub fn from_proto(length: &prost_types::Duration) -> Duration {
    match (u64::try_from(length.seconds), u32::try_from(length.nanos)) {
        (Ok(seconds), Ok(nanos)) => Duration::new(seconds, nanos),
        (Err(_), _) | (_, Err(_)) => Duration::ZERO,
    }
}

/// A time from an answer; `None` when it is outside of the calendar.
pub fn to_utc(time: &prost_types::Timestamp) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(time.seconds, u32::try_from(time.nanos).ok()?)
}

/// The time from `start` to `end`; zero if `end` is earlier.
pub fn between(start: &prost_types::Timestamp, end: &prost_types::Timestamp) -> Duration {
    match (to_utc(start), to_utc(end)) {
        (Some(start), Some(end)) => (end - start).to_std().unwrap_or(Duration::ZERO),
        (None, _) | (_, None) => Duration::ZERO,
    }
}

/// A `google.protobuf.Timestamp` in the text form that error metadata has (RFC 3339).
pub fn parse_utc(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text).ok().map(|time| time.with_timezone(&Utc))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_round_trip() {
        let length = Duration::from_millis(1_234);
        assert_eq!(from_proto(&to_proto(length)), length);
        assert_eq!(from_proto(&prost_types::Duration { seconds: -1, nanos: 0 }), Duration::ZERO);
    }

    #[test]
    fn times_are_compared_on_the_coordinators_clock() {
        let at = |seconds| prost_types::Timestamp { seconds, nanos: 0 };
        assert_eq!(between(&at(10), &at(40)), Duration::from_secs(30));
        assert_eq!(between(&at(40), &at(10)), Duration::ZERO);
    }

    #[test]
    fn metadata_times_are_rfc_3339() {
        assert!(parse_utc("2026-01-02T03:04:05.678901Z").is_some());
        assert!(parse_utc("yesterday").is_none());
    }
}
