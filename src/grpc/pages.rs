//! Pages of sagas, queues and events: as many as were asked for, exist, or fit into one answer.

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
    parse::queries::{ListEventsQuery, ListQueuesQuery, ListSagasQuery},
    problem::Problem,
    render::{self, ResponseBudget},
};

/// Queues read at a time, of up to 5 KiB each. A thousand rows keep a snapshot for a few milliseconds.
const QUEUES_READ: usize = 1000;

/// Sagas read at a time. Each can be over a MiB, and many listings may run at once.
const SAGAS_READ: usize = 100;

pub(super) async fn sagas(store: &Store, listing: ListSagasQuery) -> Result<proto::ListSagasResponse, Problem> {
    let moment = store.moment();
    let mut budget = ResponseBudget::full();
    let mut sagas = Vec::new();
    let mut after = listing.after;
    let limit = listing.limit.min(PAGE_MAX);
    let more = loop {
        let step = (limit - sagas.len()).min(SAGAS_READ);
        if step == 0 {
            break true;
        }
        let (filter, newest_first) = (listing.filter.clone(), listing.newest_first);
        let page = store.list(ListQuery { filter, newest_first, after, limit: step, moment }).await?;
        let read = page.sagas.len();
        if !add(&mut sagas, &mut after, &mut budget, page.sagas, &moment) {
            break true;
        }
        let Some(next) = page.next else { break false };
        after = Some(next);
        if read < step {
            // The store reads a limited number of rows at a time. The client decides whether to go on.
            break true;
        }
    };
    let next = if more { after } else { None };
    let next_page_token = next.map(|Cursor(place)| page_token::write(listing.digest, place)).unwrap_or_default();
    Ok(proto::ListSagasResponse { sagas, next_page_token })
}

/// Adds the sagas that fit. False: not all of them did.
fn add(
    sagas: &mut Vec<proto::Saga>,
    after: &mut Option<Cursor>,
    budget: &mut ResponseBudget,
    page: Vec<(Cursor, Saga)>,
    moment: &crate::store::Moment,
) -> bool {
    for (place, saga) in page {
        let saga = render::saga::summary(&saga, moment);
        if !budget.take(&saga) {
            return false;
        }
        sagas.push(saga);
        *after = Some(place);
    }
    true
}

pub(super) async fn queues(store: &Store, wanted: ListQueuesQuery) -> Result<proto::ListQueuesResponse, Problem> {
    let ListQueuesQuery { mut after, limit, digest } = wanted;
    let mut budget = ResponseBudget::full();
    let mut queues = Vec::new();
    let limit = limit.unwrap_or(usize::MAX);
    let more = 'page: loop {
        let step = (limit - queues.len()).min(QUEUES_READ);
        // One more than needed tells whether another page follows.
        let read = store.queues(after.clone(), step + 1).await?;
        let is_last = read.len() <= step;
        for status in read.into_iter().take(step) {
            let queue = render::server::queue(&status);
            if !budget.take(&queue) {
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

/// A page of one saga's history. A saga that the caller may not see is answered like one that does not exist.
pub(super) async fn events(
    store: &Store,
    history: ListEventsQuery,
    may_see: impl FnOnce(&Saga) -> bool,
) -> Result<proto::ListEventsResponse, Problem> {
    let ListEventsQuery { task_id, after, limit, digest } = history;
    let Some(saga) = store.get(SagaKey::Task(task_id.clone())).await?.filter(may_see) else {
        let refusal = CommandRefusal { task_id: Some(task_id), ..CommandRefusal::plain(Rejection::SagaNotFound) };
        return Err(StoreError::Refused(Box::new(refusal)).into());
    };
    let limit = limit.min(PAGE_MAX);
    let query = EventQuery {
        task_id: Some(task_id),
        after,
        through: Revision(i64::MAX),
        // One more than needed tells whether another page follows.
        limit: limit + 1,
        whole: true,
        ..EventQuery::default()
    };
    let mut read = store.events(query).await?;
    // The saga may have been purged since, and another one with its task_id, which this caller may not see, created.
    read.retain(|event| event.saga_id == saga.spec.saga_id);
    let mut budget = ResponseBudget::full();
    let mut last = after;
    let mut events = Vec::with_capacity(read.len().min(limit));
    for event in read.iter().take(limit) {
        let message = render::event::event(event);
        if !budget.take(&message) {
            break;
        }
        events.push(message);
        last = event.revision;
    }
    let more = events.len() < read.len();
    let next_page_token = if more { page_token::write(digest, last.0) } else { String::new() };
    Ok(proto::ListEventsResponse { events, next_page_token })
}
