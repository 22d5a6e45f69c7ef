//! Sagas and their events as text: rows of a list, a saga in full, a line about a change.

use std::{fmt::Write as _, time::Duration};

use super::{
    output::{Cell, Columns, LinePart, alarming, busy, fine},
    text::{away, content, counted, exact, or_dash, printable, short_stamp, stamp, when, word},
};
use crate::{
    client::{convert, note::state_name},
    proto::{
        Compensation, CompensationState, EventType, Lease, LeasePurpose, LeaseStanding, Policy, Saga, SagaEvent,
        SagaState,
    },
};

/// The columns of a list of sagas.
pub const SAGA_COLUMNS: Columns = Columns {
    names: &["TASK", "STATE", "QUEUE", "OWNER", "UNTIL", "TRY", "UPDATED", "WHAT"],
    spare: &["TRY", "UPDATED", "QUEUE", "OWNER", "UNTIL", "WHAT"],
};

/// A row of a list of sagas.
pub fn saga_row(saga: &Saga) -> Vec<Cell> {
    let lease_ends = held(saga).and_then(ends);
    let reserved = saga.dispatch_expire_time.as_ref().filter(|_| saga.state() == SagaState::Dispatched);
    vec![
        Cell::new(printable(&saga.task_id)),
        state_cell(saga),
        Cell::new(printable(&saga.queue)),
        Cell::new(or_dash(owner(saga))),
        Cell::new(away(lease_ends.or(reserved))),
        Cell::new(saga.attempt),
        Cell::new(away(saga.update_time.as_ref())),
        Cell::new(or_dash(&subject(saga))),
    ]
}

/// The owner of its lease, or the assignee for whom it is reserved; empty if there is neither.
pub fn owner(saga: &Saga) -> &str {
    match (held(saga), saga.state()) {
        (_, SagaState::Dispatched) => &saga.assignee,
        (Some(lease), _) => &lease.owner_id,
        (None, _) => "",
    }
}

/// The lease, unless the saga's state shows that it has ended: a saga keeps its last lease.
pub fn held(saga: &Saga) -> Option<&Lease> {
    let held = |lease: &&Lease| match saga.state() {
        SagaState::Running => true,
        SagaState::Compensating => lease.purpose() == LeasePurpose::Compensate,
        SagaState::Unspecified
        | SagaState::Planned
        | SagaState::Dispatched
        | SagaState::Completed
        | SagaState::Failed
        | SagaState::Compensated
        | SagaState::Quarantined => false,
    };
    saga.lease.as_ref().filter(held)
}

/// The reason why it ended. If none was given, the field has the state's name, which is not shown.
fn reason(saga: &Saga) -> Option<&str> {
    let reason = saga.terminal_reason.as_str();
    let given = !reason.is_empty() && !reason.eq_ignore_ascii_case(state_name(saga.state()));
    given.then_some(reason)
}

/// What a saga is about (its issue and branch), and why it failed or was quarantined.
pub fn subject(saga: &Saga) -> String {
    let mut parts = Vec::new();
    if matches!(saga.state(), SagaState::Quarantined | SagaState::Failed) {
        parts.push(reason(saga).unwrap_or_default().chars().take(40).collect());
    }
    if let Some(issue) = saga.issue {
        parts.push(format!("#{issue}"));
    }
    parts.push(saga.branch.chars().take(30).collect());
    parts.retain(|part: &String| !part.is_empty());
    parts.join(" ")
}

/// The state, with STALE, GRACE or CANCEL if one of them applies.
pub fn state_text(saga: &Saga) -> String {
    let mut text = state_name(saga.state()).to_owned();
    if saga.stale {
        text.push_str(" STALE");
    } else if held(saga).is_some_and(has_grace) {
        text.push_str(" GRACE");
    } else if saga.cancel_requested && saga.state() == SagaState::Running {
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

/// One line about a saga, printed after a change.
pub fn summary(saga: &Saga) -> String {
    let mut line = format!("{}  {}  queue {}", printable(&saga.task_id), state_text(saga), printable(&saga.queue));
    if let Some(lease) = held(saga) {
        write!(line, "  lease of {}", lease_line(lease)).ok();
    }
    if saga.state() == SagaState::Dispatched {
        write!(line, "  {}", reservation(saga)).ok();
    }
    if let Some(reason) = reason(saga) {
        write!(line, "  {}", printable(reason)).ok();
    }
    line
}

fn reservation(saga: &Saga) -> String {
    let until = saga.dispatch_expire_time.as_ref().map_or_else(|| "-".to_owned(), when);
    format!("reserved for {} until {until}", printable(&saga.assignee))
}

/// When a lease counts as expired. The answer of an older coordinator doesn't include the grace.
fn ends(lease: &Lease) -> Option<&prost_types::Timestamp> {
    lease.effective_expire_time.as_ref().or(lease.expire_time.as_ref())
}

/// True if a lease is held beyond its expire time, because the coordinator was away.
fn has_grace(lease: &Lease) -> bool {
    lease.standing() == LeaseStanding::Held && ends(lease) != lease.expire_time.as_ref()
}

/// A lease's owner, purpose, token and expire time.
pub fn lease_line(lease: &Lease) -> String {
    let time = |time: Option<&prost_types::Timestamp>| time.map_or_else(|| "-".to_owned(), when);
    let expires = match lease.standing() {
        LeaseStanding::Expired => "expired",
        LeaseStanding::Held
        | LeaseStanding::Unspecified
        | LeaseStanding::EndedByHolder
        | LeaseStanding::EndedByOther => "expires",
    };
    let mut line = format!("{}, {expires} {}", holder(lease), time(lease.expire_time.as_ref()));
    if has_grace(lease) {
        write!(line, " (grace until {})", time(ends(lease))).ok();
    }
    line
}

/// A lease's owner, purpose and token.
pub fn holder(lease: &Lease) -> String {
    let purpose = match lease.purpose() {
        LeasePurpose::Compensate => " to compensate",
        LeasePurpose::Execute | LeasePurpose::Unspecified => "",
    };
    format!("{}{purpose}, token {}", printable(&lease.owner_id), lease.fencing_token)
}

/// Lines with a name and a value each. The values are aligned; empty ones are omitted.
#[derive(Default)]
pub struct NamedValues(String);

impl NamedValues {
    /// Adds a line unless the value is empty.
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
    let mut facts = NamedValues::default();
    facts
        .add("task", printable(&saga.task_id))
        .add("saga", printable(&saga.saga_id))
        .add("state", state_text(saga))
        .add("reason", reason(saga).map(printable).unwrap_or_default())
        .add("queue", printable(&saga.queue))
        .add("priority", number(saga.priority))
        .add("issue", saga.issue.map(|issue| issue.to_string()).unwrap_or_default())
        .add("branch", printable(&saga.branch))
        .add("worktree", printable(&saga.worktree))
        .add("labels", labels(&saga.labels))
        .add(if held(saga).is_some() { "lease" } else { "last lease" }, lease_fact(saga))
        .add("heartbeat", saga.lease.as_ref().map(|lease| time(&lease.heartbeat_time)).unwrap_or_default());
    if saga.cancel_requested {
        facts.add("cancel", format!("requested: {}", printable(&saga.cancel_reason)));
    }
    if saga.state() == SagaState::Dispatched {
        facts.add("dispatched", reservation(saga));
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

fn lease_fact(saga: &Saga) -> String {
    match (&saga.lease, held(saga)) {
        (Some(_), Some(lease)) => lease_line(lease),
        // After the end, the expire time doesn't matter.
        (Some(lease), None) => match lease.standing() {
            LeaseStanding::EndedByHolder => format!("{}, ended by its holder", holder(lease)),
            LeaseStanding::EndedByOther => format!("{}, taken from its holder", holder(lease)),
            LeaseStanding::Held | LeaseStanding::Expired | LeaseStanding::Unspecified => holder(lease),
        },
        (None, _) => String::new(),
    }
}

fn number(number: i32) -> String {
    if number == 0 { String::new() } else { number.to_string() }
}

/// `key=value` pairs.
pub fn labels<'a>(map: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
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
        let times = counted(compensation.attempts, "time");
        write!(line, ", failed {times}: {}", printable(&compensation.last_error)).ok();
    }
    if let Some(at) = &compensation.settle_time {
        write!(line, ", by {} {}", printable(&compensation.settled_by), when(at)).ok();
    }
    line
}

/// The settings that differ from the coordinator's defaults; if none does, the most important defaults.
pub fn policy_line(policy: &Policy) -> String {
    const DAY_SECONDS: u64 = 86_400;
    let stale = word(policy.on_stale().as_str_name(), "STALE_ACTION_");
    let failure = word(policy.on_failure().as_str_name(), "FAILURE_ACTION_");
    let count = |count: i32| if count == 0 { String::new() } else { count.to_string() };
    let seconds = |length: &Option<prost_types::Duration>| length.as_ref().map(convert::from_proto).map(exact);
    let default = |seconds| exact(Duration::from_secs(seconds));
    let fields = [
        ("on-stale", stale, "hold".to_owned()),
        ("max-expirations", count(policy.max_expirations), "3".to_owned()),
        ("on-failure", failure, "fail".to_owned()),
        ("max-attempts", count(policy.max_attempts), "1".to_owned()),
        ("retry-backoff", seconds(&policy.retry_backoff).unwrap_or_default(), default(1)),
        ("retry-backoff-max", seconds(&policy.retry_backoff_max).unwrap_or_default(), default(300)),
        ("execution-timeout", seconds(&policy.execution_timeout).unwrap_or_default(), String::new()),
        ("progress-timeout", seconds(&policy.progress_timeout).unwrap_or_default(), String::new()),
        ("settle", seconds(&policy.settle).unwrap_or_default(), default(0)),
        ("compensation-timeout", seconds(&policy.compensation_timeout).unwrap_or_default(), default(DAY_SECONDS)),
    ];
    let unset = |value: &str| value.is_empty() || value == "unspecified";
    let own = fields.iter().filter(|(_, value, default)| !unset(value) && value != default);
    let own: Vec<String> = own.map(|(name, value, _)| format!("{name} {value}")).collect();
    if own.is_empty() { "default: on-stale hold, on-failure fail, max-attempts 1".to_owned() } else { own.join(", ") }
}

/// The name of an event's type.
pub fn event_name(event: &SagaEvent) -> String {
    match event.r#type() {
        EventType::Unspecified => format!("event-{}", event.r#type),
        known => word(known.as_str_name(), "EVENT_TYPE_"),
    }
}

/// An event as a line of its saga's history.
pub fn history_line(event: &SagaEvent) -> String {
    let parts: Vec<String> = history_parts(event, false).into_iter().map(|part| part.text).collect();
    parts.join("  ").trim_end().to_owned()
}

/// An event as a line that names its saga.
pub fn event_line(event: &SagaEvent) -> String {
    let mut parts: Vec<String> = history_parts(event, false).into_iter().map(|part| part.text).collect();
    parts.insert(3, printable(&event.task_id));
    parts.join("  ").trim_end().to_owned()
}

/// The parts of a line of a saga's history. For a narrow terminal, the revision is empty and the time is to the second.
pub fn history_parts(event: &SagaEvent, narrow: bool) -> Vec<LinePart> {
    let part = |text: String, spare| LinePart { text, spare };
    let mut parts = vec![
        part(if narrow { String::new() } else { format!("{:<7}", event.revision) }, Some((2, "REVISION"))),
        part(if narrow { short_stamp(event.time.as_ref()) } else { stamp(event.time.as_ref()) }, None),
        part(format!("{:<23}", event_name(event)), None),
    ];
    match (event.from_state(), event.to_state()) {
        (SagaState::Unspecified, to) => parts.push(part(format!("-> {}", state_name(to)), None)),
        (from, to) if from != to => parts.push(part(format!("{} -> {}", state_name(from), state_name(to)), None)),
        (_, _) => {}
    };
    if !event.actor.is_empty() {
        parts.push(part(format!("by {}", printable(&event.actor)), Some((3, "ACTOR"))));
    }
    if event.fencing_token > 0 {
        parts.push(part(format!("token {}", event.fencing_token), Some((1, "TOKEN"))));
    }
    if !event.reason.is_empty() {
        parts.push(part(printable(&event.reason), None));
    }
    if !event.details.is_empty() {
        parts.push(part(format!("[{}]", labels(&event.details)), Some((0, "DETAILS"))));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{FailureAction, StaleAction};

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
    fn a_saga_in_full_omits_empty_fields() {
        let text = saga_in_full(&saga());
        assert!(text.contains("state         running STALE\n"), "{text}");
        assert!(text.contains("compensation  1 failed: branch fix\\u{1b}[2J, failed 2 times: exit 1"), "{text}");
        assert!(!text.contains("worktree"), "{text}");
        assert!(summary(&saga()).starts_with("t-1  running STALE  queue builds  lease of w-1, token 12"));
    }

    #[test]
    fn rows_have_one_cell_per_column() {
        assert_eq!(saga_row(&saga()).len(), SAGA_COLUMNS.names.len());
        assert!(SAGA_COLUMNS.spare.iter().all(|spare| SAGA_COLUMNS.names.contains(spare)));
    }

    #[test]
    fn a_policy_shows_only_what_is_not_default() {
        let length = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        let mut policy = Policy {
            on_stale: StaleAction::Hold.into(),
            on_failure: FailureAction::Fail.into(),
            max_expirations: 3,
            max_attempts: 1,
            retry_backoff: length(1),
            retry_backoff_max: length(300),
            compensation_timeout: length(86_400),
            ..Policy::default()
        };
        assert!(policy_line(&policy).starts_with("default: on-stale hold"));
        assert!(policy_line(&Policy::default()).starts_with("default"));
        (policy.max_attempts, policy.settle) = (3, length(5_415));
        assert_eq!(policy_line(&policy), "max-attempts 3, settle 1h 30m 15s");
    }

    #[test]
    fn an_ended_lease_has_no_owner_and_is_the_last_lease() {
        let ended = Saga { state: SagaState::Compensating.into(), stale: false, ..saga() };
        assert_eq!(owner(&ended), "");
        assert!(saga_in_full(&ended).contains("last lease    w-1, token 12\n"));
        assert!(saga_in_full(&saga()).contains("\nlease         w-1, token 12, expires -\n"));
    }

    #[test]
    fn each_event_is_one_line() {
        let event = SagaEvent {
            revision: 7,
            task_id: "t-1".to_owned(),
            r#type: EventType::LeaseExpired.into(),
            reason: "two\nlines".to_owned(),
            ..SagaEvent::default()
        };
        assert!(history_line(&event).len() < event_line(&event).len(), "a history needs no task ids");
        let line = event_line(&event);
        let created = SagaEvent { to_state: SagaState::Planned.into(), ..SagaEvent::default() };
        assert!(history_line(&created).ends_with("  -> planned"));
        assert!(line.contains("lease-expired") && line.contains("two\\nlines") && !line.contains('\n'), "{line}");
    }
}
