//! Single fields: lengths of time, counts, ids and texts, each checked against its bound.

use std::fmt::Display;

use prost_types::Duration;

use crate::domain::{
    bounds::{PAGE_DEFAULT, PAGE_MAX, QUEUES, REVISION_MAX},
    ids::{FencingToken, Malformed, QueueName},
    text::{Blob, Labels, Text},
    time::Span,
};

use super::Violations;

/// The longest `google.protobuf.Duration`: about 10,000 years.
pub const DURATION_MAX: Span = match Span::from_micros(315_576_000_000 * 1_000_000) {
    Some(span) => span,
    None => Span::ZERO,
};

impl Violations {
    /// A length of time within `min..=max`; none if it is absent or a violation.
    pub fn span(&mut self, field: &str, value: Option<&Duration>, min: Span, max: Span) -> Option<Span> {
        let parsed = span(value?).and_then(|span| {
            if span < min {
                Err(Malformed(format!("is {span}; it must be at least {min}")))
            } else if span > max {
                Err(Malformed(format!("is {span}; it must be at most {max}")))
            } else {
                Ok(span)
            }
        });
        self.check(field, parsed)
    }

    /// An optional name or text; empty means absent. The outer none: a violation.
    pub fn optional<T>(
        &mut self,
        field: impl Display,
        value: &str,
        parse: impl FnOnce(&str) -> Result<T, Malformed>,
    ) -> Option<Option<T>> {
        if value.is_empty() { Some(None) } else { self.check(field, parse(value)).map(Some) }
    }

    /// A text that must not be empty.
    pub fn required_text(&mut self, field: impl Display, value: &str) -> Option<Text> {
        if value.is_empty() {
            self.add(field, "is required");
            return None;
        }
        self.check(field, Text::parse(value))
    }

    /// Opaque bytes for workers.
    pub fn blob(&mut self, field: impl Display, value: bytes::Bytes) -> Option<Blob> {
        self.check(field, Blob::parse(value))
    }

    /// Labels or details.
    pub fn labels(&mut self, field: &str, pairs: std::collections::BTreeMap<String, String>) -> Option<Labels> {
        match Labels::parse(pairs) {
            Ok(labels) => Some(labels),
            Err(wrong) => {
                for (key, malformed) in wrong {
                    match key {
                        Some(key) => self.add(format_args!("{field}[{key}]"), malformed.0),
                        None => self.add(field, malformed.0),
                    }
                }
                None
            }
        }
    }

    /// The fencing token of the lease that the request is made under.
    pub fn token(&mut self, value: i64) -> Option<FencingToken> {
        if value == 0 {
            self.add("fencing_token", "is required");
            return None;
        }
        self.token_or_none(value).flatten()
    }

    /// A fencing token; zero means none. The outer none: a violation.
    pub fn token_or_none(&mut self, value: i64) -> Option<Option<FencingToken>> {
        if value == 0 {
            return Some(None);
        }
        if !(1..REVISION_MAX).contains(&value) {
            self.add("fencing_token", format!("is {value}; tokens lie between 1 and {}", REVISION_MAX - 1));
            return None;
        }
        Some(Some(FencingToken(value)))
    }

    /// A count within `1..=max`; zero means the default.
    pub fn count(&mut self, field: &str, value: i32, max: usize, default: usize) -> Option<usize> {
        match usize::try_from(value) {
            Ok(0) => Some(default),
            Ok(count) if count <= max => Some(count),
            Ok(_) | Err(_) => {
                self.add(field, format!("is {value}; it must lie between 1 and {max}"));
                None
            }
        }
    }

    /// The position of a compensation, from 1.
    pub fn position(&mut self, value: i32) -> Option<u32> {
        let position = u32::try_from(value).ok().filter(|position| *position > 0);
        if position.is_none() {
            self.add("position", format!("is {value}; positions begin at 1"));
        }
        position
    }

    /// The number of entries on a page.
    pub fn page_size(&mut self, value: i32) -> Option<usize> {
        self.count("page_size", value, PAGE_MAX, PAGE_DEFAULT)
    }

    /// Queue names, without repetitions.
    pub fn queues(&mut self, values: &[String]) -> Option<Vec<QueueName>> {
        if values.len() > QUEUES {
            self.add("queues", format!("names {} queues; at most {QUEUES} are allowed", values.len()));
            return None;
        }
        self.each("queues", values, |value| QueueName::parse(value))
    }

    /// The parsed values, without repetitions; none if there is a violation.
    pub fn each<S, T: PartialEq>(
        &mut self,
        field: &str,
        values: &[S],
        parse: impl Fn(&S) -> Result<T, Malformed>,
    ) -> Option<Vec<T>> {
        let mut all = Some(Vec::with_capacity(values.len()));
        for (i, value) in values.iter().enumerate() {
            let parsed = self.check(format_args!("{field}[{i}]"), parse(value));
            all = match (all, parsed) {
                (Some(mut all), Some(value)) => {
                    if !all.contains(&value) {
                        all.push(value);
                    }
                    Some(all)
                }
                (Some(_) | None, _) => None,
            };
        }
        all
    }
}

/// A valid, non-negative `google.protobuf.Duration`, truncated to microseconds.
fn span(value: &Duration) -> Result<Span, Malformed> {
    let (seconds, nanos) = (value.seconds, value.nanos);
    if !(-999_999_999..=999_999_999).contains(&nanos) {
        return Err(Malformed(format!("has {nanos} nanos; they must lie between -999999999 and 999999999")));
    }
    if (seconds > 0 && nanos < 0) || (seconds < 0 && nanos > 0) {
        return Err(Malformed("has seconds and nanos of different signs".into()));
    }
    if seconds < 0 || nanos < 0 {
        return Err(Malformed("must not be negative".into()));
    }
    seconds
        .checked_mul(1_000_000)
        .and_then(|micros| micros.checked_add(i64::from(nanos / 1000)))
        .and_then(Span::from_micros)
        .filter(|span| *span <= DURATION_MAX)
        .ok_or_else(|| Malformed(format!("is longer than {DURATION_MAX}")))
}

/// The violation for an enum value that this version does not know.
pub fn unknown(value: i32) -> Malformed {
    Malformed(format!("is {value}, which this coordinator does not know"))
}

/// The violation for an enum that is required.
pub fn required() -> Malformed {
    Malformed("is required".into())
}
