//! Queues: pausing, resuming, lists and counts.

use sagad::{
    domain::{
        command::{Answer, ClaimNext, Command, QueueStatus, SetPaused},
        rejection::Rejection,
        saga::State,
    },
    store::QueueStats,
};

use super::{builders::*, test_store::TestStore};

on_every_backend! {
    claims_get_nothing_from_a_paused_queue
    claims_by_id_and_heartbeats_work_in_a_paused_queue
    the_last_pause_and_its_reason_are_kept
    a_queue_that_must_exist_is_not_created
    queues_are_listed_page_by_page
    sagas_are_counted_by_queue_and_state
    the_age_of_the_oldest_ready_saga_is_known
}

fn statuses(store: &TestStore) -> Vec<QueueStatus> {
    store.wait(store.handle.queues(None, 100)).unwrap()
}

fn counts(store: &TestStore) -> Vec<QueueStats> {
    store.wait(store.handle.stats()).unwrap().queues
}

fn claims_get_nothing_from_a_paused_queue(store: TestStore) {
    store.sagas(create([placed("a", "q", 0), placed("b", "p", -1), placed("c", "q", 0)]));
    store.saga(dispatch("c", "w", secs(600)));
    store.submit(pause("q", true)).unwrap();
    let all = ClaimNext { max_sagas: 10, ..next(&["q", "p"], "w") };
    assert_eq!(store.tasks(all.clone()), ["b"]);
    store.submit(pause("q", false)).unwrap();
    assert_eq!(store.tasks(all), ["c", "a"]);
}

fn claims_by_id_and_heartbeats_work_in_a_paused_queue(store: TestStore) {
    store.sagas(create([undoable("a", &["x"])]));
    store.submit(pause("q", true)).unwrap();
    let claimed = store.saga(claim("a", "w"));
    store.advance(secs(1));
    store.lease(heartbeat(&claimed));
    store.saga(complete(&claimed));
    let store = store.reopened();
    store.sagas(create([creation("b")]));
    assert_eq!(store.tasks(next(&["q"], "w")), [""; 0], "still paused after a restart");
}

fn the_last_pause_and_its_reason_are_kept(store: TestStore) {
    store.sagas(create([placed("a", "z", 0)]));
    let answer = store.submit(pause("never-used", true)).unwrap();
    let paused = QueueStatus {
        queue: queue("never-used"),
        paused: true,
        actor: Some(actor("op")),
        reason: text("rollout"),
        change_time: Some(store.now()),
    };
    assert_eq!(answer, Answer::Queue(paused.clone()));
    let plain = QueueStatus { queue: queue("z"), paused: false, actor: None, reason: text(""), change_time: None };
    assert_eq!(statuses(&store), [paused, plain.clone()]);
    store.advance(secs(1));
    store.submit(pause("never-used", false)).unwrap();
    let store = store.reopened();
    let all = statuses(&store);
    assert_eq!((all.len(), &all[1]), (2, &plain));
    assert!(!all[0].paused && all[0].change_time.unwrap() > super::test_store::START);
}

fn a_queue_that_must_exist_is_not_created(store: TestStore) {
    let must_exist = |name: &str, paused| {
        let Command::SetPaused(claim) = pause(name, paused) else { unreachable!() };
        Command::SetPaused(SetPaused { must_exist: true, ..claim })
    };
    for paused in [true, false] {
        let why = store.refusal(must_exist("q", paused));
        assert_eq!(why, Rejection::QueueNotFound { queue: queue("q") });
    }
    assert_eq!(statuses(&store), []);
    store.sagas(create([creation("a")]));
    store.submit(must_exist("q", true)).unwrap();
    assert!(statuses(&store)[0].paused);
    store.saga(cancel("a"));
    store.advance(secs(1));
    store.purged(purge(secs(0), 10));
    store.submit(must_exist("q", false)).expect("the queue exists although its last saga was purged");
}

fn queues_are_listed_page_by_page(store: TestStore) {
    let names = ["a", "a.b", "b", "B", "z"];
    store.sagas(create(names.map(|name| placed(name, name, 0))));
    let page = |after: Option<&str>, limit| {
        let found = store.wait(store.handle.queues(after.map(queue), limit)).unwrap();
        found.into_iter().map(|status| status.queue.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(page(None, 100), ["B", "a", "a.b", "b", "z"]);
    assert_eq!(page(None, 2), ["B", "a"]);
    assert_eq!(page(Some("a"), 2), ["a.b", "b"]);
    assert_eq!(page(Some("aa"), 1), ["b"], "after a name that does not exist");
    assert_eq!(page(Some("z"), 2), [""; 0]);
}

fn sagas_are_counted_by_queue_and_state(store: TestStore) {
    store.submit(pause("empty", true)).unwrap();
    store.sagas(create([
        placed("a", "q", 0),
        placed("b", "q", 0),
        placed("c", "q", 0),
        placed("d", "p", 0),
        placed("e", "p", 0),
    ]));
    store.sagas(create([undoable("f", &["x"])]));
    store.saga(claim("a", "w"));
    store.saga(dispatch("b", "w", secs(600)));
    store.saga(claim_undo("f", "w"));
    store.saga(quarantine("e"));
    store.advance(TTL);
    let all = counts(&store);
    let of = |name: &str| all.iter().find(|counts| counts.queue.as_str() == name).unwrap();
    assert_eq!(all.iter().map(|counts| counts.queue.as_str()).collect::<Vec<_>>(), ["empty", "p", "q"]);
    assert_eq!((of("empty").states.len(), of("empty").ready, of("empty").oldest_ready_age), (0, 0, None));
    assert_eq!(of("p").states, [(State::Planned, 1), (State::Quarantined, 1)]);
    assert_eq!(
        of("q").states,
        [(State::Planned, 1), (State::Dispatched, 1), (State::Running, 1), (State::Compensating, 1)]
    );
    assert_eq!((of("q").ready, of("q").stale, of("p").ready, of("p").stale), (1, 2, 1, 0));
    store.settle();
    let stats = store.wait(store.handle.stats()).unwrap();
    assert_eq!(stats.revision, store.history().last().unwrap().revision);
    assert_eq!((stats.waiting, stats.writer_queue_depth), (0, 0));
}

fn the_age_of_the_oldest_ready_saga_is_known(store: TestStore) {
    let mut late = creation("late");
    late.delay = secs(5);
    store.sagas(create([late]));
    assert_eq!(counts(&store)[0].oldest_ready_age, None);
    store.advance(secs(7));
    assert_eq!(counts(&store)[0].oldest_ready_age, Some(secs(2)));
    store.sagas(create([creation("now")]));
    store.advance(secs(1));
    assert_eq!(counts(&store)[0].oldest_ready_age, Some(secs(3)));
    store.saga(claim("late", "w"));
    assert_eq!(counts(&store)[0].oldest_ready_age, Some(secs(1)));
}
