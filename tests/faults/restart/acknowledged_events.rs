//! [`AcknowledgedEvents`]: for each saga the events that its history must have, and no others.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use sagad::proto::*;

use super::retrying_caller::RetryingCaller;

/// The type of an event, and the token of its lease (0: none).
pub type ExpectedEvent = (EventType, i64);

/// The acknowledged events of all clients.
#[derive(Clone, Default)]
pub struct AcknowledgedEvents(Arc<Mutex<BTreeMap<String, Vec<ExpectedEvent>>>>);

impl AcknowledgedEvents {
    /// Records a creation, which may come after the record of the first claim.
    pub fn created(&self, task_id: &str) {
        self.0.lock().unwrap().entry(task_id.to_owned()).or_default().insert(0, (EventType::Created, 0));
    }

    /// Records an acknowledged event under a lease.
    pub fn add(&self, task_id: &str, kind: EventType, token: i64) {
        self.0.lock().unwrap().entry(task_id.to_owned()).or_default().push((kind, token));
    }

    /// Compares them with the daemon's sagas, and returns the whole history in order.
    pub async fn compare(&self, caller: &RetryingCaller) -> Vec<SagaEvent> {
        let expected = self.0.lock().unwrap().clone();
        let there = list(caller, ListSagasRequest::default()).await;
        let known: Vec<&String> = expected.keys().collect();
        let mut there: Vec<&String> = there.iter().map(|saga| &saga.task_id).collect();
        there.sort();
        assert_eq!(there, known, "the daemon's sagas differ from the acknowledged ones");
        let mut all = Vec::new();
        for (task_id, lines) in &expected {
            let events = history(caller, task_id).await;
            let found: Vec<ExpectedEvent> = events.iter().map(|event| (event.r#type(), event.fencing_token)).collect();
            assert_eq!(&found, lines, "the history of {task_id} and the acknowledged events: {events:#?}");
            all.extend(events);
        }
        all.sort_by_key(|event| event.revision);
        all
    }
}

/// All pages of a list; no saga may be on two.
pub async fn list(caller: &RetryingCaller, mut request: ListSagasRequest) -> Vec<Saga> {
    let mut all: Vec<Saga> = Vec::new();
    loop {
        let page = caller.must(request.clone(), |api, r| async move { api.list_sagas(r).await }).await;
        all.extend(page.sagas);
        if page.next_page_token.is_empty() {
            return all;
        }
        request.page_token = page.next_page_token;
    }
}

/// A saga's whole history, in small pages.
async fn history(caller: &RetryingCaller, task_id: &str) -> Vec<SagaEvent> {
    let mut request = ListEventsRequest { task_id: task_id.into(), page_size: 4, ..Default::default() };
    let mut all = Vec::new();
    loop {
        let page = caller.must(request.clone(), |api, r| async move { api.list_events(r).await }).await;
        all.extend(page.events);
        if page.next_page_token.is_empty() {
            return all;
        }
        request.page_token = page.next_page_token;
    }
}
