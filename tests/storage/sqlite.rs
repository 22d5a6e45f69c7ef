//! Tests of the SQLite backend only: reopening, crashes, foreign files, damage, and its log.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use rusqlite::Connection;
use sagad::{
    clock::{Clock, ManualClock},
    domain::{
        command::{ClaimNext, Creation, Request},
        ids::{Revision, TaskId},
        rejection::Rejection,
        saga::State,
        text::Blob,
        time::Timestamp,
    },
    store::{
        EventQuery, PageBounds, SagaKey, Store, StoreError, StoreOptions, WriterThread,
        sqlite::{self, open_error::OpenError},
    },
};
use tempfile::TempDir;

use super::{
    builders::*,
    test_store::{START, StoreSetup, TestStore},
};

const HUGE: Revision = Revision(i64::MAX);

/// Creates sagas in every state.
pub fn populate(store: &TestStore) {
    let mut rich = undoable("rich", &["x", "y"]);
    rich.labels = labels(&[("team", "a")]);
    rich.payload = blob("payload");
    store.sagas(create([rich, undoable("undoing", &["x"]), undoable("done", &["x"]), creation("parked")]));
    store.sagas(create(["planned", "reserved", "stale"].map(creation)));
    let rich = store.saga(claim("rich", "w"));
    let operation =
        sagad::domain::command::HolderOperation::Heartbeat { ttl: Some(secs(90)), progress: Some(blob("half")) };
    store.lease(held(&rich, operation));
    store.saga(register(&rich, &["z"]));
    store.saga(claim_undo("undoing", "w"));
    let done = store.saga(claim("done", "w"));
    store.saga(complete(&done));
    store.saga(quarantine("parked"));
    store.saga(amend("parked", "looked at"));
    store.saga(dispatch("reserved", "w", secs(600)));
    store.saga(claim_with("stale", "w", sagad::domain::lease::LeasePurpose::Execute, secs(1)));
    store.advance(secs(1));
    store.submit(pause("q", true)).unwrap();
}

const TASKS: [&str; 7] = ["rich", "undoing", "done", "parked", "planned", "reserved", "stale"];

fn copy_dir(from: &Path) -> Arc<TempDir> {
    let to = tempfile::tempdir().unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        // Without the shared memory, which is lost in a crash of the machine and useless after one of the process.
        if file.file_name() != "sagad.db-shm" {
            fs::copy(file.path(), to.path().join(file.file_name())).unwrap();
        }
    }
    Arc::new(to)
}

/// Stops a background thread, also when the test panics.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn m10_reopening_preserves_everything() {
    let store = TestStore::sqlite();
    populate(&store);
    let everything = |store: &TestStore| {
        let sagas = TASKS.map(|id| store.get(id).unwrap());
        let stale = store.wait(store.handle.stale(Vec::new(), Revision::ZERO, HUGE, PageBounds::of_sagas(10))).unwrap();
        let queues = store.wait(store.handle.queues(None, 100)).unwrap();
        (sagas, store.history(), stale, queues)
    };
    let before = everything(&store);
    let next_before = before.1.last().unwrap().revision.after(1);
    let store = store.reopened();
    assert_eq!(everything(&store), before);
    let store = store.reopened();
    assert_eq!(everything(&store), before);
    // A clean shutdown leaves no gap in the revisions.
    assert_eq!(store.sagas(create([creation("new")]))[0].revision, next_before);
    assert_eq!(store.tasks(next(&["q"], "w")), [""; 0], "the queue is still paused");
}

#[test]
fn p1_p9_after_a_crash_nothing_is_lost_and_revisions_only_grow() {
    let store = TestStore::sqlite();
    populate(&store);
    let (history, sagas) = (store.history(), TASKS.map(|id| store.get(id)));
    let head = history.last().unwrap().revision;
    let copy = copy_dir(&store.data());
    // Revisions that were assigned after the copy: as if the log had lost its tail.
    let lost = store.sagas(create([creation("lost")])).remove(0);
    store.close();

    let again = TestStore::open_dir(copy.clone(), StoreSetup::default(), START);
    assert_eq!(again.history(), history);
    assert_eq!(TASKS.map(|id| again.get(id)), sagas);
    let next = again.sagas(create([creation("next")])).remove(0);
    assert!(next.revision > lost.revision, "{} was assigned before", lost.revision);
    // A watch can't resume from a revision in the gap, but from both of its ends.
    let after =
        |revision| again.events(EventQuery { after: revision, through: HUGE, limit: 9, ..EventQuery::default() });
    assert_eq!(after(lost.revision), Err(StoreError::UnknownRevision { head: next.revision }));
    assert_eq!(after(Revision(next.revision.0 - 1)), Err(StoreError::UnknownRevision { head: next.revision }));
    assert_eq!(after(head).unwrap().len(), 1);
    assert_eq!(after(next.revision), Ok(vec![]));

    // Two crashes without an assigned revision between them.
    let twice = copy_dir(&again.data());
    let twice = TestStore::open_dir(twice, StoreSetup::default(), START);
    // Revisions are reserved before the first one is assigned, but not while the store is opened.
    twice.settle();
    let thrice = TestStore::open_dir(copy_dir(&twice.data()), StoreSetup::default(), START);
    let last = thrice.sagas(create([creation("last")])).remove(0);
    assert!(last.revision.0 > next.revision.0 + (1 << 24));
    let after =
        |revision| thrice.events(EventQuery { after: revision, through: HUGE, limit: 9, ..EventQuery::default() });
    for in_gap in [next.revision.after(1), next.revision.after((1 << 24) + 5), Revision(last.revision.0 - 1)] {
        assert_eq!(after(in_gap), Err(StoreError::UnknownRevision { head: last.revision }), "{in_gap}");
    }
    assert_eq!(after(next.revision).unwrap().len(), 1);
    assert_eq!(after(head).unwrap().len(), 2);
}

#[test]
fn p6_the_clock_never_goes_back() {
    let store = TestStore::sqlite();
    store.sagas(create([creation("a")]));
    let claimed = store.saga(claim("a", "w"));
    store.advance(secs(20));
    let last = store.lease(heartbeat(&claimed)).lease.heartbeat_time;
    let copy = copy_dir(&store.data());
    store.close();

    // The wall clock was set back by years.
    let past = Timestamp::from_micros(1000);
    let after_crash = TestStore::open_dir(copy, StoreSetup::default(), past);
    assert!(after_crash.now() > last, "later than the last heartbeat, although that is no event");
}

#[test]
fn p6_a_clean_shutdown_keeps_the_clock() {
    let store = TestStore::sqlite();
    store.advance(secs(3600));
    let closed_at = store.now();
    let held = store.keep();
    store.close();
    let again = TestStore::open_dir(held, StoreSetup::default(), Timestamp::from_micros(1000));
    assert!(again.now() >= closed_at);
}

#[test]
fn p6_a_restart_gives_grace_and_an_expiry_counts_once() {
    let setup = StoreSetup { restart_grace: secs(10), ..StoreSetup::default() };
    let store = TestStore::sqlite_with(setup);
    store.sagas(create([creation("a"), creation("b")]));
    let a = store.saga(claim("a", "w"));
    store.saga(claim("b", "w"));
    // Away for an hour. The test's clock did not move, so it is moved now, while the store is closed.
    let held = store.keep();
    let now = store.now().plus(secs(3600));
    store.close();
    let store = TestStore::open_dir(held, setup, now);
    assert!(matches!(store.refusal(claim("a", "v")), Rejection::LeaseHeld { .. }));
    assert_eq!(store.get("a").unwrap().lease, a.lease, "the stored lease is unchanged");
    for _ in 0..10 {
        store.advance(us(999_000));
    }
    store.lease(heartbeat(&a));
    for _ in 0..2 {
        store.advance(us(999_000));
    }
    assert_eq!(store.get("a").unwrap().expirations, 0);
    assert_eq!(store.get("b").unwrap().expirations, 1);
    let store = store.reopened();
    store.settle();
    assert_eq!(store.get("b").unwrap().expirations, 1);
}

/// Opens a small store.
pub fn open_small(data: &Path, clock: Arc<dyn Clock>) -> Result<(Store, WriterThread), OpenError> {
    let options = StoreOptions { restart_grace: secs(0), queue: 10, batch: 10, readers: 1, max_waiting: 10 };
    sqlite::open(data, 1 << 20, &options, clock)
}

fn open_error(data: &Path) -> OpenError {
    open_small(data, Arc::new(ManualClock::at(START))).err().expect("it is refused")
}

#[test]
fn p8_a_foreign_or_damaged_file_is_refused_and_not_changed() {
    let store = TestStore::sqlite();
    populate(&store);
    store.sagas(create((0..500).map(|n| creation(&format!("t{n}")))));
    let held = store.keep();
    store.close();
    let good = fs::read(held.path().join("sagad.db")).unwrap();

    let with_pragma = |pragma: &str| {
        let path = held.path().join("sagad.db");
        Connection::open(&path).unwrap().execute_batch(pragma).unwrap();
        let changed = fs::read(&path).unwrap();
        fs::write(&path, &good).unwrap();
        changed
    };
    let foreign = with_pragma("PRAGMA application_id = 77");
    let newer = with_pragma("PRAGMA user_version = 99");
    let last_page_lost = good[..good.len() - 4096].to_vec();
    let truncated = good[..good.len() / 2].to_vec();
    let mut no_header = good.clone();
    no_header[..16].fill(0);
    let mut torn_schema = good.clone();
    torn_schema[100..600].fill(0xAB);
    for (name, bytes) in [
        ("foreign", foreign),
        ("newer", newer),
        ("truncated", truncated),
        ("last page lost", last_page_lost),
        ("no header", no_header),
        ("torn schema", torn_schema),
        ("text", b"this is no database, whatever its name says".to_vec()),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sagad.db");
        fs::write(&path, &bytes).unwrap();
        let error = open_error(dir.path());
        let expected = match name {
            "foreign" => matches!(error, OpenError::Foreign { found: 77, .. }),
            "newer" => matches!(error, OpenError::Newer { found: 99, .. }),
            _ => matches!(error, OpenError::Damaged { .. }),
        };
        assert!(expected, "{name}: {error:?}");
        assert!(fs::read(&path).unwrap() == bytes, "{name} was changed");
        assert!(!dir.path().join("sagad.db-wal").exists(), "{name}: a log was made");
    }
}

#[test]
fn p8_a_second_writer_is_refused_while_the_first_runs() {
    let store = TestStore::sqlite();
    store.sagas(create([creation("a")]));
    assert!(matches!(open_error(&store.data()), OpenError::Locked { .. }));
    store.sagas(create([creation("b")]));
    let held = store.keep();
    store.close();
    let again = TestStore::open_dir(held, StoreSetup::default(), START);
    assert!(again.get("b").is_some());
}

#[test]
fn a_damaged_row_is_an_error_of_its_own_saga_only() {
    let store = TestStore::sqlite();
    let mut first = placed("broken", "q", 9);
    first.compensations = specs(&["x"]);
    store.sagas(create([first]));
    store.sagas(create([creation("a"), creation("b")]));
    store.sagas(create([placed("due", "p", 0)]));
    store.saga(claim_with("due", "w", sagad::domain::lease::LeasePurpose::Execute, secs(1)));
    let damage = Connection::open(store.data().join("sagad.db")).unwrap();
    damage.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
    damage.execute_batch("PRAGMA ignore_check_constraints = 1").unwrap();
    let statement = "UPDATE saga SET on_stale = 99 WHERE task_id IN ('broken', 'due')";
    damage.execute_batch(statement).unwrap();
    drop(damage);
    // A writer does not read again what it has in memory.
    let store = store.reopened();

    let found = store.wait(store.handle.get(SagaKey::Task(TaskId::parse("broken").unwrap())));
    assert!(matches!(&found, Err(StoreError::Corrupt(what)) if what.contains("on_stale")), "{found:?}");
    assert!(matches!(store.submit(claim("broken", "w")), Err(StoreError::Corrupt(_))));
    assert!(matches!(store.submit(annotate("broken", "note")), Err(StoreError::Corrupt(_))));
    // It is the first in its queue; the sagas after it can still be claimed.
    assert_eq!(store.tasks(next(&["q"], "w")), ["a"]);
    let two = sagad::domain::command::ClaimNext { max_sagas: 2, ..next(&["q"], "w") };
    assert_eq!(store.tasks(two), ["b"]);
    // A damaged saga whose lease expires does not block due changes of others.
    store.advance(secs(40));
    assert_eq!(store.get("a").unwrap().expirations, 1);
    store.saga(annotate("a", "still served"));
    let store = store.reopened();
    assert!(matches!(store.submit(claim("due", "w")), Err(StoreError::Corrupt(_))));
    assert_eq!(store.saga(claim("a", "v")).attempt, 2);
}

/// The reason is made unreadable, so that any read of it fails.
#[test]
fn counting_queues_does_not_read_pause_reasons() {
    let store = TestStore::sqlite();
    store.submit(pause("q", true)).unwrap();
    let damage = Connection::open(store.data().join("sagad.db")).unwrap();
    damage.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
    damage.execute_batch("UPDATE queue SET reason = CAST(x'ff' AS TEXT), actor = ''").unwrap();
    drop(damage);
    assert!(matches!(store.wait(store.handle.queues(None, 10)), Err(StoreError::Corrupt(_))));
    let stats = store.wait(store.handle.stats()).unwrap();
    assert_eq!(stats.queues.len(), 1);
}

#[test]
fn the_write_ahead_log_stays_within_its_limit() {
    let bound = 2 << 20;
    let store = TestStore::sqlite_with(StoreSetup { max_wal_bytes: bound, ..StoreSetup::default() });
    let log = store.data().join("sagad.db-wal");
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = StopOnDrop(stop.clone());
    // Two readers that overlap, so that one always holds a snapshot.
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (store, stop, handle) = (store.handle.clone(), stop.clone(), store.runtime.handle().clone());
            std::thread::spawn(move || {
                let mut reads = 0;
                while !stop.load(Ordering::Relaxed) {
                    let all = EventQuery { through: HUGE, limit: 1 << 20, whole: true, ..EventQuery::default() };
                    handle.block_on(store.events(all)).unwrap();
                    reads += 1;
                }
                reads
            })
        })
        .collect();
    let mut largest = 0;
    for n in 0..300 {
        let mut large = creation(&format!("t{n}"));
        large.payload = Blob::parse(vec![n as u8; 60_000].into()).unwrap();
        store.sagas(create([large]));
        largest = largest.max(fs::metadata(&log).unwrap().len());
    }
    drop(stopped);
    assert!(readers.into_iter().all(|reader| reader.join().unwrap() > 0));
    // One transaction may exceed the limit.
    assert!(largest <= bound + (1 << 20), "{largest} bytes");
    assert!(largest > bound / 4, "{largest} bytes: too little was written to show anything");
    let database = fs::metadata(store.data().join("sagad.db")).unwrap().len();
    assert!(database > 12 << 20, "only {database} bytes of 18 MB were checkpointed");
}

/// A backup can take minutes, so it must not occupy a reader.
#[test]
fn backups_occupy_no_reader() {
    let store = TestStore::sqlite();
    let payload = Blob::parse(vec![b'x'; 60_000].into()).unwrap();
    for n in 0..100 {
        store.sagas(create([Creation { payload: payload.clone(), ..creation(&format!("t{n}")) }]));
    }
    let copies = tempfile::tempdir().unwrap();
    store.wait(async {
        // As many as there are readers.
        let copies = (0..4).map(|n| store.handle.backup(copies.path().join(n.to_string())));
        let mut copies: FuturesUnordered<_> = copies.collect();
        assert!(copies.next().now_or_never().is_none(), "the backups have begun");
        tokio::select! {
            biased;
            copied = copies.next() => panic!("a read waited for one: {copied:?}"),
            found = store.handle.get(SagaKey::Task(task("t0"))) => assert!(found.unwrap().is_some()),
        }
        assert_eq!(copies.filter(|copied| std::future::ready(copied.is_ok())).count().await, 4);
    });
}

#[test]
fn a_backup_under_load_is_consistent() {
    let store = TestStore::sqlite();
    populate(&store);
    store.sagas(create((0..200).map(|n| {
        let mut large = creation(&format!("t{n}"));
        large.payload = Blob::parse(vec![7; 20_000].into()).unwrap();
        large
    })));
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = StopOnDrop(stop.clone());
    let load = {
        let (store, stop, handle) = (store.handle.clone(), stop.clone(), store.runtime.handle().clone());
        std::thread::spawn(move || {
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return n;
                }
                let command =
                    create([undoable(&format!("load-{n}-a"), &["x"]), undoable(&format!("load-{n}-b"), &["x"])]);
                handle
                    .block_on(store.submit(sagad::domain::command::Request { command, key: None, by: None }))
                    .unwrap();
            }
            unreachable!()
        })
    };
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let copy = dir.path().join("sagad.db");
    let head = store.wait(store.handle.backup(copy.clone())).unwrap();
    drop(stopped);
    assert!(load.join().unwrap() > 0);
    assert_eq!(sqlite::check::check_file(&copy).unwrap().problems, Vec::<String>::new());

    let history = store.history();
    let restored = TestStore::open_dir(dir, StoreSetup::default(), START);
    let kept = restored.history();
    assert_eq!(kept.last().unwrap().revision, head);
    assert_eq!(kept, history[..kept.len()], "everything up to one revision, and nothing after it");
    let pairs = kept.iter().filter(|event| event.task_id.as_str().starts_with("load-")).count();
    assert_eq!(pairs % 2, 0, "a transaction is in the copy completely or not at all");
    assert_eq!(TASKS.map(|id| restored.get(id)), TASKS.map(|id| store.get(id)));
    assert_eq!(restored.get("parked").unwrap().state, State::Quarantined);
}

/// A read ends after a number of rows, whether they match or not, because other reads wait for the reader.
#[test]
fn a_read_without_matches_examines_a_bounded_number_of_rows() {
    const ROWS: usize = 5000;
    const SAGAS: usize = ROWS + 100;
    let store = TestStore::sqlite();
    for first in (0..SAGAS).step_by(1000) {
        store.sagas(create((first..SAGAS.min(first + 1000)).map(|n| creation(&format!("t{n}")))));
    }
    // Short ones, so that they don't expire together after an absence.
    let ttl = secs(1);
    while !store.sagas(ClaimNext { ttl, max_sagas: 100, ..next(&["q"], "w") }).is_empty() {}
    store.advance(us(500_000));
    store.advance(us(500_000));
    let stale = |queues: &[&str], after, bounds| {
        let queues = queues.iter().map(|name| queue(name)).collect();
        store.wait(store.handle.stale(queues, after, HUGE, bounds)).unwrap()
    };
    let all = PageBounds::of_sagas(2 * SAGAS);
    while stale(&[], Revision::ZERO, all).found.len() < SAGAS {
        store.advance(us(1000));
    }

    let elsewhere = stale(&["elsewhere"], Revision::ZERO, all);
    let rest = stale(&[], elsewhere.through, all);
    assert_eq!((elsewhere.found.len(), rest.found.len()), (0, SAGAS - ROWS - 1));
    assert_eq!(stale(&["elsewhere"], elsewhere.through, all).through, HUGE);

    store.wait(async {
        for _ in 0..SAGAS / 100 {
            let notes = (0..100).map(|_| Request { command: annotate("t0", "again"), key: None, by: None });
            let notes = notes.map(|note| store.handle.submit(note));
            futures::future::try_join_all(notes).await.unwrap();
        }
    });
    // The events are no longer in memory.
    let store = store.reopened();
    let feed = store.handle.event_feed();
    let of_task = EventQuery { task_id: Some(task("t0")), ..EventQuery::default() };
    let marked = EventQuery { marked_only: true, ..EventQuery::default() };
    for which in [EventQuery::default(), marked, of_task] {
        let wanted = EventQuery { through: HUGE, limit: 1 << 20, ..which };
        let nothing = EventQuery { queues: vec![queue("elsewhere")], ..wanted.clone() };
        let next = store.wait(feed.next(&nothing, Revision::ZERO, HUGE)).unwrap();
        assert!(next.run.is_none());
        let up_to = EventQuery { through: next.through, ..wanted.clone() };
        let looked_at = store.events(up_to).unwrap().len();
        assert_eq!(looked_at, ROWS + 1, "{wanted:?}");
        // Reading everything takes several such reads.
        assert_eq!(store.events(nothing), Ok(Vec::new()));
    }
}

/// A store of a daemon with schema version 2 works: its history continues with the new events.
#[test]
fn a_store_of_version_2_is_migrated_and_works() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let file = Connection::open(dir.path().join("sagad.db")).unwrap();
    file.execute_batch(include_str!("../../src/store/sqlite/store_2.sql")).unwrap();
    drop(file);
    let store = TestStore::open_dir(dir, StoreSetup::default(), START);
    assert_eq!(store.history().len(), 33);
    let stale = store.wait(store.handle.stale(Vec::new(), Revision::ZERO, HUGE, PageBounds::of_sagas(10))).unwrap();
    assert_eq!(stale.found.iter().map(|(revision, _)| revision.0).collect::<Vec<_>>(), [30]);
    assert_eq!(store.tasks(next(&["q"], "w")), ["planned"]);

    // A lease from before the migration can be used, and its history is complete.
    let running = store.get("running").unwrap();
    store.lease(heartbeat(&running));
    store.saga(register(&running, &["x"]));
    assert_eq!(store.saga(complete(&running)).state, State::Completed);
    assert_eq!(store.saga(annotate("done", "seen")).state, State::Completed);
    let page = |id: &str, after, limit| {
        let task_id = Some(task(id));
        store.events(EventQuery { task_id, after, through: HUGE, limit, whole: true, ..EventQuery::default() }).unwrap()
    };
    for id in ["running", "done", "planned", "stale"] {
        let whole = page(id, Revision::ZERO, 100);
        let expected: Vec<_> = store.history().into_iter().filter(|event| event.task_id == task(id)).collect();
        assert_eq!(whole, expected);
        for limit in 1..=whole.len() {
            let mut pages = page(id, Revision::ZERO, limit);
            while let more = page(id, pages.last().unwrap().revision, limit)
                && !more.is_empty()
            {
                pages.extend(more);
            }
            assert_eq!(pages, whole, "{limit} at a time");
        }
    }
    let all = store.history();
    let after =
        |revision| store.events(EventQuery { after: revision, through: HUGE, limit: 3, ..EventQuery::default() });
    assert_eq!(after(Revision(25)).unwrap(), all[all.len() - after_25(&all)..][..3]);
    assert_eq!(after(Revision(35)).unwrap().len(), 3, "across the old and the new table of events");
    assert_eq!(after(Revision(24)), Err(StoreError::Compacted { oldest: Revision(25) }));

    // The end of an earlier lease is repeated after a later lease: it is found in the old table.
    let failed = store.get("retried").unwrap();
    store.advance(secs(7200));
    store.saga(claim("retried", "v"));
    assert_eq!(store.saga(fail(&failed, true)).lease.unwrap().owner, owner("v"));
    assert!(store.submit(complete(&failed)).is_err(), "the lease ended in another way");

    let before = store.history().len();
    let gone = store.purged(purge(secs(0), 100));
    assert!(gone.sagas >= 6, "{gone:?}");
    assert_eq!(gone.events, before - store.history().len());
    let held = store.keep();
    store.close();
    let report = sqlite::check::check_file(&held.path().join("sagad.db")).unwrap();
    assert_eq!((report.problems, report.sagas), (Vec::new(), 13 - gone.sagas as u64));
}

/// How many events are behind revision 25.
fn after_25(history: &[sagad::domain::event::Event]) -> usize {
    history.iter().filter(|event| event.revision > Revision(25)).count()
}

/// Each query in `docs/reference/tables.md` returns rows.
#[test]
fn the_queries_of_the_tables_page_return_rows() {
    let store = TestStore::sqlite();
    populate(&store);
    let file = Connection::open(store.data().join("sagad.db")).unwrap();
    let page = include_str!("../../docs/reference/tables.md");
    let queries: Vec<_> = page.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(queries.len(), 10);
    for query in queries {
        let mut statement = file.prepare(query).unwrap();
        let mut rows = statement.query([]).unwrap();
        assert!(rows.next().unwrap().is_some(), "no row for: {query}");
        while rows.next().unwrap().is_some() {}
    }
    let mut statement = file.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").unwrap();
    for table in statement.query_map([], |row| row.get::<_, String>(0)).unwrap() {
        let row = format!("| `{}` |", table.unwrap());
        assert!(page.contains(&row), "the page has no row {row}");
    }
    let version: i64 = file.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert!(page.contains(&format!("`PRAGMA user_version`, here {version}")));
}
