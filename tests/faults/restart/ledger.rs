//! What was acknowledged: for each saga the events that its history has to have, and no others.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use sagad::proto::*;

use super::calls::Caller;

/// An event, as far as it is known beforehand: its type, and the lease it belongs to (0: none).
pub type Line = (EventType, i64);

/// The ledger of all clients.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<BTreeMap<String, Vec<Line>>>>);

impl Ledger {
    /// A saga was created. Whoever claimed it may have been quicker.
    pub fn created(&self, task_id: &str) {
        self.0.lock().unwrap().entry(task_id.to_owned()).or_default().insert(0, (EventType::Created, 0));
    }

    /// Something was acknowledged under a lease.
    pub fn wrote(&self, task_id: &str, kind: EventType, token: i64) {
        self.0.lock().unwrap().entry(task_id.to_owned()).or_default().push((kind, token));
    }

    /// Compares it with what is there, and returns the whole history in order.
    pub async fn compare(&self, caller: &Caller) -> Vec<SagaEvent> {
        let expected = self.0.lock().unwrap().clone();
        let there = list(caller, ListSagasRequest::default()).await;
        let known: Vec<&String> = expected.keys().collect();
        let mut there: Vec<&String> = there.iter().map(|saga| &saga.task_id).collect();
        there.sort();
        assert_eq!(there, known, "other sagas are there than were acknowledged");
        let mut all = Vec::new();
        for (task_id, lines) in &expected {
            let events = history(caller, task_id).await;
            let found: Vec<Line> = events.iter().map(|event| (event.r#type(), event.fencing_token)).collect();
            assert_eq!(&found, lines, "the history of {task_id}, and what was acknowledged: {events:#?}");
            all.extend(events);
        }
        all.sort_by_key(|event| event.revision);
        all
    }
}

/// All pages of a list; no saga is on two.
pub async fn list(caller: &Caller, mut request: ListSagasRequest) -> Vec<Saga> {
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
async fn history(caller: &Caller, task_id: &str) -> Vec<SagaEvent> {
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
