//! [`StatusDetails`]: the parts of a coordinator's error: its reason and metadata, and above all whether the call took
//! effect.

use std::{collections::BTreeMap, error::Error, time::Duration};

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// What an error says about whether the call took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallEffect {
    /// The coordinator refused the call: nothing changed, and repeating it unchanged won't help.
    Refused,
    /// The coordinator could not accept the call now: nothing changed, and it may succeed later.
    NotNow,
    /// No answer came, or one that leaves it open. Only repeating it with the same `request_id` tells.
    Unknown,
}

/// A `Status` with its decoded `google.rpc` details.
#[derive(Clone, Debug)]
pub struct StatusDetails {
    /// The gRPC code.
    pub code: Code,
    /// The `ErrorInfo`'s reason such as `LEASE_HELD`; without one, the code's name such as `UNAVAILABLE`.
    pub reason: String,
    /// The message for a person.
    pub message: String,
    /// The `ErrorInfo`'s metadata, such as `owner_id` and `expire_time`.
    pub metadata: BTreeMap<String, String>,
    /// A malformed request's violations: proto path and what is wrong there.
    pub violations: Vec<(String, String)>,
    /// How long to wait before another try, when the coordinator says so.
    pub retry_after: Option<Duration>,
    /// Whether the call took effect.
    pub happened: CallEffect,
    /// Whether it comes from the coordinator (it has an `ErrorInfo`) and not from the transport or a proxy.
    pub judged: bool,
    /// Whether the coordinator could not be reached: no connection, no answer in time, or it is shutting down.
    pub unreachable: bool,
    /// Whether no connection could be made, so that nothing was sent. An earlier try of the same call may have been
    /// sent.
    pub unsent: bool,
}

impl StatusDetails {
    /// Whether this is the coordinator's refusal for `reason`.
    pub fn is(&self, reason: &str) -> bool {
        self.reason == reason
    }
}

impl From<&Status> for StatusDetails {
    fn from(status: &Status) -> Self {
        let info = status.get_details_error_info();
        let happened = match (&info, status.code()) {
            // Errors without an `ErrorInfo` come from the transport, or from a proxy in between.
            (Some(info), _) if info.reason == "OUTCOME_UNKNOWN" => CallEffect::Unknown,
            (Some(_), Code::Unavailable | Code::ResourceExhausted) => CallEffect::NotNow,
            (Some(_), _) => CallEffect::Refused,
            (None, _) if status.source().is_some() => CallEffect::Unknown,
            (None, Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Unknown | Code::Internal) => {
                CallEffect::Unknown
            }
            (None, Code::ResourceExhausted) => CallEffect::NotNow,
            (None, _) => CallEffect::Refused,
        };
        let violations = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
        let judged = info.is_some();
        let (reason, metadata) = match info {
            Some(info) => (info.reason, info.metadata.into_iter().collect()),
            None => (code_name(status.code()).to_owned(), BTreeMap::new()),
        };
        Self {
            code: status.code(),
            reason,
            message: message_of(status),
            metadata,
            violations: violations.into_iter().map(|violation| (violation.field, violation.description)).collect(),
            retry_after: status.get_details_retry_info().and_then(|info| info.retry_delay),
            happened,
            judged,
            unsent: causes(status).any(|cause| cause.is::<tonic::ConnectError>()),
            unreachable: status.source().is_some()
                || matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled),
        }
    }
}

/// The status' message, with the innermost cause of a transport error, which is the informative one ("Connection
/// refused").
fn message_of(status: &Status) -> String {
    let mut message = status.message().to_owned();
    if let Some(cause) =
        causes(status).last().map(ToString::to_string).filter(|cause| !message.contains(cause.as_str()))
    {
        message = if message.is_empty() { cause } else { format!("{message}: {cause}") };
    }
    message
}

/// The causes of a status, from the outermost to the innermost.
fn causes(status: &Status) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(status.source(), |cause| <dyn Error>::source(*cause))
}

/// The name of a code as `google.rpc.Code` has it.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    fn with_reason(code: Code, reason: &str) -> Status {
        Status::with_error_details(
            code,
            "no",
            ErrorDetails::with_error_info(reason, "sagad", std::collections::HashMap::new()),
        )
    }

    #[test]
    fn the_coordinators_word_tells_whether_it_happened() {
        let happened = |status: &Status| StatusDetails::from(status).happened;
        assert_eq!(happened(&with_reason(Code::Unavailable, "SHUTTING_DOWN")), CallEffect::NotNow);
        assert_eq!(happened(&with_reason(Code::ResourceExhausted, "OVERLOADED")), CallEffect::NotNow);
        assert_eq!(happened(&with_reason(Code::Unknown, "OUTCOME_UNKNOWN")), CallEffect::Unknown);
        assert_eq!(happened(&with_reason(Code::Aborted, "LEASE_EXPIRED")), CallEffect::Refused);
        assert_eq!(happened(&Status::unavailable("a proxy says so")), CallEffect::Unknown);
        assert_eq!(happened(&Status::deadline_exceeded("late")), CallEffect::Unknown);
    }

    #[test]
    fn without_details_the_codes_name_is_the_reason() {
        let refusal = StatusDetails::from(&Status::unimplemented("what?"));
        assert_eq!(refusal.reason, "UNIMPLEMENTED");
        assert!(!refusal.unreachable);
        assert!(!StatusDetails::from(&Status::internal("a bug")).unreachable);
        assert!(StatusDetails::from(&Status::deadline_exceeded("late")).unreachable);
    }
}
