//! Compares the clients' records with the daemon after a restart.

use std::collections::{BTreeMap, HashMap};

use sagad::proto::*;
use tonic::Code;

use super::{
    op::{Answer, Op},
    torture_client::TortureClient,
};
use crate::support::Sagas;

/// Compares everything, and repeats unanswered calls. Returns how many of those had happened, and how many had not.
pub async fn verify(sagas: &mut Sagas, clients: &mut [TortureClient]) -> (u64, u64) {
    let listed = list(sagas).await;
    let (mut happened, mut not) = (0, 0);
    for client in clients.iter_mut() {
        let pending = client.pending.take();
        let touched = pending.as_ref().map(Op::tasks).unwrap_or_default();
        for known in client.known.values() {
            if touched.contains(&known.task_id) {
                continue;
            }
            let current =
                listed.get(&known.task_id).unwrap_or_else(|| panic!("an acknowledged saga is lost: {known:?}"));
            if without_contents(known) != *current {
                let (current, events) = look(sagas, known).await;
                assert!(events.is_empty(), "no call caused this change of {known:?}: {events:?}");
                assert_same(known, &current, &events);
            }
        }
        if let Some(op) = pending {
            if settle(sagas, client, op).await { happened += 1 } else { not += 1 }
        }
    }
    let total: usize = clients.iter().map(|client| client.known.len()).sum();
    let now = list(sagas).await.len();
    assert_eq!(now, total, "there are sagas that no client created");
    verify_counts(sagas).await;
    (happened, not)
}

/// The counts of `GetStats` agree with the sagas.
async fn verify_counts(sagas: &mut Sagas) {
    // A lease that expires between the two reads may change the counts.
    for _ in 0..20 {
        let stats = sagas.get_stats(GetStatsRequest {}).await.unwrap().into_inner();
        let listed = list(sagas).await;
        if sagas.get_stats(GetStatsRequest {}).await.unwrap().into_inner().revision != stats.revision {
            continue;
        }
        let mut there = BTreeMap::new();
        listed.values().for_each(|saga| *there.entry((saga.queue.clone(), saga.state)).or_insert(0) += 1);
        let counted = stats
            .queues
            .iter()
            .flat_map(|queue| queue.states.iter().map(|count| ((queue.queue.clone(), count.state), count.count)));
        assert_eq!(counted.collect::<BTreeMap<_, _>>(), there, "the counts and the sagas");
        return;
    }
    panic!("the counts keep changing");
}

/// Compares each saga with its client's record, contents included.
pub async fn verify_contents(sagas: &mut Sagas, clients: &[TortureClient]) {
    for known in clients.iter().flat_map(|client| client.known.values()) {
        let current = get(sagas, &known.task_id).await.unwrap_or_else(|| panic!("lost: {known:?}"));
        assert_eq!(
            (&known.payload, &known.progress, &known.result),
            (&current.payload, &current.progress, &current.result)
        );
    }
}

/// Determines whether an unanswered call happened, which must be completely or not at all, and repeats it. Afterwards it must have
/// happened once.
async fn settle(sagas: &mut Sagas, client: &mut TortureClient, op: Op) -> bool {
    let mut changed = 0;
    let mut unchanged = 0;
    for task_id in op.tasks() {
        let known = client.known.get(&task_id);
        let (happened, current) = match (known, get(sagas, &task_id).await) {
            (None, None) => (false, None),
            (Some(known), None) => panic!("an acknowledged saga is lost: {known:?}"),
            (None, Some(current)) => {
                let events = history(sagas, &task_id, 0).await;
                assert_whole(&op, &current, &events);
                (true, Some(current))
            }
            (Some(known), Some(_)) => {
                let (current, events) = look(sagas, known).await;
                (is_changed(&op, known, &current, &events), Some(current))
            }
        };
        if happened {
            changed += 1
        } else {
            unchanged += 1
        }
        if let Some(current) = current {
            client.learn(current);
        }
    }
    if op.is_all_or_none() {
        assert!(changed == 0 || unchanged == 0, "a part of it happened: {op:?}");
    } else {
        assert!(changed <= 1, "more sagas changed than requested: {op:?}");
    }
    repeat(sagas, client, &op, changed > 0).await;
    changed > 0
}

/// True if a saga was changed by a call; asserts that it changed completely or not at all.
fn is_changed(op: &Op, known: &Saga, current: &Saga, events: &[SagaEvent]) -> bool {
    if !events.is_empty() {
        assert_whole(op, current, events);
        return true;
    }
    let Op::Heartbeat(request) = op else {
        assert_same(known, current, events);
        return false;
    };
    // A lease may look different without a heartbeat: it has a grace after a start, or has expired since.
    let is_extended = |lease: &Lease, now: &Lease| {
        (lease.heartbeat_time, lease.expire_time, lease.ttl) != (now.heartbeat_time, now.expire_time, now.ttl)
    };
    let extended = known.lease.as_ref().zip(current.lease.as_ref()).is_some_and(|(known, now)| is_extended(known, now));
    let mut expected = known.clone();
    if extended {
        expected.lease = current.lease.clone();
        expected.progress = request.progress.clone().unwrap_or(expected.progress);
    }
    assert_eq!(expected.progress, current.progress, "a part of a heartbeat: {op:?}");
    assert_same(&expected, current, events);
    extended
}

fn assert_whole(op: &Op, current: &Saga, events: &[SagaEvent]) {
    let last = events.last().expect("a change has an event");
    assert!(op.explains(events), "{op:?} does not explain {events:?}");
    assert!(last.revision <= current.revision, "{last:?} {current:?}");
    let is_last = last.revision == current.revision;
    assert!(!is_last || last.to_state == current.state, "the event and the state differ: {last:?} {current:?}");
}

/// Repeats a call: it is answered as a repeat, or executed now, but never both. It may be refused, such as after an expiry.
async fn repeat(sagas: &mut Sagas, client: &mut TortureClient, op: &Op, happened: bool) {
    let mut before = HashMap::new();
    for task_id in op.tasks() {
        let events = history(sagas, &task_id, 0).await;
        before.insert(task_id, events.iter().filter(|event| !is_by_itself(event)).count());
    }
    let answered = op.send(sagas).await;
    if let Err(status) = &answered {
        assert!(!crate::support::reason(status).is_empty(), "{op:?}: {status:?}");
        assert_ne!(status.code(), Code::AlreadyExists, "a repeat is recognized by its request_id: {op:?} {status:?}");
    }
    let mut grown = 0;
    for task_id in op.tasks() {
        let Some(current) = get(sagas, &task_id).await else { continue };
        let events = history(sagas, &task_id, 0).await;
        let count = events.iter().filter(|event| !is_by_itself(event)).count();
        grown += usize::from(count > before[&task_id]);
        client.learn(current);
    }
    assert!(!happened || grown == 0, "it happened twice: {op:?}");
    if let Ok(Answer::Sagas(answer)) = answered {
        assert!(answer.iter().all(|saga| client.known[&saga.task_id].revision >= saga.revision), "{op:?}");
    }
}

/// The present saga, and its events since the record, without expiries.
async fn look(sagas: &mut Sagas, known: &Saga) -> (Saga, Vec<SagaEvent>) {
    let current = get(sagas, &known.task_id).await.unwrap_or_else(|| panic!("an acknowledged saga is lost: {known:?}"));
    assert!(current.revision >= known.revision, "a revision was lost: {known:?} {current:?}");
    let mut events = history(sagas, &known.task_id, known.revision).await;
    events.retain(|event| !is_by_itself(event));
    (current, events)
}

/// True for events without a call: an expiry, and the compensation of a cancelled saga that follows it.
fn is_by_itself(event: &SagaEvent) -> bool {
    event.r#type() == EventType::LeaseExpired || event.actor == "sagad"
}

/// Asserts that a saga was changed only by time.
fn assert_same(known: &Saga, current: &Saga, events: &[SagaEvent]) {
    let mut expected = known.clone();
    let ran_out = current.revision > known.revision;
    assert!(!ran_out || events.is_empty());
    if ran_out {
        expected.revision = current.revision;
        expected.update_time = current.update_time;
        expected.expirations = current.expirations;
        if known.cancel_requested && current.state() == SagaState::Compensating {
            expected.state = current.state;
        }
    }
    expected.stale = current.stale;
    if let (Some(lease), Some(now)) = (&mut expected.lease, &current.lease) {
        // An ended lease stays ended; another may have expired since, or has a grace after a start.
        if matches!(lease.standing(), LeaseStanding::Held | LeaseStanding::Expired) {
            let ended = now.standing() == LeaseStanding::EndedByHolder;
            assert!(!ended, "no acknowledged call ended the lease: {now:?}");
            lease.standing = now.standing;
            lease.effective_expire_time = now.effective_expire_time;
        }
    }
    // A lease that is over is not shown.
    expected.not_before = expected.not_before.filter(|_| current.not_before.is_some());
    assert_eq!(&expected, current, "the acknowledged state and the present one");
}

/// The saga as a list shows it.
fn without_contents(saga: &Saga) -> Saga {
    Saga { payload: Default::default(), progress: Default::default(), result: Default::default(), ..saga.clone() }
}

pub async fn get(sagas: &mut Sagas, task_id: &str) -> Option<Saga> {
    let request = GetSagaRequest { task_id: task_id.into(), ..GetSagaRequest::default() };
    match sagas.get_saga(request).await {
        Ok(answer) => answer.into_inner().saga,
        Err(status) if status.code() == Code::NotFound => None,
        Err(status) => panic!("{task_id} can't be read: {status:?}"),
    }
}

/// All sagas, without their contents.
pub async fn list(sagas: &mut Sagas) -> HashMap<String, Saga> {
    let mut request = ListSagasRequest { page_size: 1000, ..ListSagasRequest::default() };
    let mut all = HashMap::new();
    loop {
        let page = sagas.list_sagas(request.clone()).await.expect("the sagas are listed").into_inner();
        for saga in page.sagas {
            let again = all.insert(saga.task_id.clone(), saga);
            assert!(again.is_none(), "listed twice: {again:?}");
        }
        if page.next_page_token.is_empty() {
            return all;
        }
        request.page_token = page.next_page_token;
    }
}

/// A saga's events above a revision.
pub async fn history(sagas: &mut Sagas, task_id: &str, after: i64) -> Vec<SagaEvent> {
    let mut request = ListEventsRequest { task_id: task_id.into(), page_size: 1000, ..ListEventsRequest::default() };
    let mut events = Vec::new();
    loop {
        let page = match sagas.list_events(request.clone()).await {
            Ok(page) => page.into_inner(),
            Err(status) if status.code() == Code::NotFound => return events,
            Err(status) => panic!("the history of {task_id} can't be read: {status:?}"),
        };
        events.extend(page.events.into_iter().filter(|event| event.revision > after));
        if page.next_page_token.is_empty() {
            return events;
        }
        request.page_token = page.next_page_token;
    }
}
