//! [`Query`]: what `sagad top` fetches: which sagas, which page, and the saga of the detail view.

use clap::ValueEnum;

use crate::proto::{ListSagasRequest, Saga, SagaState};

/// Sagas per page: more than fit on any screen, and one short read for the coordinator.
pub const PAGE_SIZE: usize = 200;
/// Sagas per answer while a text is searched.
pub const SEARCH_SIZE: usize = 500;
/// Most answers searched for one page: 5,000 sagas. The next page continues after them.
pub const SEARCH_ANSWERS: usize = 10;

/// Which sagas are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum View {
    /// Claimed for execution, the stale ones included.
    #[default]
    Running,
    /// Whose lease expired, while nothing has been decided yet.
    Stale,
    /// Being compensated, or waiting for it.
    Compensating,
    /// Waiting to be claimed, or reserved for a worker.
    Planned,
    /// Parked for a person.
    Quarantined,
    /// All that are not terminal.
    InFlight,
}

impl View {
    /// The view of a number key; they are counted from 1.
    pub fn of_key(key: char) -> Option<View> {
        let number = usize::try_from(key.to_digit(10)?).ok()?.checked_sub(1)?;
        View::value_variants().get(number).copied()
    }

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

/// What is fetched with each snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Incremented with each change, so that an answer to an earlier query is recognized.
    pub number: u64,
    /// Which sagas.
    pub view: View,
    /// Only of these queues; empty: all queues.
    pub queues: Vec<String>,
    /// Only sagas that contain this text; empty: all.
    pub text: String,
    /// The latest first.
    pub newest_first: bool,
    /// Where the page begins.
    pub page_token: String,
    /// The saga of the detail view.
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

    /// True if a saga contains the text in what the screen shows of it, ignoring case.
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
    fn a_text_filter_searches_the_shown_fields() {
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
    fn a_request_has_a_page_size_and_the_filter_of_its_view() {
        let mut query = Query::default();
        assert_eq!(query.request(String::new()).page_size, 200);
        query.text = "x".to_owned();
        assert_eq!(query.request(String::new()).page_size, 500);
        assert!(Query { view: View::Stale, ..Query::default() }.request(String::new()).stale_only);
    }
}
