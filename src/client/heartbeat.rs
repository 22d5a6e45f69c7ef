//! Sends one heartbeat and interprets its answer, and computes when the granted lease ends on our clock.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tonic::{Code, Status};

use super::{
    Client, LeaseKey, StatusDetails, convert,
    status_details::code_name,
    time::{self, Moment},
};
use crate::proto::{Directive, HeartbeatRequest, HeartbeatResponse, Lease};

/// The shortest interval between heartbeats, however short the lease.
pub(super) const INTERVAL_MIN: Duration = Duration::from_millis(20);

/// The longest wait after an unanswered heartbeat before the next try.
pub(super) const RETRY_MAX: Duration = Duration::from_secs(1);

/// Why a lease is not held any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LeaseLost {
    /// The reason of the coordinator's refusal, such as `LEASE_SUPERSEDED`, or [`DEADLINE`].
    pub reason: String,
    /// In words.
    pub message: String,
}

/// The reason of a lease that was not extended in time, as far as its holder knows.
pub const DEADLINE: &str = "DEADLINE";

impl LeaseLost {
    pub(super) fn deadline(message: impl Into<String>) -> Self {
        LeaseLost { reason: DEADLINE.to_owned(), message: message.into() }
    }
}

/// The last extension that the coordinator granted.
#[derive(Clone, Debug)]
pub(super) struct LeaseGrant {
    pub deadline: Moment,
    /// The granted length: the ttl, or less if a timeout of the policy limited it.
    pub length: Duration,
    pub interval: Duration,
    /// The same end on the coordinator's clock, to be compared only with its other times.
    pub expire_time: Option<DateTime<Utc>>,
}

impl LeaseGrant {
    pub fn new(lease: &Lease, sent: Moment) -> Self {
        let ttl = lease.ttl.as_ref().map(convert::from_proto).unwrap_or_default();
        let length = match (&lease.heartbeat_time, &lease.expire_time) {
            (Some(start), Some(end)) => convert::between(start, end),
            (None, _) | (_, None) => ttl,
        };
        let advice = lease.heartbeat_interval.as_ref().map(convert::from_proto).unwrap_or_default();
        let interval = if advice.is_zero() { ttl / 3 } else { advice };
        Self {
            deadline: sent + length,
            length,
            interval: interval.max(INTERVAL_MIN),
            expire_time: lease.expire_time.as_ref().and_then(convert::to_utc),
        }
    }

    /// Extends the deadline to `expire_time` on the coordinator's clock, which is later than known if the answer to an
    /// accepted heartbeat was lost. The difference of two of its times holds on our clock too.
    pub fn extend_to(&mut self, expire_time: DateTime<Utc>) {
        if let Some(known) = self.expire_time
            && let Ok(further) = (expire_time - known).to_std()
        {
            self.deadline = self.deadline + further;
            self.expire_time = Some(expire_time);
        }
    }
}

/// What the answer to a heartbeat means.
#[derive(Debug)]
pub(super) enum HeartbeatAnswer {
    Extended(LeaseGrant, Option<String>),
    Stands(Option<DateTime<Utc>>, Option<String>),
    Unknown(NoAnswer),
    Lost(LeaseLost),
}

/// Why a heartbeat has no clear answer.
#[derive(Debug)]
pub(super) struct NoAnswer {
    /// The code's name, such as `UNAVAILABLE`.
    pub code: &'static str,
    pub why: String,
}

fn interpret(answer: Result<HeartbeatResponse, Status>, sent: Moment) -> HeartbeatAnswer {
    let status = match answer {
        Ok(HeartbeatResponse { lease: Some(lease), directive, cancel_reason }) => {
            let cancel = directive == Directive::Cancel as i32;
            return HeartbeatAnswer::Extended(LeaseGrant::new(&lease, sent), cancel.then_some(cancel_reason));
        }
        Ok(HeartbeatResponse { lease: None, .. }) => {
            let why = "an answer without a lease".to_owned();
            return HeartbeatAnswer::Unknown(NoAnswer { code: code_name(Code::Internal), why });
        }
        Err(status) => status,
    };
    let refusal = StatusDetails::from(&status);
    let why = format!("{}: {}", refusal.reason, refusal.message);
    match (refusal.code, refusal.reason.as_str()) {
        (_, "LEASE_NOT_EXTENDED" | "EXECUTION_TIMEOUT" | "PROGRESS_TIMEOUT") => {
            let directive = refusal.metadata.get("directive").map_or("", String::as_str);
            let cancel = directive
                .ends_with("CANCEL")
                .then(|| refusal.metadata.get("cancel_reason").cloned().unwrap_or_default());
            HeartbeatAnswer::Stands(
                refusal.metadata.get("expire_time").and_then(|time| convert::parse_utc(time)),
                cancel,
            )
        }
        (Code::Aborted | Code::FailedPrecondition | Code::NotFound, _) if refusal.judged => {
            HeartbeatAnswer::Lost(LeaseLost { reason: refusal.reason, message: why })
        }
        (code, _) => HeartbeatAnswer::Unknown(NoAnswer { code: code_name(code), why }),
    }
}

pub(super) async fn send_heartbeat(
    client: &Client,
    key: &LeaseKey,
    progress: Option<Bytes>,
    timeout: Duration,
) -> HeartbeatAnswer {
    let request = HeartbeatRequest {
        task_id: key.task_id.clone(),
        owner_id: key.owner_id.clone(),
        fencing_token: key.fencing_token,
        ttl: None,
        progress,
    };
    let sent = time::now();
    interpret(client.ask(request, timeout).await, sent)
}

/// The timeout of a heartbeat: an unanswered one must leave time for another.
pub(super) fn heartbeat_timeout(client: &Client, grant: &LeaseGrant) -> Duration {
    client.timeout().min((grant.length / 2).max(RETRY_MAX))
}

#[cfg(test)]
mod tests {
    use tonic_types::{ErrorDetails, StatusExt};

    use super::*;

    fn refused(code: Code, reason: &str, metadata: &[(&str, &str)]) -> HeartbeatAnswer {
        let metadata: std::collections::HashMap<String, String> =
            metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let details = ErrorDetails::with_error_info(reason, "sagad", metadata);
        interpret(Err(Status::with_error_details(code, "no", details)), time::now())
    }

    #[test]
    fn every_refusal_has_its_meaning() {
        assert!(matches!(refused(Code::Aborted, "LEASE_SUPERSEDED", &[]), HeartbeatAnswer::Lost(_)));
        assert!(matches!(refused(Code::FailedPrecondition, "SAGA_TERMINAL", &[]), HeartbeatAnswer::Lost(_)));
        assert!(matches!(refused(Code::NotFound, "SAGA_NOT_FOUND", &[]), HeartbeatAnswer::Lost(_)));
        assert!(matches!(refused(Code::Unavailable, "SHUTTING_DOWN", &[]), HeartbeatAnswer::Unknown(_)));
        assert!(matches!(refused(Code::Unknown, "OUTCOME_UNKNOWN", &[]), HeartbeatAnswer::Unknown(_)));
        let proxy = interpret(Err(Status::not_found("no such host")), time::now());
        assert!(matches!(proxy, HeartbeatAnswer::Unknown(_)), "without its word it is not the coordinator's");
        let metadata = [("directive", "DIRECTIVE_CANCEL"), ("expire_time", "2026-01-02T03:04:05Z")];
        match refused(Code::FailedPrecondition, "EXECUTION_TIMEOUT", &metadata) {
            HeartbeatAnswer::Stands(Some(_), Some(_)) => {}
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_grant_counts_from_when_it_was_asked_for() {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let lease = Lease {
            heartbeat_time: at(100),
            expire_time: at(110),
            ttl: Some(convert::to_proto(Duration::from_secs(30))),
            ..Lease::default()
        };
        let sent = time::now();
        let mut grant = LeaseGrant::new(&lease, sent);
        assert_eq!(grant.deadline, sent + Duration::from_secs(10), "a clamped grant is shorter than its ttl");
        assert_eq!(grant.interval, Duration::from_secs(10));
        grant.extend_to(convert::to_utc(&at(115).expect("a time")).expect("in the calendar"));
        assert_eq!(grant.deadline, sent + Duration::from_secs(15));
        grant.extend_to(convert::to_utc(&at(111).expect("a time")).expect("in the calendar"));
        assert_eq!(grant.deadline, sent + Duration::from_secs(15), "an older expiry changes nothing");
    }
}
