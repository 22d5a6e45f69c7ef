//! [`Violations`]: everything that is wrong with one request, and the parsers of single fields, which add to it: lengths of
//! time, counts, ids and texts.

use std::fmt::Display;

use prost_types::Duration;
use tonic::Code;

use crate::{
    domain::{
        bounds::{PAGE_DEFAULT, PAGE_MAX, QUEUES, REVISION_MAX},
        ids::{FencingToken, Malformed, QueueName},
        text::{Blob, Labels, Text},
        time::Span,
    },
    grpc::problem::{Problem, truncate},
    mutants::{self, Mutant},
};

/// Longest path and longest description, in bytes. A path can quote a label's key.
const ENTRY_BYTES: usize = 160;
/// Longest list, in bytes. It is sent in a header, and some clients accept at most 8 KiB of headers.
const LIST_BYTES: usize = 3 * 1024;

/// The longest `google.protobuf.Duration`: about 10,000 years.
pub const DURATION_MAX: Span = match Span::from_micros(315_576_000_000 * 1_000_000) {
    Some(span) => span,
    None => Span::ZERO,
};

/// Violations by proto path, in the order in which they were found.
#[derive(Debug, Default)]
pub struct Violations {
    prefix: String,
    list: Vec<(String, String)>,
    bytes: usize,
    left_out: usize,
}

impl Violations {
    /// Adds a violation of `field`, whose description follows the path, such as "is required".
    pub fn add(&mut self, field: impl Display, wrong: impl Into<String>) {
        let field = if mutants::on(Mutant::ViolationsUnnamed) {
            "request".to_owned()
        } else {
            format!("{}{field}", self.prefix)
        };
        let entry = (truncate(field, ENTRY_BYTES), truncate(wrong.into(), ENTRY_BYTES));
        let bytes = entry.0.len() + entry.1.len();
        if self.bytes + bytes > LIST_BYTES {
            self.left_out += 1;
        } else {
            self.bytes += bytes;
            self.list.push(entry);
        }
    }

    /// The parsed value; or none, and a violation is added.
    pub fn check<T>(&mut self, field: impl Display, parsed: Result<T, Malformed>) -> Option<T> {
        parsed.map_err(|malformed| self.add(field, malformed.0)).ok()
    }

    /// Parses a part of the request; the paths of its fields begin with `prefix`.
    pub fn within<T>(&mut self, prefix: impl Display, parse: impl FnOnce(&mut Self) -> T) -> T {
        let outer = self.prefix.len();
        self.prefix.push_str(&prefix.to_string());
        let parsed = parse(self);
        self.prefix.truncate(outer);
        parsed
    }

    /// Whether there are no violations.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty() && self.left_out == 0
    }

    /// The parsed value if there are no violations, else the violations.
    pub fn unless_any<T>(self, parsed: Option<T>) -> Result<T, Self> {
        match parsed {
            Some(value) if self.is_empty() => Ok(value),
            // A parser that returns none has added a violation.
            Some(_) | None => Err(self),
        }
    }

    /// All violations that fit into an answer; the last entry then counts the others.
    pub fn into_list(mut self) -> Vec<(String, String)> {
        if self.left_out > 0 {
            self.list.push((String::new(), format!("and {} more violations", self.left_out)));
        }
        self.list
    }

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

impl From<Violations> for Problem {
    fn from(violations: Violations) -> Self {
        let violations = violations.into_list();
        let message = match violations.as_slice() {
            [] => "the request is malformed".to_owned(),
            [(field, wrong)] => format!("{field} {wrong}"),
            [(field, wrong), more @ ..] => format!("{field} {wrong} (and {} more)", more.len()),
        };
        let mut problem = Problem::new(Code::InvalidArgument, "INVALID_ARGUMENT", message);
        if let Some((field, _)) = violations.first() {
            problem = problem.with("field", field);
        }
        problem.violations = violations;
        problem
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn violations_are_named_by_path_and_limited_in_number() {
        let mut violations = Violations::default();
        violations.within("requests[3].", |v| v.within("compensations[2].", |v| v.add("kind", "is required")));
        assert_eq!(violations.list, [("requests[3].compensations[2].kind".to_owned(), "is required".to_owned())]);
        for i in 0..10_000 {
            violations.add(format_args!("labels[{}{i}]", "ä".repeat(1000)), "wrong ".repeat(1000));
        }
        let list = violations.into_list();
        assert!(list.iter().map(|(field, wrong)| field.len() + wrong.len()).sum::<usize>() < LIST_BYTES + 100);
        assert!(list.last().unwrap().1.ends_with("more violations"));
    }
}
