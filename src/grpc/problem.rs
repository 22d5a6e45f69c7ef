//! [`Problem`]: one error, before it is sent: code, reason, metadata, and a message that says what to do.
//!
//! A problem becomes a `Status`, or part of an answer of `KeepAlive` or `Session`. Its size is bounded because a status is
//! sent in headers, and some clients accept at most 8 KiB of them.

use std::collections::{BTreeMap, HashMap};

use prost::Message;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::domain::{
    text::Text,
    time::{Span, Timestamp},
};

/// The domain of every `ErrorInfo`.
pub const DOMAIN: &str = "sagad";
/// Longest message, in bytes; percent-encoded it is up to three times as long.
const MESSAGE_BYTES: usize = 512;
/// Longest metadata value, in bytes: enough for any id and actor.
const VALUE_BYTES: usize = 600;

/// What a worker should do whose heartbeat was refused while its lease is live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeartbeatDirective {
    /// Go on, until the lease expires.
    Continue,
    /// Stop, for this reason.
    Cancel(Text),
}

/// One error, before it is sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    pub code: Code,
    /// As in the contract's table of errors.
    pub reason: &'static str,
    /// For people.
    pub message: Box<str>,
    /// For programs.
    pub metadata: BTreeMap<&'static str, String>,
    /// When to retry, if that makes sense.
    pub retry_after: Option<Span>,
    /// Violations by proto path.
    pub violations: Vec<(String, String)>,
    /// For a refused heartbeat of a live lease: whether the worker goes on or stops.
    pub directive: Option<Box<HeartbeatDirective>>,
}

impl Problem {
    pub fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        Problem {
            code,
            reason,
            message: truncate(message.into(), MESSAGE_BYTES).into(),
            metadata: BTreeMap::new(),
            retry_after: None,
            violations: Vec::new(),
            directive: None,
        }
    }

    /// Adds metadata.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl ToString) -> Self {
        self.metadata.insert(key, truncate(value.to_string(), VALUE_BYTES));
        self
    }

    /// Adds a time as RFC 3339.
    #[must_use]
    pub fn with_time(self, key: &'static str, time: Timestamp) -> Self {
        self.with(key, rfc3339(time))
    }

    /// Says when to retry.
    #[must_use]
    pub fn retry_after(mut self, span: Span) -> Self {
        self.retry_after = Some(span);
        self
    }

    /// No principal, or a revoked one. It does not say which part of the credentials was wrong.
    pub fn unauthenticated() -> Self {
        let text = "the call carries no valid credentials: send `authorization: Bearer TOKEN`, or a client certificate \
                    that stands for a principal";
        Problem::new(Code::Unauthenticated, "UNAUTHENTICATED", text)
    }

    /// Too much is open or waiting; nothing was changed.
    pub fn overloaded(message: impl Into<String>, retry_after: Span) -> Self {
        Problem::new(Code::ResourceExhausted, "OVERLOADED", message).retry_after(retry_after)
    }
}

impl From<Problem> for Status {
    fn from(problem: Problem) -> Self {
        let metadata: HashMap<String, String> =
            problem.metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let mut details = ErrorDetails::with_error_info(problem.reason, DOMAIN, metadata);
        if let Some(span) = problem.retry_after {
            details.set_retry_info(Some(span.to_std()));
        }
        if !problem.violations.is_empty() {
            let violations: Vec<FieldViolation> =
                problem.violations.into_iter().map(|(field, wrong)| FieldViolation::new(field, wrong)).collect();
            details.set_bad_request(violations);
        }
        Status::with_error_details(problem.code, problem.message, details)
    }
}

impl From<Problem> for tonic_types::Status {
    fn from(problem: Problem) -> Self {
        let status = Status::from(problem);
        // gRPC sends this message in `grpc-status-details-bin`.
        tonic_types::Status::decode(status.details()).unwrap_or_else(|_| tonic_types::Status {
            code: status.code().into(),
            message: status.message().to_owned(),
            details: Vec::new(),
        })
    }
}

/// RFC 3339 in UTC, with microseconds.
pub fn rfc3339(time: Timestamp) -> String {
    match chrono::DateTime::from_timestamp_micros(time.micros()) {
        Some(time) => time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true),
        // Outside of the calendar: only a damaged row can hold such a time.
        None => time.micros().to_string(),
    }
}

/// `text` truncated to `max` bytes, with a mark.
pub fn truncate(mut text: String, max: usize) -> String {
    const MARK: &str = "…";
    if text.len() > max {
        let mut end = max.saturating_sub(MARK.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str(MARK);
    }
    text
}
