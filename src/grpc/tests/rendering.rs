//! Sagas, leases and events as clients see them.

use std::sync::Arc;

use crate::{
    domain::{
        bounds::ANSWER_BYTES,
        compensation::{Compensation, CompensationSpec},
        ids::{OwnerId, Revision},
        lease::RestartGrace,
        saga::{CancelRequest, Reservation, Saga, Spec, State},
        text::{Actor, Blob, Kind, Text},
        time::{Span, Timestamp},
    },
    grpc::{
        pages,
        parse::queries,
        render::saga::{saga, sagas, summary},
    },
    proto,
    store::{
        ReadTime, Store,
        memory::{
            Memory,
            testing::{planned, running},
        },
    },
};

const THEN: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

fn at(seconds: u32) -> ReadTime {
    ReadTime { now: THEN.plus(Span::from_secs(seconds)), grace: RestartGrace::default() }
}

#[test]
fn stale_is_computed_at_the_time_of_the_read() {
    let running = running("t", "q", None);
    assert!(!saga(&running, &at(29)).stale);
    assert!(saga(&running, &at(30)).stale);
    let graced = RestartGrace { returned_at: at(29).now, length: Span::from_secs(10) };
    assert!(!saga(&running, &ReadTime { grace: graced, ..at(35) }).stale);
    assert!(saga(&running, &ReadTime { grace: graced, ..at(39) }).stale);
}

#[test]
fn the_standing_of_a_lease_agrees_with_the_rules() {
    use crate::{domain::lease::HolderEnd, domain::lease::Standing, proto::LeaseStanding};
    let held = running("t", "q", None);
    let with = |standing: Standing| {
        let lease = crate::domain::lease::Lease { standing, ..held.lease.clone().unwrap() };
        Saga { lease: Some(lease), ..held.clone() }
    };
    let told = |one: &Saga, read_time: &ReadTime| {
        let shown = saga(one, read_time);
        let lease = shown.lease.unwrap();
        assert_eq!(shown.stale, lease.standing() == LeaseStanding::Expired, "stale is what has run out");
        (lease.standing(), lease.effective_expire_time.map(|time| time.seconds - 1_700_000_000))
    };
    assert_eq!(told(&held, &at(29)), (LeaseStanding::Held, Some(30)));
    assert_eq!(told(&held, &at(30)), (LeaseStanding::Expired, Some(30)), "before any sweep has noticed");
    let graced = RestartGrace { returned_at: at(29).now, length: Span::from_secs(10) };
    assert_eq!(told(&held, &ReadTime { grace: graced, ..at(35) }), (LeaseStanding::Held, Some(39)));
    assert_eq!(told(&held, &ReadTime { grace: graced, ..at(39) }), (LeaseStanding::Expired, Some(39)));
    // Once it was noticed as expired, a later absence changes nothing.
    let expired = with(Standing::Expired { at: at(30).now, revision: Revision(5) });
    let later = RestartGrace { returned_at: at(50).now, length: Span::from_secs(10) };
    assert_eq!(told(&expired, &ReadTime { grace: later, ..at(55) }), (LeaseStanding::Expired, Some(30)));
    let ended = with(Standing::EndedByHolder(HolderEnd::Released));
    assert_eq!(told(&ended, &at(0)), (LeaseStanding::EndedByHolder, None));
    assert_eq!(told(&with(Standing::EndedByOther), &at(0)), (LeaseStanding::EndedByOther, None));
}

#[test]
fn a_lease_advises_how_often_to_heartbeat() {
    let lease = saga(&running("t", "q", None), &at(0)).lease.unwrap();
    assert_eq!((lease.owner_id.as_str(), lease.fencing_token), ("worker-1", 1));
    assert_eq!(lease.heartbeat_interval, Some(prost_types::Duration { seconds: 10, nanos: 0 }));
    assert_eq!(lease.purpose(), proto::LeasePurpose::Execute);
}

#[test]
fn a_reservation_is_shown_while_dispatched() {
    let reservation = Reservation { assignee: OwnerId::parse("w").unwrap(), expire_time: at(5).now };
    let dispatched = Saga { state: State::Dispatched, reservation: Some(reservation), ..planned("t", "q") };
    let shown = saga(&dispatched, &at(0));
    assert_eq!((shown.assignee.as_str(), shown.dispatch_expire_time.unwrap().seconds), ("w", 1_700_000_005));
    let shown = saga(&Saga { state: State::Running, ..dispatched }, &at(0));
    assert_eq!((shown.assignee.as_str(), shown.dispatch_expire_time), ("", None));
}

#[test]
fn an_absent_terminal_reason_is_the_name_of_the_state() {
    let ended = |state, reason: Option<&str>| {
        let terminal_reason = reason.map(|reason| Text::parse(reason).unwrap());
        saga(&Saga { state, terminal_reason, ..planned("t", "q") }, &at(0)).terminal_reason
    };
    assert_eq!(ended(State::Completed, None), "COMPLETED");
    assert_eq!(ended(State::Quarantined, Some("")), "QUARANTINED");
    assert_eq!(ended(State::Failed, Some("out of disk")), "out of disk");
    assert_eq!(ended(State::Running, None), "");
}

#[test]
fn absent_fields_stay_absent_and_the_policy_is_complete() {
    let shown = saga(&planned("t", "q"), &at(0));
    assert_eq!((shown.lease, shown.end_time, shown.not_before, shown.issue), (None, None, None, None));
    assert!(!shown.cancel_requested);
    let policy = shown.policy.unwrap();
    assert_eq!((policy.on_stale(), policy.max_attempts), (proto::StaleAction::Hold, 1));
    assert_eq!(policy.compensation_timeout.unwrap().seconds, 86_400);
    assert_eq!((policy.execution_timeout, policy.progress_timeout), (None, None));

    let cancel = CancelRequest { actor: Actor::parse("Jo").unwrap(), reason: Text::parse("why").unwrap() };
    let shown = saga(&Saga { cancel: Some(cancel), ..planned("t", "q") }, &at(0));
    assert_eq!((shown.cancel_requested, shown.cancel_reason.as_str()), (true, "why"));
}

/// A saga of about the largest size.
fn large(task_id: &str) -> Saga {
    let text = |fill: &str| Text::parse(&fill.repeat(4096)).unwrap();
    let compensations = (1..=128)
        .map(|position| {
            let kind = Kind::parse("k").unwrap();
            Compensation::pending(position, CompensationSpec { kind, target: text("t"), reason: text("r") }, None)
        })
        .collect();
    let small = planned(task_id, "q");
    let blob = || Blob::parse(vec![7; 64 * 1024].into()).unwrap();
    let spec = Spec { payload: blob(), ..Spec::clone(&small.spec) };
    Saga { spec: Arc::new(spec), compensations, progress: blob(), result: blob(), ..small }
}

#[test]
fn lists_omit_contents() {
    use prost::Message;
    let large = large("t");
    let (whole, entry) = (saga(&large, &at(0)), summary(&large, &at(0)));
    assert_eq!((whole.payload.len(), whole.progress.len(), whole.result.len()), (65_536, 65_536, 65_536));
    assert_eq!((entry.payload.len(), entry.progress.len(), entry.result.len()), (0, 0, 0));
    assert!(whole.encoded_len() < ANSWER_BYTES);
}

#[test]
fn the_answer_to_a_repeat_fits_however_its_sagas_have_grown() {
    use prost::Message;
    let bytes_only = |task_id: &str| Saga { compensations: Vec::new(), ..large(task_id) };
    let grown =
        |count: usize, one: &dyn Fn(&str) -> Saga| -> Vec<Saga> { (0..count).map(|i| one(&format!("t{i}"))).collect() };
    for (sagas_now, shown_as) in [
        (grown(2, &large), (65_536, 128, "q")),
        (grown(20, &bytes_only), (65_536, 0, "q")),
        (grown(60, &bytes_only), (0, 0, "q")),
        (grown(100, &large), (0, 0, "")),
    ] {
        let shown = sagas(&sagas_now, &at(0));
        assert_eq!(shown.len(), sagas_now.len(), "one for each");
        let first = &shown[0];
        assert_eq!((first.payload.len(), first.compensations.len(), first.queue.as_str()), shown_as);
        assert!(shown.iter().all(|shown| shown.contents_omitted == shown.result.is_empty()), "it says so");
        let answer = proto::BatchCreateSagasResponse { sagas: shown };
        assert!(answer.encoded_len() <= ANSWER_BYTES);
    }
}

fn open(sagas: Vec<Saga>) -> Store {
    let memory = Memory::default();
    memory.put(sagas);
    memory.read_only_store()
}

async fn list_all(store: &Store, filter: proto::ListSagasRequest) -> (Vec<String>, usize) {
    use prost::Message;
    let (mut seen, mut pages, mut page_token) = (Vec::new(), 0, String::new());
    loop {
        let request = proto::ListSagasRequest { page_token, ..filter.clone() };
        let page = pages::sagas(store, queries::list_sagas(request).unwrap()).await.unwrap();
        assert!(page.encoded_len() <= ANSWER_BYTES, "{}", page.encoded_len());
        seen.extend(page.sagas.into_iter().map(|saga| saga.task_id));
        pages += 1;
        if page.next_page_token.is_empty() {
            return (seen, pages);
        }
        page_token = page.next_page_token;
    }
}

#[tokio::test]
async fn a_page_ends_at_the_size_limit() {
    let names: Vec<String> = (0..10).map(|i| format!("t{i}")).collect();
    let store = open(names.iter().map(|name| large(name)).collect());
    let (seen, pages) = list_all(&store, proto::ListSagasRequest::default()).await;
    assert_eq!(seen, names);
    assert_eq!(pages, 5, "two fit into each");

    let names: Vec<String> = (0..2500).map(|i| format!("t{i}")).collect();
    let store = open(names.iter().map(|name| planned(name, "q")).collect());
    for (page_size, expected) in [(0, 25), (1000, 3), (999, 3), (1, 2500)] {
        let request = proto::ListSagasRequest { page_size, ..Default::default() };
        let (seen, pages) = list_all(&store, request).await;
        assert_eq!((seen.len(), pages), (2500, expected));
        assert_eq!(seen, names);
    }
}

#[tokio::test]
async fn a_history_is_listed_in_pages() {
    use crate::domain::event::{Event, EventType};
    let memory = Memory::default();
    let saga = planned("t", "q");
    let event = |revision: i64| Event {
        revision: Revision(revision),
        task_id: saga.spec.task_id.clone(),
        saga_id: saga.spec.saga_id.clone(),
        queue: saga.spec.queue.clone(),
        time: THEN,
        kind: EventType::Annotated,
        actor: None,
        reason: "r".repeat(4096).into(),
        from_state: None,
        to_state: State::Planned,
        token: None,
        details: Default::default(),
        mark: None,
    };
    memory.put([saga.clone()]);
    memory.append((1..=2000).map(event));
    memory.compact(Revision(1500));
    let store = memory.read_only_store();
    let (mut seen, mut page_token) = (Vec::new(), String::new());
    loop {
        use prost::Message;
        let request = proto::ListEventsRequest { task_id: "t".into(), page_size: 1000, page_token };
        let page = pages::events(&store, queries::list_events(request).unwrap(), |_| true).await.unwrap();
        assert!(page.encoded_len() <= ANSWER_BYTES);
        seen.extend(page.events.into_iter().map(|event| event.revision));
        if page.next_page_token.is_empty() {
            break;
        }
        page_token = page.next_page_token;
    }
    assert_eq!(seen, (1..=2000).collect::<Vec<i64>>(), "whatever else is compacted");

    let request = proto::ListEventsRequest { task_id: "nobody".into(), ..Default::default() };
    let missing = pages::events(&store, queries::list_events(request).unwrap(), |_| true).await.unwrap_err();
    assert_eq!(missing.reason, "SAGA_NOT_FOUND");
}

/// Framed events equal the messages that used to be sent one by one, and are no larger than what `RecentEvents` counts for
/// them.
#[test]
fn p10_framed_events_are_complete_and_within_their_accounted_size() {
    use std::collections::BTreeMap;

    use prost::Message;

    use crate::{
        domain::{
            event::{Event, EventType},
            ids::{FencingToken, TaskId},
        },
        grpc::render::{event::event, watch::encode_run},
    };

    let event_of = |revision: i64, text: usize, details: usize| {
        let task_id = TaskId::parse(&"t".repeat(text.clamp(1, 200))).unwrap();
        let detail = |n: usize| (format!("k{n}"), "v".repeat(text));
        Arc::new(Event {
            revision: Revision(revision),
            saga_id: task_id.to_saga_id(),
            task_id,
            queue: Default::default(),
            time: THEN,
            kind: EventType::Annotated,
            actor: Some(Actor::parse("ann").unwrap()),
            reason: "r".repeat(text).into(),
            from_state: Some(State::Quarantined),
            to_state: State::Quarantined,
            token: Some(FencingToken(i64::MAX)),
            details: (0..details).map(detail).collect::<BTreeMap<_, _>>().into(),
            mark: None,
        })
    };
    let events = [event_of(1, 0, 0), event_of(i64::MAX, 1, 20), event_of(300, 4096, 5), event_of(301, 70_000, 0)];
    let run = encode_run(&events);
    let mut begin = 0;
    for (one, end) in events.iter().zip(&run.ends) {
        let frame = &run.bytes[begin..*end];
        assert!(frame.len() <= one.weight(), "{} of {}", frame.len(), one.weight());
        let length = u32::from_be_bytes(frame[1..5].try_into().unwrap());
        assert_eq!((frame[0], length as usize), (0, frame.len() - 5));
        let message = proto::WatchEventsResponse::decode(&frame[5..]).unwrap();
        assert_eq!(message.revision, one.revision.0);
        assert_eq!(message.item, Some(proto::watch_events_response::Item::Event(event(one))));
        begin = *end;
    }
    assert_eq!((begin, run.ends.len()), (run.bytes.len(), events.len()));
}
