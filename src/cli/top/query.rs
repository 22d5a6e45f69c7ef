//! What `sagad top` asks for: which sagas, which page of them, and the one that is looked at closely.

use clap::ValueEnum;

use crate::proto::{ListSagasRequest, Saga, SagaState};

/// Sagas on one page: more than fit on any screen, and one short read for the coordinator.
pub const PAGE_SIZE: usize = 200;
/// Sagas in one answer while a text is looked for.
pub const SEARCH_SIZE: usize = 500;
/// Answers looked through for one page of what contains a text: 5,000 sagas. The next page goes on behind them.
pub const SEARCH_ANSWERS: usize = 10;

/// Which sagas are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum View {
    /// Claimed for execution, the stale ones included.
    #[default]
    Running,
    /// Whose lease ran out, and on which nobody has decided yet.
    Stale,
    /// Being undone, or waiting for it.
    Compensating,
    /// Waiting to be claimed, or reserved for a worker.
    Planned,
    /// Parked for a person.
    Quarantined,
    /// All that are not terminal.
    InFlight,
}

impl View {
    /// All of them, in the order of their keys.
    pub const ALL: [View; 6] =
        [View::Running, View::Stale, View::Compensating, View::Planned, View::Quarantined, View::InFlight];

    /// Its name on the screen.
    pub fn name(self) -> &'static str {
        match self {
            View::Running => "running",
            View::Stale => "stale",
            View::Compensating => "compensating",
            View::Planned => "planned",
            View::Quarantined => "quarantined",
            View::InFlight => "in flight",
        }
    }

    fn states(self) -> &'static [SagaState] {
        match self {
            View::Running => &[SagaState::Running],
            View::Compensating => &[SagaState::Compensating],
            View::Planned => &[SagaState::Planned, SagaState::Dispatched],
            View::Quarantined => &[SagaState::Quarantined],
            View::Stale | View::InFlight => &[],
        }
    }
}

/// What is to be fetched with each look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Counts up with each change, so that an answer to an earlier one is known as such.
    pub number: u64,
    /// Which sagas.
    pub view: View,
    /// Only of these queues; none: of any.
    pub queues: Vec<String>,
    /// Only those in which this text is; empty: all.
    pub text: String,
    /// The latest first.
    pub newest_first: bool,
    /// Where the page begins.
    pub page_token: String,
    /// The saga that is looked at closely.
    pub detail: Option<String>,
}

impl Query {
    /// The request for a page that begins at a token.
    pub fn request(&self, page_token: String) -> ListSagasRequest {
        let size = if self.text.is_empty() { PAGE_SIZE } else { SEARCH_SIZE };
        ListSagasRequest {
            states: self.view.states().iter().map(|state| (*state).into()).collect(),
            queues: self.queues.clone(),
            stale_only: self.view == View::Stale,
            in_flight_only: self.view == View::InFlight,
            newest_first: self.newest_first,
            page_size: i32::try_from(size).unwrap_or(0),
            page_token,
            ..ListSagasRequest::default()
        }
    }

    /// Whether a saga has the text in what the screen shows of it, in capitals or not.
    pub fn matches(&self, saga: &Saga) -> bool {
        if self.text.is_empty() {
            return true;
        }
        let wanted = self.text.to_lowercase();
        let owner = saga.lease.as_ref().map_or("", |lease| lease.owner_id.as_str());
        let issue = saga.issue.map(|issue| format!("#{issue}")).unwrap_or_default();
        let kinds = saga.compensations.iter().map(|compensation| compensation.kind.as_str());
        [&saga.task_id, &saga.saga_id, &saga.queue, &saga.branch, &saga.assignee, &saga.terminal_reason, owner, &issue]
            .into_iter()
            .chain(kinds)
            .chain(saga.labels.values().map(String::as_str))
            .any(|shown| shown.to_lowercase().contains(&wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Lease;

    #[test]
    fn a_text_is_looked_for_in_what_is_shown() {
        let saga = Saga {
            task_id: "fix-7".to_owned(),
            issue: Some(4711),
            lease: Some(Lease { owner_id: "Worker-3".to_owned(), ..Lease::default() }),
            ..Saga::default()
        };
        let matches = |text: &str| Query { text: text.to_owned(), ..Query::default() }.matches(&saga);
        assert!(matches("") && matches("FIX") && matches("worker-3") && matches("#4711"));
        assert!(!matches("worker-4"));
    }

    #[test]
    fn pages_are_bounded() {
        let mut query = Query::default();
        assert_eq!(query.request(String::new()).page_size, 200);
        query.text = "x".to_owned();
        assert_eq!(query.request(String::new()).page_size, 500);
        assert!(Query { view: View::Stale, ..Query::default() }.request(String::new()).stale_only);
    }
}
