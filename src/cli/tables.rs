//! How sagas and their events look to people: rows of a list, one saga in full, one line about a change.

use std::fmt::Write as _;

use comfy_table::Cell;

use super::{
    output::{alarming, busy, fine},
    text::{away, content, length, or_dash, printable, stamp, when, word},
};
use crate::{
    client::{convert, note::state_name},
    proto::{
        Compensation, CompensationState, EventType, FailureAction, Lease, LeasePurpose, Policy, Saga, SagaEvent,
        SagaState, StaleAction,
    },
};

/// The columns of a list of sagas.
pub const SAGA_COLUMNS: &[&str] = &["TASK", "STATE", "QUEUE", "OWNER", "LEASE ENDS", "TRY", "UPDATED", "WHAT"];

/// A row of a list of sagas.
pub fn saga_row(saga: &Saga) -> Vec<Cell> {
    let lease = saga.lease.as_ref().filter(|_| in_flight(saga.state()));
    vec![
        Cell::new(printable(&saga.task_id)),
        state_cell(saga),
        Cell::new(printable(&saga.queue)),
        Cell::new(or_dash(owner(saga))),
        Cell::new(away(lease.and_then(|lease| lease.expire_time.as_ref()))),
        Cell::new(saga.attempt),
        Cell::new(away(saga.update_time.as_ref())),
        Cell::new(or_dash(&subject(saga))),
    ]
}

fn owner(saga: &Saga) -> &str {
    match (&saga.lease, saga.state()) {
        (_, SagaState::Dispatched) => &saga.assignee,
        (Some(lease), SagaState::Running | SagaState::Compensating) => &lease.owner_id,
        (_, _) => "",
    }
}

/// What a saga is about, or why it ended.
fn subject(saga: &Saga) -> String {
    let mut parts = Vec::new();
    if matches!(saga.state(), SagaState::Quarantined | SagaState::Failed) {
        parts.push(saga.terminal_reason.chars().take(40).collect());
    }
    if let Some(issue) = saga.issue {
        parts.push(format!("#{issue}"));
    }
    parts.push(saga.branch.chars().take(30).collect());
    parts.retain(|part: &String| !part.is_empty());
    parts.join(" ")
}

fn in_flight(state: SagaState) -> bool {
    match state {
        SagaState::Planned | SagaState::Dispatched | SagaState::Running | SagaState::Compensating => true,
        SagaState::Unspecified
        | SagaState::Completed
        | SagaState::Failed
        | SagaState::Compensated
        | SagaState::Quarantined => false,
    }
}

fn state_text(saga: &Saga) -> String {
    let mut text = state_name(saga.state()).to_owned();
    if saga.stale {
        text.push_str(" STALE");
    } else if saga.cancel_requested && in_flight(saga.state()) {
        text.push_str(" CANCEL");
    }
    text
}

fn state_cell(saga: &Saga) -> Cell {
    let text = state_text(saga);
    match saga.state() {
        SagaState::Failed | SagaState::Quarantined | SagaState::Unspecified => alarming(text),
        SagaState::Planned | SagaState::Dispatched | SagaState::Running | SagaState::Compensating if saga.stale => {
            alarming(text)
        }
        SagaState::Running | SagaState::Compensating | SagaState::Dispatched => busy(text),
        SagaState::Completed | SagaState::Compensated => fine(text),
        SagaState::Planned => Cell::new(text),
    }
}

/// One line about a saga, for the answer to a change.
pub fn summary(saga: &Saga) -> String {
    let mut line = format!("{}  {}  queue {}", printable(&saga.task_id), state_text(saga), printable(&saga.queue));
    match (&saga.lease, saga.state()) {
        (Some(lease), SagaState::Running | SagaState::Compensating) => {
            write!(line, "  {}", lease_line(lease)).ok();
        }
        (_, SagaState::Dispatched) => {
            let until = away(saga.dispatch_expire_time.as_ref());
            write!(line, "  for {} until {until}", printable(&saga.assignee)).ok();
        }
        (_, _) => {}
    }
    if !saga.terminal_reason.is_empty() {
        write!(line, "  {}", printable(&saga.terminal_reason)).ok();
    }
    line
}

/// One line about a lease.
pub fn lease_line(lease: &Lease) -> String {
    let purpose = match lease.purpose() {
        LeasePurpose::Compensate => " to compensate",
        LeasePurpose::Execute | LeasePurpose::Unspecified => "",
    };
    let ends = lease.expire_time.as_ref().map_or_else(|| "-".to_owned(), when);
    format!("lease of {}{purpose}, token {}, ends {ends}", printable(&lease.owner_id), lease.fencing_token)
}

/// Names and values, one a line, values aligned, empty ones left out.
#[derive(Default)]
pub struct Facts(String);

impl Facts {
    /// Adds a fact unless it is empty.
    pub fn add(&mut self, name: &str, value: impl AsRef<str>) -> &mut Self {
        let value = value.as_ref();
        if !value.is_empty() {
            writeln!(self.0, "{name:<14}{value}").ok();
        }
        self
    }

    /// The lines.
    pub fn text(self) -> String {
        self.0
    }
}

/// One saga in full.
pub fn saga_in_full(saga: &Saga) -> String {
    let time = |time: &Option<prost_types::Timestamp>| time.as_ref().map(when).unwrap_or_default();
    let mut facts = Facts::default();
    facts
        .add("task", printable(&saga.task_id))
        .add("saga", printable(&saga.saga_id))
        .add("state", state_text(saga))
        .add("reason", printable(&saga.terminal_reason))
        .add("queue", printable(&saga.queue))
        .add("priority", number(saga.priority))
        .add("issue", saga.issue.map(|issue| issue.to_string()).unwrap_or_default())
        .add("branch", printable(&saga.branch))
        .add("worktree", printable(&saga.worktree))
        .add("labels", labels(&saga.labels))
        .add("lease", saga.lease.as_ref().map(lease_line).unwrap_or_default())
        .add("heartbeat", saga.lease.as_ref().map(|lease| time(&lease.heartbeat_time)).unwrap_or_default());
    if saga.cancel_requested {
        facts.add("cancel", format!("requested: {}", printable(&saga.cancel_reason)));
    }
    if !saga.assignee.is_empty() {
        facts
            .add("dispatched", format!("to {}, until {}", printable(&saga.assignee), time(&saga.dispatch_expire_time)));
    }
    facts
        .add(
            "counts",
            format!("attempts {}, expirations {}, failures {}", saga.attempt, saga.expirations, saga.failures),
        )
        .add("policy", saga.policy.as_ref().map(policy_line).unwrap_or_default())
        .add("created", time(&saga.create_time))
        .add("updated", time(&saga.update_time))
        .add("ended", time(&saga.end_time))
        .add("not before", time(&saga.not_before))
        .add("retry of", printable(&saga.retry_of))
        .add("revision", saga.revision.to_string())
        .add("payload", content(&saga.payload))
        .add("progress", content(&saga.progress))
        .add("result", content(&saga.result));
    for compensation in &saga.compensations {
        facts.add("compensation", compensation_line(compensation));
    }
    facts.text()
}

fn number(number: i32) -> String {
    if number == 0 { String::new() } else { number.to_string() }
}

fn labels<'a>(map: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    let pairs = map.into_iter().map(|(key, value)| format!("{}={}", printable(key), printable(value)));
    pairs.collect::<Vec<_>>().join(" ")
}

fn compensation_line(compensation: &Compensation) -> String {
    let state = match compensation.state() {
        CompensationState::Unspecified => "unknown",
        CompensationState::Pending => "pending",
        CompensationState::Done => "done",
        CompensationState::Failed => "failed",
        CompensationState::Waived => "waived",
    };
    let mut line = format!(
        "{} {state}: {} {}",
        compensation.position,
        printable(&compensation.kind),
        printable(&compensation.target)
    );
    if !compensation.reason.is_empty() {
        write!(line, " ({})", printable(&compensation.reason)).ok();
    }
    if compensation.attempts > 0 {
        write!(line, ", failed {} times: {}", compensation.attempts, printable(&compensation.last_error)).ok();
    }
    if let Some(at) = &compensation.settle_time {
        write!(line, ", by {} {}", printable(&compensation.settled_by), when(at)).ok();
    }
    line
}

fn policy_line(policy: &Policy) -> String {
    let mut parts = Vec::new();
    if policy.on_stale() != StaleAction::Unspecified {
        parts.push(format!("on-stale {}", word(policy.on_stale().as_str_name(), "STALE_ACTION_")));
    }
    if policy.on_failure() != FailureAction::Unspecified {
        parts.push(format!("on-failure {}", word(policy.on_failure().as_str_name(), "FAILURE_ACTION_")));
    }
    let counts = [("max-expirations", policy.max_expirations), ("max-attempts", policy.max_attempts)];
    parts.extend(counts.iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name} {count}")));
    let lengths = [
        ("retry-backoff", &policy.retry_backoff),
        ("retry-backoff-max", &policy.retry_backoff_max),
        ("execution-timeout", &policy.execution_timeout),
        ("progress-timeout", &policy.progress_timeout),
        ("settle", &policy.settle),
        ("compensation-timeout", &policy.compensation_timeout),
    ];
    for (name, value) in lengths {
        if let Some(value) = value {
            parts.push(format!("{name} {}", length(convert::from_proto(value))));
        }
    }
    parts.join(", ")
}

/// The word for a kind of event.
pub fn event_name(event: &SagaEvent) -> String {
    match event.r#type() {
        EventType::Unspecified => format!("event-{}", event.r#type),
        known => word(known.as_str_name(), "EVENT_TYPE_"),
    }
}

/// One event in a line.
pub fn event_line(event: &SagaEvent) -> String {
    let mut line = format!(
        "{:<8} {}  {:<23} {}",
        event.revision,
        stamp(event.time.as_ref()),
        event_name(event),
        printable(&event.task_id)
    );
    if event.from_state != event.to_state {
        write!(line, "  {} -> {}", state_name(event.from_state()), state_name(event.to_state())).ok();
    }
    if !event.actor.is_empty() {
        write!(line, "  by {}", printable(&event.actor)).ok();
    }
    if event.fencing_token > 0 {
        write!(line, "  token {}", event.fencing_token).ok();
    }
    if !event.reason.is_empty() {
        write!(line, "  {}", printable(&event.reason)).ok();
    }
    if !event.details.is_empty() {
        write!(line, "  [{}]", labels(&event.details)).ok();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saga() -> Saga {
        Saga {
            task_id: "t-1".to_owned(),
            queue: "builds".to_owned(),
            state: SagaState::Running.into(),
            stale: true,
            lease: Some(Lease { owner_id: "w-1".to_owned(), fencing_token: 12, ..Lease::default() }),
            compensations: vec![Compensation {
                position: 1,
                kind: "branch".to_owned(),
                target: "fix\u{1b}[2J".to_owned(),
                state: CompensationState::Failed.into(),
                attempts: 2,
                last_error: "exit 1".to_owned(),
                ..Compensation::default()
            }],
            ..Saga::default()
        }
    }

    #[test]
    fn a_saga_is_told_in_full_without_empty_facts() {
        let text = saga_in_full(&saga());
        assert!(text.contains("state         running STALE\n"), "{text}");
        assert!(text.contains("compensation  1 failed: branch fix\\u{1b}[2J, failed 2 times: exit 1"), "{text}");
        assert!(!text.contains("worktree"), "{text}");
        assert!(summary(&saga()).starts_with("t-1  running STALE  queue builds  lease of w-1, token 12"));
    }

    #[test]
    fn rows_have_the_headers_columns() {
        assert_eq!(saga_row(&saga()).len(), SAGA_COLUMNS.len());
    }

    #[test]
    fn events_are_one_line() {
        let event = SagaEvent {
            revision: 7,
            task_id: "t-1".to_owned(),
            r#type: EventType::LeaseExpired.into(),
            reason: "two\nlines".to_owned(),
            ..SagaEvent::default()
        };
        let line = event_line(&event);
        assert!(line.contains("lease-expired") && line.contains("two\\nlines") && !line.contains('\n'), "{line}");
    }
}
