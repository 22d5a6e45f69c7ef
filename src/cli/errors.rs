//! How a command fails: what stderr says, for people or as JSON, and the exit code.

use std::{collections::BTreeMap, ffi::OsString, fmt::Write as _, io};

use serde_json::json;
use tonic::{Code, Status};

use super::{advice, format::Format, notices, text};
use crate::{
    client::{CallEffect, ClientOptions, StatusDetails, WorkerError, convert, time},
    domain::characters,
};

/// It failed.
pub const FAILED: u8 = 1;
/// The command line, or what it led to, is malformed.
pub const USAGE: u8 = 2;
/// A rule refused it: a held lease, a terminal saga, a duplicate.
pub const REFUSED: u8 = 3;
/// There is no such saga or compensation.
pub const NOT_FOUND: u8 = 4;
/// The coordinator does not answer.
pub const UNREACHABLE: u8 = 5;

/// Why a command ended without doing what it was asked.
#[derive(Debug)]
pub enum CliError {
    /// The coordinator refused the call, or did not answer.
    Call {
        /// Its answer.
        refusal: Box<StatusDetails>,
        /// What to repeat the call with to learn its outcome.
        request_id: Option<String>,
    },
    /// Wrong usage that only shows when the command runs.
    Usage(String),
    /// Anything else.
    Failed(String),
    /// It was printed to standard output already; only the exit code is left.
    Reported(u8),
    /// Whoever read our output has gone, which is how `sagad list | head` ends.
    ClosedPipe,
}

impl From<Status> for CliError {
    fn from(status: Status) -> Self {
        CliError::Call { refusal: Box::new(StatusDetails::from(&status)), request_id: None }
    }
}

impl From<WorkerError> for CliError {
    fn from(error: WorkerError) -> Self {
        match error {
            WorkerError::Coordinator(status) => status.into(),
            error @ WorkerError::CannotStart { .. } => CliError::Failed(error.to_string()),
        }
    }
}

impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            CliError::ClosedPipe
        } else {
            CliError::Failed(error.to_string())
        }
    }
}

impl CliError {
    /// Adds the id to repeat a change with.
    pub fn repeatable_with(self, id: &str) -> Self {
        match self {
            // What was never sent did not happen, and a person's call is not tried again after it was.
            CliError::Call { refusal, .. } if refusal.unsent => CliError::Call { refusal, request_id: None },
            CliError::Call { refusal, .. } => CliError::Call { refusal, request_id: Some(id.to_owned()) },
            CliError::Usage(_) | CliError::Failed(_) | CliError::Reported(_) | CliError::ClosedPipe => self,
        }
    }

    /// The exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            CliError::Call { refusal, .. } => code_of(refusal),
            CliError::Usage(_) => USAGE,
            CliError::Failed(_) => FAILED,
            CliError::Reported(code) => *code,
            CliError::ClosedPipe => 0,
        }
    }

    /// Tells stderr, behind the messages that came before. `asked` is how the coordinator was asked: what to do about it depends on that.
    pub fn report(&self, format: Format, asked: &ClientOptions) {
        let text = match (format, self) {
            (Format::Json, _) => self.json(),
            (Format::Text, CliError::Call { refusal, .. }) => {
                self.advised(&asked.server, advice::advice_for(refusal, asked).as_deref())
            }
            (Format::Text, CliError::Usage(_) | CliError::Failed(_) | CliError::Reported(_) | CliError::ClosedPipe) => {
                self.text(&asked.server)
            }
        };
        if let Some(text) = text {
            notices::line(&text);
        }
    }

    /// For people: the message, then a line for each violation and each useful fact.
    pub fn text(&self, server: &str) -> Option<String> {
        let advice = match self {
            CliError::Call { refusal, .. } if refusal.unsent => Some(advice::NOT_THERE),
            CliError::Call { refusal, .. } if refusal.code == Code::Unauthenticated => Some(advice::NO_CREDENTIALS),
            CliError::Call { .. }
            | CliError::Usage(_)
            | CliError::Failed(_)
            | CliError::Reported(_)
            | CliError::ClosedPipe => None,
        };
        self.advised(server, advice)
    }

    /// The same, with a line on what to do.
    fn advised(&self, server: &str, advice: Option<&str>) -> Option<String> {
        let (refusal, request_id) = match self {
            CliError::Call { refusal, request_id } => (refusal, request_id),
            CliError::Usage(message) | CliError::Failed(message) => {
                return Some(format!("sagad: {}", text::multiline(message)));
            }
            CliError::Reported(_) | CliError::ClosedPipe => return None,
        };
        let message = text::printable(&refusal.message);
        let mut told = if refusal.unreachable {
            format!("sagad: no answer from {server}: {message}")
        } else if refusal.message.is_empty() {
            format!("sagad: {}", refusal.reason)
        } else {
            format!("sagad: {message} ({})", refusal.reason)
        };
        for (field, description) in &refusal.violations {
            // The only one is the message, as a rule.
            if refusal.violations.len() == 1 && refusal.message.contains(description.as_str()) {
                continue;
            }
            write!(told, "\n  {}: {}", text::printable(field), text::printable(description)).ok();
        }
        for (key, value) in &refusal.metadata {
            // The violations' first field.
            if key == "field" && !refusal.violations.is_empty() {
                continue;
            }
            write!(told, "\n  {}: {}", text::printable(key), fact(value)).ok();
        }
        if let Some(advice) = advice {
            write!(told, "\n  {advice}").ok();
        }
        if refusal.code == Code::PermissionDenied {
            told.push_str("\n  the coordinator's file of principals has the roles and queues of each principal");
        }
        if let Some(delay) = refusal.retry_after {
            write!(told, "\n  try again in {}", text::length(delay)).ok();
        }
        if let (CallEffect::Unknown, Some(id)) = (refusal.happened, request_id) {
            write!(told, "\n  it may have happened: to find out, repeat it with --request-id {id}").ok();
        }
        Some(told)
    }

    /// For programs: one object.
    pub fn json(&self) -> Option<String> {
        let error = match self {
            CliError::Call { refusal, request_id } => {
                let mut error = json!({
                    "code": crate::client::status_details::code_name(refusal.code),
                    "reason": refusal.reason,
                    "message": refusal.message,
                    "metadata": refusal.metadata,
                });
                if !refusal.violations.is_empty() {
                    let violations = refusal.violations.iter();
                    error["violations"] =
                        violations.map(|(field, what)| json!({ "field": field, "description": what })).collect();
                }
                if let Some(delay) = refusal.retry_after {
                    error["retryAfterMs"] = json!(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
                }
                if let (CallEffect::Unknown, Some(id)) = (refusal.happened, request_id) {
                    error["requestId"] = json!(id);
                }
                error
            }
            CliError::Usage(message) => local("INVALID_ARGUMENT", "USAGE", message),
            CliError::Failed(message) => local("UNKNOWN", "FAILED", message),
            CliError::Reported(_) | CliError::ClosedPipe => return None,
        };
        Some(characters::json(&json!({ "error": error }).to_string()).into_owned())
    }
}

fn local(code: &str, reason: &str, message: &str) -> serde_json::Value {
    json!({ "code": code, "reason": reason, "message": message, "metadata": BTreeMap::<String, String>::new() })
}

/// A metadata value; a time with how far away it is.
fn fact(value: &str) -> String {
    match convert::parse_utc(value) {
        Some(at) => format!("{value} ({})", text::relative(at, time::utc_now())),
        None => text::printable(value),
    }
}

fn code_of(refusal: &StatusDetails) -> u8 {
    match refusal.code {
        Code::InvalidArgument => USAGE,
        Code::FailedPrecondition | Code::Aborted | Code::AlreadyExists | Code::OutOfRange | Code::PermissionDenied => {
            REFUSED
        }
        Code::NotFound => NOT_FOUND,
        _ if refusal.unreachable => UNREACHABLE,
        _ => FAILED,
    }
}

/// Whether `-o json` is on a command line that could not be parsed.
pub fn wants_json(arguments: &[OsString]) -> bool {
    let arguments: Vec<&str> = arguments.iter().filter_map(|argument| argument.to_str()).collect();
    // What follows `--` is the command that `work` runs.
    let ours = arguments.split(|argument| *argument == "--").next().unwrap_or_default();
    ours.iter().any(|argument| matches!(*argument, "-ojson" | "-o=json" | "--output=json"))
        || ours.windows(2).any(|pair| matches!(pair, ["-o" | "--output", "json"]))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic_types::{ErrorDetails, StatusExt};

    use super::*;

    fn metadata(key: &str, value: &str) -> std::collections::HashMap<String, String> {
        [(key.to_owned(), value.to_owned())].into()
    }

    fn refused(code: Code, reason: &str) -> CliError {
        let details = ErrorDetails::with_error_info(reason, "sagad", metadata("owner_id", "worker-7"));
        Status::with_error_details(code, "no", details).into()
    }

    #[test]
    fn every_failure_has_its_exit_code() {
        assert_eq!(refused(Code::FailedPrecondition, "LEASE_HELD").exit_code(), REFUSED);
        assert_eq!(refused(Code::Aborted, "LEASE_EXPIRED").exit_code(), REFUSED);
        assert_eq!(refused(Code::AlreadyExists, "SAGA_EXISTS").exit_code(), REFUSED);
        assert_eq!(refused(Code::NotFound, "SAGA_NOT_FOUND").exit_code(), NOT_FOUND);
        assert_eq!(refused(Code::InvalidArgument, "INVALID_ARGUMENT").exit_code(), USAGE);
        assert_eq!(refused(Code::Unavailable, "SHUTTING_DOWN").exit_code(), UNREACHABLE);
        assert_eq!(refused(Code::ResourceExhausted, "STORE_FULL").exit_code(), FAILED);
        assert_eq!(refused(Code::Unknown, "OUTCOME_UNKNOWN").exit_code(), FAILED);
        assert_eq!(refused(Code::PermissionDenied, "PERMISSION_DENIED").exit_code(), REFUSED);
        assert_eq!(refused(Code::Unauthenticated, "UNAUTHENTICATED").exit_code(), FAILED);
        assert_eq!(CliError::from(Status::unavailable("refused")).exit_code(), UNREACHABLE);
        assert_eq!(CliError::from(Status::deadline_exceeded("late")).exit_code(), UNREACHABLE);
        assert_eq!(CliError::Usage(String::new()).exit_code(), USAGE);
        assert_eq!(CliError::ClosedPipe.exit_code(), 0);
    }

    #[test]
    fn error_text_names_violations_metadata_and_retry_delay() {
        let mut details = ErrorDetails::with_error_info("INVALID_ARGUMENT", "sagad", metadata("state", "running"));
        details.add_bad_request_violation("compensations[2].kind", "is empty");
        details.add_bad_request_violation("ttl", "is\u{1b}[31m negative");
        details.set_retry_info(Some(Duration::from_secs(12)));
        let error = CliError::from(Status::with_error_details(Code::InvalidArgument, "2 violations", details));
        let told = error.text("http://x").expect("something to tell");
        for part in [
            "sagad: 2 violations (INVALID_ARGUMENT)",
            "\n  compensations[2].kind: is empty",
            "\n  state: running",
            "\n  try again in 12s",
        ] {
            assert!(told.contains(part), "{told}");
        }
        assert!(!told.contains('\u{1b}'), "no escape reaches the terminal");
    }

    #[test]
    fn json_errors_are_one_object() {
        let json = refused(Code::FailedPrecondition, "LEASE_HELD").json().expect("something to tell");
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(json["error"]["code"], "FAILED_PRECONDITION");
        assert_eq!(json["error"]["reason"], "LEASE_HELD");
        assert_eq!(json["error"]["metadata"]["owner_id"], "worker-7");
    }

    #[test]
    fn only_an_unknown_outcome_suggests_repeating_the_request_id() {
        let error = CliError::from(Status::unavailable("gone")).repeatable_with("some-id");
        assert!(error.text("http://x").is_some_and(|told| told.contains("--request-id some-id")));
        let error = refused(Code::Aborted, "NOT_OWNER").repeatable_with("some-id");
        assert!(error.text("http://x").is_some_and(|told| !told.contains("some-id")));
    }

    #[test]
    fn json_output_is_detected_only_in_sagads_own_flags() {
        let wants = |line: &str| wants_json(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert!(wants("sagad get -o json"));
        assert!(wants("sagad --output=json get"));
        assert!(!wants("sagad get -o text"));
        assert!(!wants("sagad work -- kubectl -o json"));
    }
}
