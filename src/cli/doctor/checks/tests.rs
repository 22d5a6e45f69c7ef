//! Each check on facts: silent on good ones, and loud on its own bad ones alone.

use std::time::Duration;

use super::{
    super::{facts::DoctorFacts, finding::Severity},
    ALL, queues,
};
use crate::proto::{
    AskedKind, ClockVitals, Compensation, Disk, GetServerInfoResponse, GetStatsResponse, GetVitalsResponse, Lease,
    LeasePurpose, Log, Policy, QueueStats, Refusals, Saga, SagaState, StaleWatches, StateCount, Timings,
};

const NOW: i64 = 1_000_000;

fn stamp(ago: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds: NOW - ago, nanos: 0 })
}

fn span(millis: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds: millis / 1000, nanos: (millis % 1000) as i32 * 1_000_000 })
}

/// A busy daemon with which all is well: a backlog that somebody works on, a saga that is being undone.
fn healthy() -> DoctorFacts {
    let queue = QueueStats {
        queue: "builds".to_owned(),
        ready: 300,
        stale: 1,
        oldest_ready_age: span(3_600_000),
        states: vec![StateCount { state: SagaState::Completed.into(), count: 1_000_000 }],
        ..QueueStats::default()
    };
    let vitals = GetVitalsResponse {
        commits: Some(Timings { count: 9_000, p50: span(1), p99: span(20), max: span(300) }),
        writer_queue_depth: 40,
        writer_queue_max: 4096,
        writer_silence: span(250),
        refusals: Some(Refusals::default()),
        log: Some(Log { bytes: 20 << 20, max_bytes: 64 << 20, restarts: 5, ..Log::default() }),
        disk: Some(Disk { free_bytes: 50 << 30, total_bytes: 100 << 30, store_bytes: 1 << 30 }),
        clock: Some(ClockVitals::default()),
        stale_watches: vec![StaleWatches { queue: "builds".to_owned(), count: 1 }],
        asked_kinds: vec![AskedKind { queue: "builds".to_owned(), kind: "branch".to_owned(), last_time: stamp(3000) }],
        open_files: 200,
        open_files_max: 1024,
        ..GetVitalsResponse::default()
    };
    DoctorFacts {
        client_version: "1".to_owned(),
        info: GetServerInfoResponse {
            version: "1".to_owned(),
            current_time: stamp(0),
            clock_offset: span(40),
            ..GetServerInfoResponse::default()
        },
        vitals_before: Some(vitals.clone()),
        vitals: Some(vitals),
        stats: GetStatsResponse { queues: vec![queue], ..GetStatsResponse::default() },
        compensating: vec![undoing(600)],
        dispatched: vec![saga("dispatched", SagaState::Dispatched, 5)],
        worked_on: [("builds".to_owned(), true)].into(),
        patience: Duration::from_secs(60),
        ..DoctorFacts::default()
    }
}

fn lease(ended_ago: i64, purpose: LeasePurpose) -> Option<Lease> {
    Some(Lease {
        owner_id: "w-1".to_owned(),
        expire_time: stamp(ended_ago),
        purpose: purpose.into(),
        ..Lease::default()
    })
}

fn saga(id: &str, state: SagaState, changed_ago: i64) -> Saga {
    let (task_id, queue, update_time) = (id.to_owned(), "builds".to_owned(), stamp(changed_ago));
    Saga { task_id, queue, state: state.into(), update_time, ..Saga::default() }
}

fn undoing(changed_ago: i64) -> Saga {
    let compensation = Compensation { position: 1, kind: "branch".to_owned(), state: 1, ..Compensation::default() };
    let policy = Some(Policy { compensation_timeout: span(86_400_000), ..Policy::default() });
    Saga { compensations: vec![compensation], policy, ..saga("undoing", SagaState::Compensating, changed_ago) }
}

/// What is found after a change of the healthy facts: which checks, and how bad.
fn found(change: impl FnOnce(&mut DoctorFacts)) -> Vec<(&'static str, Severity)> {
    let mut facts = healthy();
    change(&mut facts);
    let findings = ALL.iter().flat_map(|(name, check)| {
        let findings = check(&facts);
        assert!(findings.iter().all(|finding| finding.check == *name), "{findings:?}");
        findings
    });
    findings.map(|finding| (finding.check, finding.severity)).collect()
}

fn vitals(facts: &mut DoctorFacts) -> &mut GetVitalsResponse {
    facts.vitals.as_mut().expect("set")
}

#[test]
fn doctor_finds_nothing_on_a_healthy_busy_daemon() {
    assert_eq!(found(|_| {}), []);
}

#[test]
fn checks_of_the_daemon_report_each_problem() {
    use Severity::{Note, Problem, Warning};
    assert_eq!(found(|f| f.info.version = "2".to_owned()), [("version", Warning)]);
    assert_eq!(found(|f| vitals(f).writer_silence = span(9_000)), [("writer", Problem)]);
    assert_eq!(found(|f| vitals(f).writer_queue_depth = 3_000), [("overload", Problem)]);
    let refusals = || Some(Refusals { queue_full: 7, ..Refusals::default() });
    assert_eq!(found(|f| vitals(f).refusals = refusals()), [("overload", Problem)], "refusals between the two samples");
    let before = found(|f| {
        vitals(f).refusals = refusals();
        f.vitals_before = f.vitals.clone();
    });
    assert_eq!(before, [("overload", Note)], "refusals before the first sample");
    assert_eq!(found(|f| f.info.clock_offset = span(-5_000)), [("clock", Warning)]);
    assert_eq!(found(|f| f.info.clock_offset = span(3_600_000)), [("clock", Problem)]);
    let stepped =
        |ago| ClockVitals { steps: 2, last_step: span(-90_000), last_step_time: stamp(ago), ..Default::default() };
    assert_eq!(found(|f| vitals(f).clock = Some(stepped(60))), [("clock", Note)]);
    assert_eq!(found(|f| vitals(f).clock = Some(stepped(7_200))), []);
    let away = |ago| ClockVitals { absences: 1, last_absence_time: stamp(ago), ..ClockVitals::default() };
    assert_eq!(found(|f| vitals(f).clock = Some(away(60))), [("absences", Warning)]);
    assert_eq!(found(|f| vitals(f).clock = Some(away(7_200))), []);
    assert_eq!(found(|f| vitals(f).restart_grace_left = span(900)), [("grace", Note)]);
    assert_eq!(found(|f| vitals(f).open_files = 900), [("open-files", Warning)]);
    assert_eq!(found(|f| vitals(f).open_files = 1_000), [("open-files", Problem)]);
}

#[test]
fn checks_of_the_disk_report_each_problem() {
    use Severity::{Note, Problem, Warning};
    let commits = |count, p99, max| Some(Timings { count, p50: span(1), p99: span(p99), max: span(max) });
    assert_eq!(found(|f| vitals(f).commits = commits(0, 0, 0)), [("disk-speed", Note)]);
    assert_eq!(found(|f| vitals(f).commits = commits(9, 80, 90)), [("disk-speed", Warning)]);
    assert_eq!(found(|f| vitals(f).commits = commits(9, 20, 1_500)), [("disk-speed", Warning)]);
    assert_eq!(found(|f| vitals(f).commits = commits(9, 700, 900)), [("disk-speed", Problem)]);
    let disk = |free: i64, store: i64| Some(Disk { free_bytes: free, total_bytes: 100 << 30, store_bytes: store });
    assert_eq!(found(|f| vitals(f).disk = disk(100 << 20, 1 << 20)), [("disk-space", Problem)]);
    assert_eq!(found(|f| vitals(f).disk_full = true), [("disk-space", Problem)]);
    assert_eq!(found(|f| vitals(f).disk = disk(1 << 30, 1 << 20)), [("disk-space", Warning)]);
    assert_eq!(found(|f| vitals(f).disk = disk(10 << 30, 15 << 30)), [("disk-space", Warning)]);
    let log = |bytes: i64, blocked_restarts| Log { bytes, max_bytes: 64 << 20, blocked_restarts, ..Log::default() };
    assert_eq!(found(|f| vitals(f).log = Some(log(70 << 20, 3))), [("wal", Problem)]);
    assert_eq!(found(|f| vitals(f).log = Some(log(70 << 20, 0))), [("wal", Note)]);
    assert_eq!(found(|f| vitals(f).log = Some(log(10 << 20, 3))), [], "the log was restarted since");
    assert_eq!(found(|f| f.stats.queues[0].states[0].count = 9_000_000), [("store-size", Warning)]);
}

#[test]
fn checks_of_the_queues_report_each_problem() {
    use Severity::{Problem, Warning};
    assert_eq!(found(|f| f.worked_on = [("builds".to_owned(), false)].into()), [("stuck-queue", Problem)]);
    let young = found(|f| {
        f.worked_on = [("builds".to_owned(), false)].into();
        f.stats.queues[0].oldest_ready_age = span(2_000);
    });
    assert_eq!(young, [], "the queue became ready too recently");
    assert_eq!(found(|f| f.stats.queues[0].paused = true), [("paused-queue", Warning)]);
    assert_eq!(found(|f| f.dispatched = vec![saga("d", SagaState::Dispatched, 90)]), [("dispatched", Warning)]);

    // Of many queues, the ten with the most ready sagas are shown. The others are counted.
    let mut facts = healthy();
    let queue = |ready: i64| QueueStats { queue: format!("q-{ready}"), paused: true, ready, ..QueueStats::default() };
    facts.stats.queues = (0..30).map(queue).collect();
    let told = queues::paused(&facts);
    assert_eq!(told.len(), 10);
    assert!(told[0].seen.starts_with("queue q-29 "), "{}", told[0].seen);
    assert!(told[9].seen.ends_with("(and 19 more like this are not shown)"), "{}", told[9].seen);
    assert!(told[..9].iter().all(|finding| !finding.seen.contains("not shown")));
}

#[test]
fn checks_of_recovery_report_each_problem() {
    use Severity::{Problem, Warning};
    let stale = |ago| Saga {
        stale: true,
        lease: lease(ago, LeasePurpose::Execute),
        ..saga(&format!("stale-{ago}"), SagaState::Running, ago)
    };
    let watches = |queue: &str| vec![StaleWatches { queue: queue.to_owned(), count: 1 }];
    for watched in [watches("builds"), watches("other"), watches(""), Vec::new()] {
        let told = watched.iter().any(|watch| watch.queue != "other");
        let mut facts = healthy();
        facts.stale = vec![stale(100), stale(5)];
        vitals(&mut facts).stale_watches = watched;
        let finding = super::recovery::stale(&facts).remove(0);
        assert_eq!(finding.severity, Problem, "with or without a watcher");
        assert_eq!(finding.seen.contains("a WatchStale stream tells somebody"), told, "{}", finding.seen);
        let told =
            "1 saga of queue builds has been stale for 1m or longer, and 1 more for less than that; stale-100 of w-1";
        assert!(finding.seen.starts_with(told), "{}", finding.seen);
        assert!(!finding.mend.contains("sagad watch"), "a watch recovers nothing: {}", finding.mend);
    }
    assert_eq!(found(|f| f.stale = vec![stale(5)]), [("stale", Severity::Note)], "a few seconds are worth a note only");

    let asked =
        |queue: &str, kind: &str| vec![AskedKind { queue: queue.into(), kind: kind.into(), last_time: stamp(9) }];
    assert_eq!(found(|f| vitals(f).asked_kinds.clear()), [("compensation-kinds", Problem)]);
    assert_eq!(found(|f| vitals(f).asked_kinds = asked("builds", "worktree")), [("compensation-kinds", Problem)]);
    assert_eq!(found(|f| vitals(f).asked_kinds = asked("other", "branch")), [("compensation-kinds", Problem)]);
    assert_eq!(found(|f| vitals(f).asked_kinds = asked("builds", "")), [], "a claim without kinds accepts every kind");
    let live = found(|f| {
        vitals(f).asked_kinds.clear();
        f.compensating[0].lease = lease(-30, LeasePurpose::Compensate);
    });
    assert_eq!(live, [], "a worker holds the lease");
    assert_eq!(found(|f| f.compensating = vec![undoing(80_000)]), [("compensation-timeout", Problem)]);
    let parked = StateCount { state: SagaState::Quarantined.into(), count: 2 };
    assert_eq!(found(|f| f.stats.queues[0].states.push(parked)), [("quarantined", Warning)]);
}

#[test]
fn a_daemon_without_vitals_gets_only_the_version_warning() {
    assert_eq!(found(|f| f.vitals = None), [("version", Severity::Warning)]);
}

#[test]
fn check_names_are_unique() {
    let mut names: Vec<_> = ALL.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), ALL.len());
}
