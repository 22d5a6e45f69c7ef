//! What only a store on disk has to hold: reopening, crashes, foreign files, damage, its log.

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
    bench::{Bench, START, Setup},
    build::*,
};

const HUGE: Revision = Revision(i64::MAX);

/// A store in which something is in every state.
pub fn populate(bench: &Bench) {
    let mut rich = undoable("rich", &["x", "y"]);
    rich.labels = labels(&[("team", "a")]);
    rich.payload = blob("payload");
    bench.sagas(create([rich, undoable("undoing", &["x"]), undoable("done", &["x"]), creation("parked")]));
    bench.sagas(create(["planned", "reserved", "stale"].map(creation)));
    let rich = bench.saga(claim("rich", "w"));
    let operation =
        sagad::domain::command::HolderOperation::Heartbeat { ttl: Some(secs(90)), progress: Some(blob("half")) };
    bench.lease(held(&rich, operation));
    bench.saga(register(&rich, &["z"]));
    bench.saga(claim_undo("undoing", "w"));
    let done = bench.saga(claim("done", "w"));
    bench.saga(complete(&done));
    bench.saga(park("parked"));
    bench.saga(amend("parked", "looked at"));
    bench.saga(dispatch("reserved", "w", secs(600)));
    bench.saga(claim_with("stale", "w", sagad::domain::lease::LeasePurpose::Execute, secs(1)));
    bench.advance(secs(1));
    bench.submit(pause("q", true)).unwrap();
}

const TASKS: [&str; 7] = ["rich", "undoing", "done", "parked", "planned", "reserved", "stale"];

fn copy_dir(from: &Path) -> Arc<TempDir> {
    let to = tempfile::tempdir().unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        // Not its shared memory: a crash of the machine loses it, and one of the process makes it worthless.
        if file.file_name() != "sagad.db-shm" {
            fs::copy(file.path(), to.path().join(file.file_name())).unwrap();
        }
    }
    Arc::new(to)
}

/// Ends what runs beside a test, were it by a panic.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn m10_reopening_preserves_everything() {
    let bench = Bench::sqlite();
    populate(&bench);
    let everything = |bench: &Bench| {
        let sagas = TASKS.map(|id| bench.get(id).unwrap());
        let stale = bench.wait(bench.store.stale(Vec::new(), Revision::ZERO, HUGE, PageBounds::of_sagas(10))).unwrap();
        let queues = bench.wait(bench.store.queues(None, 100)).unwrap();
        (sagas, bench.history(), stale, queues)
    };
    let before = everything(&bench);
    let next_before = before.1.last().unwrap().revision.after(1);
    let bench = bench.reopened();
    assert_eq!(everything(&bench), before);
    let bench = bench.reopened();
    assert_eq!(everything(&bench), before);
    // A clean end leaves no gap.
    assert_eq!(bench.sagas(create([creation("new")]))[0].revision, next_before);
    assert_eq!(bench.tasks(next(&["q"], "w")), [""; 0], "the queue is still paused");
}

#[test]
fn p1_p9_after_a_crash_everything_is_there_and_revisions_are_above_all_given() {
    let bench = Bench::sqlite();
    populate(&bench);
    let (history, sagas) = (bench.history(), TASKS.map(|id| bench.get(id)));
    let head = history.last().unwrap().revision;
    let copy = copy_dir(&bench.data());
    // What the crashed one gave after its last sync to the copy: as if the log had lost its tail.
    let lost = bench.sagas(create([creation("lost")])).remove(0);
    bench.close();

    let again = Bench::open_dir(copy.clone(), Setup::default(), START);
    assert_eq!(again.history(), history);
    assert_eq!(TASKS.map(|id| again.get(id)), sagas);
    let next = again.sagas(create([creation("next")])).remove(0);
    assert!(next.revision > lost.revision, "{} was given before", lost.revision);
    // Nobody can resume from a revision that is in the gap; from either edge everybody can.
    let after =
        |revision| again.events(EventQuery { after: revision, through: HUGE, limit: 9, ..EventQuery::default() });
    assert_eq!(after(lost.revision), Err(StoreError::UnknownRevision { head: next.revision }));
    assert_eq!(after(Revision(next.revision.0 - 1)), Err(StoreError::UnknownRevision { head: next.revision }));
    assert_eq!(after(head).unwrap().len(), 1);
    assert_eq!(after(next.revision), Ok(vec![]));

    // Crash upon crash, without anything given between them.
    let twice = copy_dir(&again.data());
    let twice = Bench::open_dir(twice, Setup::default(), START);
    // It reserves before it gives anything, but not before it is open.
    twice.settle();
    let thrice = Bench::open_dir(copy_dir(&twice.data()), Setup::default(), START);
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
    let bench = Bench::sqlite();
    bench.sagas(create([creation("a")]));
    let claimed = bench.saga(claim("a", "w"));
    bench.advance(secs(20));
    let last = bench.lease(heartbeat(&claimed)).lease.heartbeat_time;
    let copy = copy_dir(&bench.data());
    bench.close();

    // The wall clock was set back by years.
    let past = Timestamp::from_micros(1000);
    let after_crash = Bench::open_dir(copy, Setup::default(), past);
    assert!(after_crash.now() > last, "later than the last heartbeat, though that is no event");
}

#[test]
fn p6_a_clean_end_keeps_the_clock() {
    let bench = Bench::sqlite();
    bench.advance(secs(3600));
    let closed_at = bench.now();
    let held = bench.keep();
    bench.close();
    let again = Bench::open_dir(held, Setup::default(), Timestamp::from_micros(1000));
    assert!(again.now() >= closed_at);
}

#[test]
fn p6_a_restart_gives_grace_and_counts_once() {
    let setup = Setup { restart_grace: secs(10), ..Setup::default() };
    let bench = Bench::sqlite_with(setup);
    bench.sagas(create([creation("a"), creation("b")]));
    let a = bench.saga(claim("a", "w"));
    bench.saga(claim("b", "w"));
    // Away for an hour: the clock stands where it stood, so move it on while nobody looks.
    let held = bench.keep();
    let now = bench.now().plus(secs(3600));
    bench.close();
    let bench = Bench::open_dir(held, setup, now);
    assert!(matches!(bench.refusal(claim("a", "v")), Rejection::LeaseHeld { .. }));
    assert_eq!(bench.get("a").unwrap().lease, a.lease, "what is stored is as it was");
    for _ in 0..10 {
        bench.advance(us(999_000));
    }
    bench.lease(heartbeat(&a));
    for _ in 0..2 {
        bench.advance(us(999_000));
    }
    assert_eq!(bench.get("a").unwrap().expirations, 0);
    assert_eq!(bench.get("b").unwrap().expirations, 1);
    let bench = bench.reopened();
    bench.settle();
    assert_eq!(bench.get("b").unwrap().expirations, 1);
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
fn p8_what_is_not_ours_or_not_whole_is_refused_and_untouched() {
    let bench = Bench::sqlite();
    populate(&bench);
    bench.sagas(create((0..500).map(|n| creation(&format!("t{n}")))));
    let held = bench.keep();
    bench.close();
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
        assert!(fs::read(&path).unwrap() == bytes, "{name} was touched");
        assert!(!dir.path().join("sagad.db-wal").exists(), "{name}: a log was made");
    }
}

#[test]
fn p8_a_second_one_is_refused_while_the_first_runs() {
    let bench = Bench::sqlite();
    bench.sagas(create([creation("a")]));
    assert!(matches!(open_error(&bench.data()), OpenError::Locked { .. }));
    bench.sagas(create([creation("b")]));
    let held = bench.keep();
    bench.close();
    let again = Bench::open_dir(held, Setup::default(), START);
    assert!(again.get("b").is_some());
}

#[test]
fn a_damaged_row_is_corrupt_by_itself() {
    let bench = Bench::sqlite();
    let mut first = placed("broken", "q", 9);
    first.compensations = specs(&["x"]);
    bench.sagas(create([first]));
    bench.sagas(create([creation("a"), creation("b")]));
    bench.sagas(create([placed("due", "p", 0)]));
    bench.saga(claim_with("due", "w", sagad::domain::lease::LeasePurpose::Execute, secs(1)));
    let damage = Connection::open(bench.data().join("sagad.db")).unwrap();
    damage.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
    damage.execute_batch("PRAGMA ignore_check_constraints = 1").unwrap();
    let statement = "UPDATE saga SET on_stale = 99 WHERE task_id IN ('broken', 'due')";
    damage.execute_batch(statement).unwrap();
    drop(damage);
    // What a writer has in memory it does not read again.
    let bench = bench.reopened();

    let found = bench.wait(bench.store.get(SagaKey::Task(TaskId::parse("broken").unwrap())));
    assert!(matches!(&found, Err(StoreError::Corrupt(what)) if what.contains("on_stale")), "{found:?}");
    assert!(matches!(bench.submit(claim("broken", "w")), Err(StoreError::Corrupt(_))));
    assert!(matches!(bench.submit(annotate("broken", "note")), Err(StoreError::Corrupt(_))));
    // It stands first in its queue, and does not keep those behind it from being handed out.
    assert_eq!(bench.tasks(next(&["q"], "w")), ["a"]);
    let two = sagad::domain::command::ClaimNext { max_sagas: 2, ..next(&["q"], "w") };
    assert_eq!(bench.tasks(two), ["b"]);
    // One whose lease ends does not keep the others from what is due to them.
    bench.advance(secs(40));
    assert_eq!(bench.get("a").unwrap().expirations, 1);
    bench.saga(annotate("a", "still served"));
    let bench = bench.reopened();
    assert!(matches!(bench.submit(claim("due", "w")), Err(StoreError::Corrupt(_))));
    assert_eq!(bench.saga(claim("a", "v")).attempt, 2);
}

/// A reason that can't be read shows who reads it.
#[test]
fn counts_read_no_reasons_of_pauses() {
    let bench = Bench::sqlite();
    bench.submit(pause("q", true)).unwrap();
    let damage = Connection::open(bench.data().join("sagad.db")).unwrap();
    damage.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
    damage.execute_batch("UPDATE queue SET reason = CAST(x'ff' AS TEXT), actor = ''").unwrap();
    drop(damage);
    assert!(matches!(bench.wait(bench.store.queues(None, 10)), Err(StoreError::Corrupt(_))));
    let stats = bench.wait(bench.store.stats()).unwrap();
    assert_eq!(stats.queues.len(), 1);
}

#[test]
fn the_log_stays_within_its_bound() {
    let bound = 2 << 20;
    let bench = Bench::sqlite_with(Setup { max_wal_bytes: bound, ..Setup::default() });
    let log = bench.data().join("sagad.db-wal");
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Stop(stop.clone());
    // Two that overlap: there is always one with a snapshot.
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (store, stop, handle) = (bench.store.clone(), stop.clone(), bench.runtime.handle().clone());
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
        bench.sagas(create([large]));
        largest = largest.max(fs::metadata(&log).unwrap().len());
    }
    drop(stopped);
    assert!(readers.into_iter().all(|reader| reader.join().unwrap() > 0));
    // What one transaction adds comes on top.
    assert!(largest <= bound + (1 << 20), "{largest} bytes");
    assert!(largest > bound / 4, "{largest} bytes: too little was written to show anything");
    let database = fs::metadata(bench.data().join("sagad.db")).unwrap().len();
    assert!(database > 12 << 20, "only {database} bytes of 18 MB were checkpointed");
}

/// A copy can take minutes.
#[test]
fn backups_take_no_reader_from_others() {
    let bench = Bench::sqlite();
    let payload = Blob::parse(vec![b'x'; 60_000].into()).unwrap();
    for n in 0..100 {
        bench.sagas(create([Creation { payload: payload.clone(), ..creation(&format!("t{n}")) }]));
    }
    let copies = tempfile::tempdir().unwrap();
    bench.wait(async {
        // As many as there are readers.
        let copies = (0..4).map(|n| bench.store.backup(copies.path().join(n.to_string())));
        let mut copies: FuturesUnordered<_> = copies.collect();
        assert!(copies.next().now_or_never().is_none(), "they are begun");
        tokio::select! {
            biased;
            copied = copies.next() => panic!("a read waited for one: {copied:?}"),
            found = bench.store.get(SagaKey::Task(task("t0"))) => assert!(found.unwrap().is_some()),
        }
        assert_eq!(copies.filter(|copied| std::future::ready(copied.is_ok())).count().await, 4);
    });
}

#[test]
fn a_backup_under_load_is_consistent() {
    let bench = Bench::sqlite();
    populate(&bench);
    bench.sagas(create((0..200).map(|n| {
        let mut large = creation(&format!("t{n}"));
        large.payload = Blob::parse(vec![7; 20_000].into()).unwrap();
        large
    })));
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Stop(stop.clone());
    let load = {
        let (store, stop, handle) = (bench.store.clone(), stop.clone(), bench.runtime.handle().clone());
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
    let head = bench.wait(bench.store.backup(copy.clone())).unwrap();
    drop(stopped);
    assert!(load.join().unwrap() > 0);
    assert_eq!(sqlite::check::check_file(&copy).unwrap().problems, Vec::<String>::new());

    let history = bench.history();
    let restored = Bench::open_dir(dir, Setup::default(), START);
    let kept = restored.history();
    assert_eq!(kept.last().unwrap().revision, head);
    assert_eq!(kept, history[..kept.len()], "everything up to one revision, and nothing after it");
    let pairs = kept.iter().filter(|event| event.task_id.as_str().starts_with("load-")).count();
    assert_eq!(pairs % 2, 0, "a transaction is there whole or not at all");
    assert_eq!(TASKS.map(|id| restored.get(id)), TASKS.map(|id| bench.get(id)));
    assert_eq!(restored.get("parked").unwrap().state, State::Quarantined);
}

/// What a read looks through holds up others that wait for a reader: so it ends after so many rows, wanted or not.
#[test]
fn a_read_that_wants_nothing_looks_through_a_bounded_stretch() {
    const ROWS: usize = 5000;
    const SAGAS: usize = ROWS + 100;
    let bench = Bench::sqlite();
    for first in (0..SAGAS).step_by(1000) {
        bench.sagas(create((first..SAGAS.min(first + 1000)).map(|n| creation(&format!("t{n}")))));
    }
    // Short ones: behind an absence they would all run out at once.
    let ttl = secs(1);
    while !bench.sagas(ClaimNext { ttl, max_sagas: 100, ..next(&["q"], "w") }).is_empty() {}
    bench.advance(us(500_000));
    bench.advance(us(500_000));
    let stale = |queues: &[&str], after, bounds| {
        let queues = queues.iter().map(|name| queue(name)).collect();
        bench.wait(bench.store.stale(queues, after, HUGE, bounds)).unwrap()
    };
    let all = PageBounds::of_sagas(2 * SAGAS);
    while stale(&[], Revision::ZERO, all).found.len() < SAGAS {
        bench.advance(us(1000));
    }

    let elsewhere = stale(&["elsewhere"], Revision::ZERO, all);
    let rest = stale(&[], elsewhere.through, all);
    assert_eq!((elsewhere.found.len(), rest.found.len()), (0, SAGAS - ROWS - 1));
    assert_eq!(stale(&["elsewhere"], elsewhere.through, all).through, HUGE);

    bench.wait(async {
        for _ in 0..SAGAS / 100 {
            let notes = (0..100).map(|_| Request { command: annotate("t0", "again"), key: None, by: None });
            let notes = notes.map(|note| bench.store.submit(note));
            futures::future::try_join_all(notes).await.unwrap();
        }
    });
    // Nothing of it is in memory any more.
    let bench = bench.reopened();
    let feed = bench.store.event_feed();
    let of_task = EventQuery { task_id: Some(task("t0")), ..EventQuery::default() };
    let marked = EventQuery { marked_only: true, ..EventQuery::default() };
    for which in [EventQuery::default(), marked, of_task] {
        let wanted = EventQuery { through: HUGE, limit: 1 << 20, ..which };
        let nothing = EventQuery { queues: vec![queue("elsewhere")], ..wanted.clone() };
        let next = bench.wait(feed.next(&nothing, Revision::ZERO, HUGE)).unwrap();
        assert!(next.run.is_none());
        let up_to = EventQuery { through: next.through, ..wanted.clone() };
        let looked_at = bench.events(up_to).unwrap().len();
        assert_eq!(looked_at, ROWS + 1, "{wanted:?}");
        // The whole of it takes as many stretches as it needs.
        assert_eq!(bench.events(nothing), Ok(Vec::new()));
    }
}

/// A store that a daemon of version 2 left is gone on with: its history is read through to what follows it.
#[test]
fn a_store_of_version_2_goes_on() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let file = Connection::open(dir.path().join("sagad.db")).unwrap();
    file.execute_batch(include_str!("../../src/store/sqlite/store_2.sql")).unwrap();
    drop(file);
    let bench = Bench::open_dir(dir, Setup::default(), START);
    assert_eq!(bench.history().len(), 33);
    let stale = bench.wait(bench.store.stale(Vec::new(), Revision::ZERO, HUGE, PageBounds::of_sagas(10))).unwrap();
    assert_eq!(stale.found.iter().map(|(revision, _)| revision.0).collect::<Vec<_>>(), [30]);
    assert_eq!(bench.tasks(next(&["q"], "w")), ["planned"]);

    // A lease from before goes on, ends, and its history is one.
    let running = bench.get("running").unwrap();
    bench.lease(heartbeat(&running));
    bench.saga(register(&running, &["x"]));
    assert_eq!(bench.saga(complete(&running)).state, State::Completed);
    assert_eq!(bench.saga(annotate("done", "seen")).state, State::Completed);
    let page = |id: &str, after, limit| {
        let task_id = Some(task(id));
        bench.events(EventQuery { task_id, after, through: HUGE, limit, whole: true, ..EventQuery::default() }).unwrap()
    };
    for id in ["running", "done", "planned", "stale"] {
        let whole = page(id, Revision::ZERO, 100);
        let expected: Vec<_> = bench.history().into_iter().filter(|event| event.task_id == task(id)).collect();
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
    let all = bench.history();
    let after =
        |revision| bench.events(EventQuery { after: revision, through: HUGE, limit: 3, ..EventQuery::default() });
    assert_eq!(after(Revision(25)).unwrap(), all[all.len() - after_25(&all)..][..3]);
    assert_eq!(after(Revision(35)).unwrap().len(), 3, "from the old history into the new one");
    assert_eq!(after(Revision(24)), Err(StoreError::Compacted { oldest: Revision(25) }));

    // Its holder repeats how it ended a lease, though another has been given since: that is found in the old history.
    let failed = bench.get("retried").unwrap();
    bench.advance(secs(7200));
    bench.saga(claim("retried", "v"));
    assert_eq!(bench.saga(fail(&failed, true)).lease.unwrap().owner, owner("v"));
    assert!(bench.submit(complete(&failed)).is_err(), "it did not end so");

    let before = bench.history().len();
    let gone = bench.purged(purge(secs(0), 100));
    assert!(gone.sagas >= 6, "{gone:?}");
    assert_eq!(gone.events, before - bench.history().len());
    let held = bench.keep();
    bench.close();
    let report = sqlite::check::check_file(&held.path().join("sagad.db")).unwrap();
    assert_eq!((report.problems, report.sagas), (Vec::new(), 13 - gone.sagas as u64));
}

/// How many events are behind revision 25.
fn after_25(history: &[sagad::domain::event::Event]) -> usize {
    history.iter().filter(|event| event.revision > Revision(25)).count()
}

/// What `docs/reference/tables.md` tells to ask is answered, each with something.
#[test]
fn the_queries_of_the_page_about_the_tables_find_what_there_is() {
    let bench = Bench::sqlite();
    populate(&bench);
    let file = Connection::open(bench.data().join("sagad.db")).unwrap();
    let page = include_str!("../../docs/reference/tables.md");
    let queries: Vec<_> = page.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(queries.len(), 10);
    for query in queries {
        let mut statement = file.prepare(query).unwrap();
        let mut rows = statement.query([]).unwrap();
        assert!(rows.next().unwrap().is_some(), "nothing found by: {query}");
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
