//! Instants and durations, stored and compared as whole microseconds of UTC.

use std::fmt;

/// An instant: microseconds since 1970-01-01T00:00:00Z on the coordinator's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The earliest instant in use.
    pub const ZERO: Timestamp = Timestamp(0);
    /// The latest instant.
    pub const MAX: Timestamp = Timestamp(i64::MAX);

    /// The instant that lies `micros` microseconds after the epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Timestamp(micros)
    }

    /// Microseconds since the epoch.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// The instant a duration later; saturates.
    #[must_use]
    pub const fn plus(self, span: Span) -> Self {
        Timestamp(self.0.saturating_add(span.0))
    }

    /// The instant a duration earlier; saturates.
    #[must_use]
    pub const fn minus(self, span: Span) -> Self {
        Timestamp(self.0.saturating_sub(span.0))
    }

    /// The time since `earlier`; zero if that is later.
    pub const fn since(self, earlier: Timestamp) -> Span {
        let micros = self.0.saturating_sub(earlier.0);
        Span(if micros < 0 { 0 } else { micros })
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC, with microseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match chrono::DateTime::from_timestamp_micros(self.0) {
            Some(time) => f.write_str(&time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)),
            None => write!(f, "{}us", self.0),
        }
    }
}

/// A duration in microseconds; never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(i64);

impl Span {
    /// No time at all.
    pub const ZERO: Span = Span(0);

    /// One microsecond.
    pub const MICROSECOND: Span = Span(1);

    /// A length of `micros` microseconds; `None` if negative.
    pub const fn from_micros(micros: i64) -> Option<Self> {
        if micros < 0 { None } else { Some(Span(micros)) }
    }

    /// A length of `millis` milliseconds.
    pub const fn from_millis(millis: u32) -> Self {
        Span(millis as i64 * 1000)
    }

    /// A length of `secs` seconds.
    pub const fn from_secs(secs: u32) -> Self {
        Span(secs as i64 * 1_000_000)
    }

    /// The length in microseconds.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// A third of it: how often to heartbeat a lease of this length.
    #[must_use]
    pub const fn third(self) -> Self {
        Span(self.0 / 3)
    }

    /// Twice the duration; saturates.
    #[must_use]
    pub const fn doubled(self) -> Self {
        Span(self.0.saturating_mul(2))
    }

    /// As a standard duration.
    pub const fn to_std(self) -> std::time::Duration {
        std::time::Duration::from_micros(self.0 as u64)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_std())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_and_is_never_negative() {
        assert_eq!(Timestamp::from_micros(5).since(Timestamp::from_micros(9)), Span::ZERO);
        assert_eq!(Timestamp::from_micros(9).since(Timestamp::from_micros(5)).micros(), 4);
        assert_eq!(Timestamp::MAX.plus(Span::from_secs(1)), Timestamp::MAX);
        assert_eq!(Span::from_micros(-1), None);
        assert_eq!(Span::from_millis(100).third().micros(), 33_333);
    }
}
