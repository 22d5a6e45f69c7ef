//! [`Problem`]: a parsed error. Each error that a test meets is compared with the contract's table.

use std::{collections::HashMap, fmt::Debug, time::Duration};

use tonic::{Code, Status};
use tonic_types::StatusExt;

use Code::{
    Aborted, AlreadyExists, DataLoss, FailedPrecondition, InvalidArgument, NotFound, OutOfRange, PermissionDenied,
    ResourceExhausted, Unauthenticated, Unavailable, Unknown,
};

/// The table of errors: reason, code, and whether it comes with `RetryInfo`.
pub const TABLE: &[(&str, Code, bool)] = &[
    ("INVALID_ARGUMENT", InvalidArgument, false),
    ("SAGA_NOT_FOUND", NotFound, false),
    ("COMPENSATION_NOT_FOUND", NotFound, false),
    ("QUEUE_NOT_FOUND", NotFound, false),
    ("SAGA_EXISTS", AlreadyExists, false),
    ("REQUEST_ID_REUSED", AlreadyExists, false),
    ("SAGA_TERMINAL", FailedPrecondition, false),
    ("LEASE_HELD", FailedPrecondition, true),
    ("DISPATCHED_ELSEWHERE", FailedPrecondition, true),
    ("NOT_READY", FailedPrecondition, true),
    ("SETTLING", FailedPrecondition, true),
    ("WRONG_STATE", FailedPrecondition, false),
    ("NOT_STALE", FailedPrecondition, false),
    ("COMPENSATION_REQUIRED", FailedPrecondition, false),
    ("COMPENSATION_PENDING", FailedPrecondition, false),
    ("COMPENSATION_ORDER", FailedPrecondition, false),
    ("COMPENSATION_LIMIT", FailedPrecondition, false),
    ("LEASE_NOT_EXTENDED", FailedPrecondition, false),
    ("EXECUTION_TIMEOUT", FailedPrecondition, false),
    ("PROGRESS_TIMEOUT", FailedPrecondition, false),
    ("LEASE_EXPIRED", Aborted, false),
    ("LEASE_SUPERSEDED", Aborted, false),
    ("NOT_OWNER", Aborted, false),
    ("NO_LEASE", Aborted, false),
    ("REVISION_COMPACTED", OutOfRange, false),
    ("REVISION_UNKNOWN", OutOfRange, false),
    ("OVERLOADED", ResourceExhausted, true),
    ("STORE_FULL", ResourceExhausted, true),
    ("SHUTTING_DOWN", Unavailable, true),
    ("STORE_UNAVAILABLE", Unavailable, true),
    ("OUTCOME_UNKNOWN", Unknown, false),
    ("CORRUPT", DataLoss, false),
    ("UNAUTHENTICATED", Unauthenticated, false),
    ("PERMISSION_DENIED", PermissionDenied, false),
];

/// An error as a client sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// Out of `google.rpc.Code`.
    pub code: Code,
    /// `ErrorInfo.reason`.
    pub reason: String,
    /// `ErrorInfo.metadata`.
    pub metadata: HashMap<String, String>,
    /// `RetryInfo`.
    pub retry: Option<Duration>,
    /// The fields of `BadRequest`.
    pub fields: Vec<String>,
    /// The text.
    pub message: String,
}

impl Problem {
    /// Parses an error of the daemon.
    pub fn of(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().unwrap_or_else(|| panic!("an error without ErrorInfo: {status:?}"));
        let infos = status
            .get_error_details_vec()
            .iter()
            .filter(|d| matches!(d, tonic_types::ErrorDetail::ErrorInfo(_)))
            .count();
        assert_eq!(infos, 1, "each error carries one ErrorInfo: {status:?}");
        assert_eq!(info.domain, "sagad", "{status:?}");
        let problem = Problem {
            code: status.code(),
            reason: info.reason.clone(),
            metadata: info.metadata.clone(),
            retry: details.retry_info().and_then(|retry| retry.retry_delay),
            fields: details
                .bad_request()
                .map(|bad| bad.field_violations.iter().map(|violation| violation.field.clone()).collect())
                .unwrap_or_default(),
            message: status.message().to_owned(),
        };
        problem.assert_fits_the_table();
        problem
    }

    fn assert_fits_the_table(&self) {
        let row = TABLE.iter().find(|(reason, ..)| *reason == self.reason);
        let Some((_, code, retry)) = row else { panic!("a reason that is not in the table: {self:?}") };
        assert_eq!(self.code, *code, "{self:?}");
        assert_eq!(self.retry.is_some(), *retry, "RetryInfo: {self:?}");
        assert_eq!(!self.fields.is_empty(), self.reason == "INVALID_ARGUMENT", "BadRequest: {self:?}");
        assert!(!self.message.is_empty(), "{self:?}");
    }

    /// A value of the metadata, which must be there.
    pub fn fact(&self, key: &str) -> &str {
        self.metadata.get(key).unwrap_or_else(|| panic!("no {key} in {self:?}"))
    }
}

/// For answers that must be refusals.
pub trait ExpectRefusal {
    /// The error; panics if it was accepted.
    fn refused(self) -> Problem;

    /// The error's reason.
    fn reason(self) -> String
    where
        Self: Sized,
    {
        self.refused().reason
    }
}

impl<T: Debug> ExpectRefusal for Result<T, Status> {
    fn refused(self) -> Problem {
        match self {
            Err(status) => Problem::of(&status),
            Ok(accepted) => panic!("it was accepted: {accepted:?}"),
        }
    }
}

/// The reason that an error carries; empty for one that the daemon did not make.
pub fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}
