//! Requests that only read, or watch.

use crate::{
    domain::{
        ids::{Malformed, OwnerId, QueueName, Revision, SagaId, TaskId},
        saga::State,
    },
    grpc::page_token::{self, FilterDigest},
    proto,
    store::{Cursor, Filter, SagaKey},
};

use super::{
    Violations,
    violations::{required, unknown},
};

/// A parsed `ListSagas`.
#[derive(Debug)]
pub struct ListSagasQuery {
    pub filter: Filter,
    pub newest_first: bool,
    /// After this position.
    pub after: Option<Cursor>,
    pub limit: usize,
    /// What the next page's token is bound to.
    pub digest: FilterDigest,
}

/// A parsed `ListEvents`.
#[derive(Debug)]
pub struct ListEventsQuery {
    pub task_id: TaskId,
    /// After this revision.
    pub after: Revision,
    pub limit: usize,
    /// What the next page's token is bound to.
    pub digest: FilterDigest,
}

/// A parsed `ListQueues`.
#[derive(Debug)]
pub struct ListQueuesQuery {
    /// After this queue, in order of name.
    pub after: Option<QueueName>,
    /// None: as many as fit into the answer.
    pub limit: Option<usize>,
    /// What the next page's token is bound to.
    pub digest: FilterDigest,
}

/// A parsed `WatchStale` or `WatchEvents`.
#[derive(Debug, PartialEq, Eq)]
pub struct WatchQuery {
    /// Only this saga.
    pub task_id: Option<TaskId>,
    /// Only these queues; empty: all.
    pub queues: Vec<QueueName>,
    /// Changes after this revision. None: from now on.
    pub after: Option<Revision>,
}

pub fn get_saga(request: &proto::GetSagaRequest) -> Result<SagaKey, Violations> {
    let mut v = Violations::default();
    let key = match (request.task_id.as_str(), request.saga_id.as_str()) {
        ("", "") => {
            v.add("task_id", "is required, or saga_id");
            None
        }
        (task_id, "") => v.check("task_id", TaskId::parse(task_id)).map(SagaKey::Task),
        ("", saga_id) => v.check("saga_id", SagaId::parse(saga_id)).map(SagaKey::Saga),
        (_, _) => {
            v.add("saga_id", "must be absent when task_id is given");
            None
        }
    };
    v.unless_any(key)
}

pub fn list_sagas(mut request: proto::ListSagasRequest) -> Result<ListSagasQuery, Violations> {
    let mut v = Violations::default();
    let limit = v.page_size(std::mem::take(&mut request.page_size));
    let token = std::mem::take(&mut request.page_token);
    let digest = FilterDigest::of("ListSagas", &request);
    let after = v.check("page_token", page_token::read(digest, &token));
    let newest_first = request.newest_first;
    let filter = filter(request, &mut v);
    let listing = filter.zip(after).zip(limit).map(|((filter, after), limit)| ListSagasQuery {
        filter,
        newest_first,
        after: after.map(Cursor),
        limit,
        digest,
    });
    v.unless_any(listing)
}

fn filter(request: proto::ListSagasRequest, v: &mut Violations) -> Option<Filter> {
    let states = states(&request.states, false, v);
    let queues = v.queues(&request.queues);
    let owner = v.optional("owner_id", &request.owner_id, OwnerId::parse);
    let labels = v.labels("labels", request.labels);
    Some(Filter {
        states: states?,
        queues: queues?,
        owner: owner?,
        held_by: None,
        labels: labels?,
        issue: request.issue,
        stale_only: request.stale_only,
        in_flight_only: request.in_flight_only,
    })
}

/// States of sagas, each once. `terminal_only`: other states are violations.
pub fn states(values: &[i32], terminal_only: bool, v: &mut Violations) -> Option<Vec<State>> {
    // Repetitions are harmless, but the list's length has to be limited.
    if values.len() > 4 * State::ALL.len() {
        v.add("states", format!("has {} entries; there are {} states", values.len(), State::ALL.len()));
        return None;
    }
    v.each("states", values, |value| {
        let state = state(*value)?;
        if terminal_only && !state.is_terminal() {
            return Err(Malformed(format!("is {}, which is not terminal", state.name())));
        }
        Ok(state)
    })
}

fn state(value: i32) -> Result<State, Malformed> {
    match proto::SagaState::try_from(value).map_err(|_| unknown(value))? {
        proto::SagaState::Unspecified => Err(required()),
        proto::SagaState::Planned => Ok(State::Planned),
        proto::SagaState::Dispatched => Ok(State::Dispatched),
        proto::SagaState::Running => Ok(State::Running),
        proto::SagaState::Compensating => Ok(State::Compensating),
        proto::SagaState::Completed => Ok(State::Completed),
        proto::SagaState::Failed => Ok(State::Failed),
        proto::SagaState::Compensated => Ok(State::Compensated),
        proto::SagaState::Quarantined => Ok(State::Quarantined),
    }
}

pub fn list_events(mut request: proto::ListEventsRequest) -> Result<ListEventsQuery, Violations> {
    let mut v = Violations::default();
    let limit = v.page_size(std::mem::take(&mut request.page_size));
    let token = std::mem::take(&mut request.page_token);
    let digest = FilterDigest::of("ListEvents", &request);
    let after = v.check("page_token", page_token::read(digest, &token));
    let task_id = v.check("task_id", TaskId::parse(&request.task_id));
    let history = task_id.zip(after).zip(limit).map(|((task_id, after), limit)| ListEventsQuery {
        task_id,
        after: after.map_or(Revision::ZERO, Revision),
        limit,
        digest,
    });
    v.unless_any(history)
}

pub fn list_queues(mut request: proto::ListQueuesRequest) -> Result<ListQueuesQuery, Violations> {
    let mut v = Violations::default();
    let limit = match std::mem::take(&mut request.page_size) {
        0 => Some(None),
        size => v.page_size(size).map(Some),
    };
    let token = std::mem::take(&mut request.page_token);
    let digest = FilterDigest::of("ListQueues", &request);
    let after = v.check("page_token", page_token::read_queue(digest, &token));
    v.unless_any(after.zip(limit).map(|(after, limit)| ListQueuesQuery { after, limit, digest }))
}

pub fn watch_stale(request: &proto::WatchStaleRequest) -> Result<WatchQuery, Violations> {
    let mut v = Violations::default();
    let queues = v.queues(&request.queues);
    let after = after_revision(request.after_revision, &mut v);
    if request.snapshot_only && request.after_revision.is_some() {
        v.add("snapshot_only", "must be absent when after_revision is given: then there is no snapshot");
    }
    let watch = queues.zip(after).map(|(queues, after)| WatchQuery { task_id: None, queues, after });
    v.unless_any(watch)
}

pub fn watch_events(request: &proto::WatchEventsRequest) -> Result<WatchQuery, Violations> {
    let mut v = Violations::default();
    let task_id = v.optional("task_id", &request.task_id, TaskId::parse);
    let queues = v.queues(&request.queues);
    let after = after_revision(request.after_revision, &mut v);
    let watch = task_id.zip(queues).zip(after).map(|((task_id, queues), after)| WatchQuery { task_id, queues, after });
    v.unless_any(watch)
}

/// A revision to resume from. One that does not exist yet is no violation here: the store refuses it.
fn after_revision(value: Option<i64>, v: &mut Violations) -> Option<Option<Revision>> {
    match value {
        None => Some(None),
        Some(revision) if revision >= 0 => Some(Some(Revision(revision))),
        Some(revision) => {
            v.add("after_revision", format!("is {revision}; revisions are not negative"));
            None
        }
    }
}
