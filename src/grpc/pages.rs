//! Pages of sagas and of history: as many as were asked for, as many as there are, or as many as fit into one answer.

use crate::{
    domain::{
        bounds::PAGE_MAX,
        ids::Revision,
        rejection::{CommandRefusal, Rejection},
        saga::Saga,
    },
    proto,
    store::{Cursor, EventQuery, ListQuery, SagaKey, Store, StoreError},
};

use super::{
    page_token,
    parse::queries::{History, Listing, Queues},
    render::{self, Room},
    status::Problem,
};

/// Queues read at once, of up to 5 KiB each: some thousand rows make a snapshot of a few milliseconds.
const QUEUES_READ: usize = 1000;

/// Sagas read at once: each can be over a MiB, and many listings may run at a time.
const SAGAS_READ: usize = 100;

/// A page of sagas.
pub(super) async fn sagas(store: &Store, listing: Listing) -> Result<proto::ListSagasResponse, Problem> {
    let read_time = store.read_time();
    let mut room = Room::whole();
    let mut sagas = Vec::new();
    let mut after = listing.after;
    let limit = listing.limit.min(PAGE_MAX);
    let more = loop {
        let step = (limit - sagas.len()).min(SAGAS_READ);
        if step == 0 {
            break true;
        }
        let (filter, newest_first) = (listing.filter.clone(), listing.newest_first);
        let page = store.list(ListQuery { filter, newest_first, after, limit: step, read_time }).await?;
        let read = page.sagas.len();
        if !add(&mut sagas, &mut after, &mut room, page.sagas, &read_time) {
            break true;
        }
        let Some(next) = page.next else { break false };
        after = Some(next);
        if read < step {
            // The store looked at as many as it does at once: the caller decides whether to go on.
            break true;
        }
    };
    let next = if more { after } else { None };
    let next_page_token = next.map(|Cursor(place)| page_token::write(listing.digest, place)).unwrap_or_default();
    Ok(proto::ListSagasResponse { sagas, next_page_token })
}

/// Adds what fits; false: not everything did.
fn add(
    sagas: &mut Vec<proto::Saga>,
    after: &mut Option<Cursor>,
    room: &mut Room,
    page: Vec<(Cursor, Saga)>,
    read_time: &crate::store::ReadTime,
) -> bool {
    for (place, saga) in page {
        let saga = render::saga::listed(&saga, read_time);
        if !room.take(&saga) {
            return false;
        }
        sagas.push(saga);
        *after = Some(place);
    }
    true
}

/// A page of queues.
pub(super) async fn queues(store: &Store, wanted: Queues) -> Result<proto::ListQueuesResponse, Problem> {
    let Queues { mut after, limit, digest } = wanted;
    let mut room = Room::whole();
    let mut queues = Vec::new();
    let limit = limit.unwrap_or(usize::MAX);
    let more = 'page: loop {
        let step = (limit - queues.len()).min(QUEUES_READ);
        // One more tells whether another page follows.
        let read = store.queues(after.clone(), step + 1).await?;
        let is_last = read.len() <= step;
        for status in read.into_iter().take(step) {
            let queue = render::server::queue(&status);
            if !room.take(&queue) {
                break 'page true;
            }
            queues.push(queue);
            after = Some(status.queue);
        }
        if is_last || queues.len() == limit {
            break !is_last;
        }
    };
    let next = if more { after } else { None };
    let next_page_token = next.map(|queue| page_token::write_queue(digest, &queue)).unwrap_or_default();
    Ok(proto::ListQueuesResponse { queues, next_page_token })
}

/// A page of one saga's history. One that the caller may not see is not there for it.
pub(super) async fn events(
    store: &Store,
    history: History,
    may_see: impl FnOnce(&Saga) -> bool,
) -> Result<proto::ListEventsResponse, Problem> {
    let History { task_id, after, limit, digest } = history;
    let Some(saga) = store.get(SagaKey::Task(task_id.clone())).await?.filter(may_see) else {
        let refusal = CommandRefusal { task_id: Some(task_id), ..CommandRefusal::plain(Rejection::SagaNotFound) };
        return Err(StoreError::Refused(Box::new(refusal)).into());
    };
    let limit = limit.min(PAGE_MAX);
    let query = EventQuery {
        task_id: Some(task_id),
        after,
        through: Revision(i64::MAX),
        // One more tells whether another page follows.
        limit: limit + 1,
        whole: true,
        ..EventQuery::default()
    };
    let mut read = store.events(query).await?;
    // Should the saga have been purged since, another one may have its task_id, which this caller may not see.
    read.retain(|event| event.saga_id == saga.spec.saga_id);
    let mut room = Room::whole();
    let mut last = after;
    let mut events = Vec::with_capacity(read.len().min(limit));
    for event in read.iter().take(limit) {
        let message = render::event::event(event);
        if !room.take(&message) {
            break;
        }
        events.push(message);
        last = event.revision;
    }
    let more = events.len() < read.len();
    let next_page_token = if more { page_token::write(digest, last.0) } else { String::new() };
    Ok(proto::ListEventsResponse { events, next_page_token })
}
