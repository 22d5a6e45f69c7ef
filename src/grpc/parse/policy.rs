//! A saga's policy, with its defaults.

use prost_types::Duration;

use crate::{
    domain::{
        bounds::{COUNT_MAX, DELAY_MAX},
        ids::Malformed,
        policy::{FailureAction, Policy, StaleAction},
        time::Span,
    },
    proto,
};

use super::{Violations, violations::unknown};

/// Shortest timeout. With a shorter one no work under a lease would be possible.
const TIMEOUT_MIN: Span = Span::from_millis(1);

/// The policy with defaults filled in; none if there were violations.
pub fn policy(given: Option<proto::Policy>, violations: &mut Violations) -> Option<Policy> {
    let Some(given) = given else { return Some(Policy::default()) };
    violations.within("policy.", |v| parse(&given, v))
}

fn parse(given: &proto::Policy, v: &mut Violations) -> Option<Policy> {
    let default = Policy::default();
    let on_stale = v.check("on_stale", stale_action(given.on_stale));
    let on_failure = v.check("on_failure", failure_action(given.on_failure));
    let max_expirations = count(v, "max_expirations", given.max_expirations, default.max_expirations);
    let max_attempts = count(v, "max_attempts", given.max_attempts, default.max_attempts);
    let retry_backoff = length(v, "retry_backoff", given.retry_backoff.as_ref(), Span::ZERO);
    let retry_backoff_max = length(v, "retry_backoff_max", given.retry_backoff_max.as_ref(), Span::ZERO);
    let execution_timeout = length(v, "execution_timeout", given.execution_timeout.as_ref(), TIMEOUT_MIN);
    let progress_timeout = length(v, "progress_timeout", given.progress_timeout.as_ref(), TIMEOUT_MIN);
    let settle = length(v, "settle", given.settle.as_ref(), Span::ZERO);
    let compensation_timeout = length(v, "compensation_timeout", given.compensation_timeout.as_ref(), TIMEOUT_MIN);
    Some(Policy {
        on_stale: on_stale?,
        max_expirations: max_expirations?,
        on_failure: on_failure?,
        max_attempts: max_attempts?,
        retry_backoff: retry_backoff?.unwrap_or(default.retry_backoff),
        retry_backoff_max: retry_backoff_max?.unwrap_or(default.retry_backoff_max),
        execution_timeout: execution_timeout?,
        progress_timeout: progress_timeout?,
        settle: settle?.unwrap_or(default.settle),
        compensation_timeout: compensation_timeout?.unwrap_or(default.compensation_timeout),
    })
}

/// An optional length of time. The outer none: a violation.
fn length(v: &mut Violations, field: &str, value: Option<&Duration>, min: Span) -> Option<Option<Span>> {
    match value {
        None => Some(None),
        Some(_) => v.span(field, value, min, DELAY_MAX).map(Some),
    }
}

fn count(v: &mut Violations, field: &str, value: i32, default: u32) -> Option<u32> {
    match u32::try_from(value) {
        Ok(0) => Some(default),
        Ok(count) if value <= COUNT_MAX => Some(count),
        Ok(_) | Err(_) => {
            v.add(field, format!("is {value}; it must lie between 1 and {COUNT_MAX}"));
            None
        }
    }
}

fn stale_action(value: i32) -> Result<StaleAction, Malformed> {
    match proto::StaleAction::try_from(value).map_err(|_| unknown(value))? {
        proto::StaleAction::Unspecified => Ok(StaleAction::default()),
        proto::StaleAction::Hold => Ok(StaleAction::Hold),
        proto::StaleAction::Requeue => Ok(StaleAction::Requeue),
        proto::StaleAction::Compensate => Ok(StaleAction::Compensate),
        proto::StaleAction::Quarantine => Ok(StaleAction::Quarantine),
    }
}

fn failure_action(value: i32) -> Result<FailureAction, Malformed> {
    match proto::FailureAction::try_from(value).map_err(|_| unknown(value))? {
        proto::FailureAction::Unspecified => Ok(FailureAction::default()),
        proto::FailureAction::Fail => Ok(FailureAction::Fail),
        proto::FailureAction::Compensate => Ok(FailureAction::Compensate),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: i64) -> Option<Duration> {
        Some(Duration { seconds, nanos: 0 })
    }

    #[test]
    fn absent_fields_get_their_defaults() {
        let mut v = Violations::default();
        assert_eq!(policy(None, &mut v), Some(Policy::default()));
        assert_eq!(policy(Some(proto::Policy::default()), &mut v), Some(Policy::default()));
        let zero = proto::Policy { settle: seconds(0), retry_backoff: seconds(0), ..Default::default() };
        assert_eq!(policy(Some(zero), &mut v).unwrap().retry_backoff, Span::ZERO, "zero is a length of its own");
        assert!(v.is_empty());
    }

    #[test]
    fn all_violations_of_a_policy_are_named() {
        let mut v = Violations::default();
        let wrong = proto::Policy {
            on_stale: 99,
            max_expirations: -1,
            on_failure: -1,
            max_attempts: COUNT_MAX + 1,
            retry_backoff: seconds(-1),
            retry_backoff_max: seconds(31 * 24 * 3600),
            execution_timeout: seconds(0),
            progress_timeout: Some(Duration { seconds: 0, nanos: 999_999 }),
            settle: Some(Duration { seconds: 1, nanos: -1 }),
            compensation_timeout: Some(Duration { seconds: i64::MAX, nanos: i32::MAX }),
        };
        assert_eq!(policy(Some(wrong), &mut v), None);
        let fields: Vec<String> = v.into_list().into_iter().map(|(field, _)| field).collect();
        assert_eq!(
            fields,
            [
                "policy.on_stale",
                "policy.on_failure",
                "policy.max_expirations",
                "policy.max_attempts",
                "policy.retry_backoff",
                "policy.retry_backoff_max",
                "policy.execution_timeout",
                "policy.progress_timeout",
                "policy.settle",
                "policy.compensation_timeout"
            ]
        );
    }
}
