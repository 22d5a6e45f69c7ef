//! Queues that are paused and resumed, and what is counted in them.

use sagad::{
    domain::{
        command::{Answer, ClaimNext, Command, QueueStatus, SetPaused},
        rejection::Rejection,
        saga::State,
    },
    store::QueueStats,
};

use super::{bench::Bench, build::*};

on_every_backend! {
    a_paused_queue_gives_nothing
    claims_by_id_and_heartbeats_go_on
    the_last_word_is_kept
    one_that_must_exist_is_not_made
    they_are_listed_page_by_page
    everything_is_counted
    the_oldest_ready_one_is_timed
}

fn statuses(bench: &Bench) -> Vec<QueueStatus> {
    bench.wait(bench.store.queues(None, 100)).unwrap()
}

fn counts(bench: &Bench) -> Vec<QueueStats> {
    bench.wait(bench.store.stats()).unwrap().queues
}

fn a_paused_queue_gives_nothing(bench: Bench) {
    bench.sagas(create([placed("a", "q", 0), placed("b", "p", -1), placed("c", "q", 0)]));
    bench.saga(dispatch("c", "w", secs(600)));
    bench.submit(pause("q", true)).unwrap();
    let all = ClaimNext { max_sagas: 10, ..next(&["q", "p"], "w") };
    assert_eq!(bench.tasks(all.clone()), ["b"]);
    bench.submit(pause("q", false)).unwrap();
    assert_eq!(bench.tasks(all), ["c", "a"]);
}

fn claims_by_id_and_heartbeats_go_on(bench: Bench) {
    bench.sagas(create([undoable("a", &["x"])]));
    bench.submit(pause("q", true)).unwrap();
    let claimed = bench.saga(claim("a", "w"));
    bench.advance(secs(1));
    bench.lease(heartbeat(&claimed));
    bench.saga(complete(&claimed));
    let bench = bench.reopened();
    bench.sagas(create([creation("b")]));
    assert_eq!(bench.tasks(next(&["q"], "w")), [""; 0], "paused still, after a restart");
}

fn the_last_word_is_kept(bench: Bench) {
    bench.sagas(create([placed("a", "z", 0)]));
    let answer = bench.submit(pause("never-used", true)).unwrap();
    let paused = QueueStatus {
        queue: queue("never-used"),
        paused: true,
        actor: Some(actor("op")),
        reason: text("rollout"),
        change_time: Some(bench.now()),
    };
    assert_eq!(answer, Answer::Queue(paused.clone()));
    let plain = QueueStatus { queue: queue("z"), paused: false, actor: None, reason: text(""), change_time: None };
    assert_eq!(statuses(&bench), [paused, plain.clone()]);
    bench.advance(secs(1));
    bench.submit(pause("never-used", false)).unwrap();
    let bench = bench.reopened();
    let all = statuses(&bench);
    assert_eq!((all.len(), &all[1]), (2, &plain));
    assert!(!all[0].paused && all[0].change_time.unwrap() > super::bench::START);
}

fn one_that_must_exist_is_not_made(bench: Bench) {
    let must_exist = |name: &str, paused| {
        let Command::SetPaused(claim) = pause(name, paused) else { unreachable!() };
        Command::SetPaused(SetPaused { must_exist: true, ..claim })
    };
    for paused in [true, false] {
        let why = bench.refusal(must_exist("q", paused));
        assert_eq!(why, Rejection::QueueNotFound { queue: queue("q") });
    }
    assert_eq!(statuses(&bench), []);
    bench.sagas(create([creation("a")]));
    bench.submit(must_exist("q", true)).unwrap();
    assert!(statuses(&bench)[0].paused);
    bench.saga(cancel("a"));
    bench.advance(secs(1));
    bench.purged(purge(secs(0), 10));
    bench.submit(must_exist("q", false)).expect("it is known though its last saga is gone");
}

fn they_are_listed_page_by_page(bench: Bench) {
    let names = ["a", "a.b", "b", "B", "z"];
    bench.sagas(create(names.map(|name| placed(name, name, 0))));
    let page = |after: Option<&str>, limit| {
        let found = bench.wait(bench.store.queues(after.map(queue), limit)).unwrap();
        found.into_iter().map(|status| status.queue.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(page(None, 100), ["B", "a", "a.b", "b", "z"]);
    assert_eq!(page(None, 2), ["B", "a"]);
    assert_eq!(page(Some("a"), 2), ["a.b", "b"]);
    assert_eq!(page(Some("aa"), 1), ["b"], "behind one that is not there");
    assert_eq!(page(Some("z"), 2), [""; 0]);
}

fn everything_is_counted(bench: Bench) {
    bench.submit(pause("empty", true)).unwrap();
    bench.sagas(create([
        placed("a", "q", 0),
        placed("b", "q", 0),
        placed("c", "q", 0),
        placed("d", "p", 0),
        placed("e", "p", 0),
    ]));
    bench.sagas(create([undoable("f", &["x"])]));
    bench.saga(claim("a", "w"));
    bench.saga(dispatch("b", "w", secs(600)));
    bench.saga(claim_undo("f", "w"));
    bench.saga(park("e"));
    bench.advance(TTL);
    let all = counts(&bench);
    let of = |name: &str| all.iter().find(|counts| counts.queue.as_str() == name).unwrap();
    assert_eq!(all.iter().map(|counts| counts.queue.as_str()).collect::<Vec<_>>(), ["empty", "p", "q"]);
    assert_eq!((of("empty").states.len(), of("empty").ready, of("empty").oldest_ready_age), (0, 0, None));
    assert_eq!(of("p").states, [(State::Planned, 1), (State::Quarantined, 1)]);
    assert_eq!(
        of("q").states,
        [(State::Planned, 1), (State::Dispatched, 1), (State::Running, 1), (State::Compensating, 1)]
    );
    assert_eq!((of("q").ready, of("q").stale, of("p").ready, of("p").stale), (1, 2, 1, 0));
    bench.settle();
    let stats = bench.wait(bench.store.stats()).unwrap();
    assert_eq!(stats.revision, bench.history().last().unwrap().revision);
    assert_eq!((stats.waiting, stats.writer_queue_depth), (0, 0));
}

fn the_oldest_ready_one_is_timed(bench: Bench) {
    let mut late = creation("late");
    late.delay = secs(5);
    bench.sagas(create([late]));
    assert_eq!(counts(&bench)[0].oldest_ready_age, None);
    bench.advance(secs(7));
    assert_eq!(counts(&bench)[0].oldest_ready_age, Some(secs(2)));
    bench.sagas(create([creation("now")]));
    bench.advance(secs(1));
    assert_eq!(counts(&bench)[0].oldest_ready_age, Some(secs(3)));
    bench.saga(claim("late", "w"));
    assert_eq!(counts(&bench)[0].oldest_ready_age, Some(secs(1)));
}
