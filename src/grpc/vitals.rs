//! How the coordinator fares: what the store measured of itself, and what the system says of its disk and its files.

use std::{collections::BTreeMap, fs, path::Path};

use rustix::{
    fs::statvfs,
    process::{Resource, getrlimit},
};

use crate::{
    domain::time::{Span, Timestamp},
    proto,
    store::{
        HeldClaimSummary, ReadTime, Store,
        vitals::{
            CheckpointKind, CheckpointOutcome, ClockVitals, LastMinute, LogVitals, Refusals, Vitals, WatchKind,
            WatchVitals,
        },
    },
};

use super::{
    ServerFacts,
    render::{enums::purpose, signed, span, time},
};

/// Queues of `WatchStale` streams that are told: as many as one answer bears, and more than anybody has.
const WATCHED_QUEUES: usize = 1_000;
/// For how long it is told that a kind was asked for.
const ASKED: Span = Span::from_secs(3_600);
/// The store's files. Only their sizes are asked for: to open and close them would drop SQLite's locks.
const FILES: [&str; 2] = ["sagad.db", "sagad.db-wal"];

/// What the system tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Machine {
    disk: Option<proto::Disk>,
    open_files: i64,
    open_files_max: i64,
}

impl Machine {
    /// Asks it about a directory and this process. Blocks, for as long as the disk does.
    pub(super) fn look(data: &Path) -> Self {
        let size = |file: &&str| fs::metadata(data.join(file)).map_or(0, |metadata| metadata.len());
        let disk = statvfs(data).ok().map(|disk| proto::Disk {
            free_bytes: number(disk.f_bavail.saturating_mul(disk.f_frsize)),
            total_bytes: number(disk.f_blocks.saturating_mul(disk.f_frsize)),
            store_bytes: number(FILES.iter().map(size).sum()),
        });
        let open = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        Machine {
            disk,
            // The directory itself is one of them.
            open_files: number(open.saturating_sub(1) as u64),
            open_files_max: getrlimit(Resource::Nofile).current.map_or(0, number),
        }
    }
}

/// The answer.
pub(super) async fn answer(store: &Store, facts: &ServerFacts, machine: Machine) -> proto::GetVitalsResponse {
    let vitals = store.vitals();
    let bound = facts.bounds.iter().find(|bound| bound.name == "max_wal_bytes");
    let mut answer = rendered(&vitals, &store.read_time(), bound.map_or(0, |bound| bound.value));
    (answer.disk, answer.open_files, answer.open_files_max) =
        (machine.disk, machine.open_files, machine.open_files_max);
    answer.waiting_claims = waiting_claims(store.waiting().await.unwrap_or_default());
    answer.writer_silence = Some(span(store.time_since_turn()));
    answer
}

fn rendered(vitals: &Vitals, read_time: &ReadTime, max_log_bytes: i64) -> proto::GetVitalsResponse {
    let asked = vitals.handled_kinds.iter().filter(|asking| vitals.time.since(asking.last) < ASKED);
    proto::GetVitalsResponse {
        current_time: Some(time(vitals.time)),
        commits: Some(timings(&vitals.commit_minute)),
        batches: Some(timings(&vitals.batch_minute)),
        changes: number(vitals.changes),
        batch_count: number(vitals.batch_sizes.count()),
        writer_queue_depth: number(vitals.writer_queue_depth),
        writer_queue_max: number(vitals.writer_queue_max),
        writer_silence: None,
        disk_full: vitals.disk_full,
        refusals: Some(refusals(&vitals.refusals)),
        log: Some(log(&vitals.log, max_log_bytes)),
        disk: None,
        clock: Some(clock(&vitals.clock)),
        restart_grace_left: grace_left(read_time, vitals.time),
        stale_watches: stale_watches(&vitals.watches),
        event_watches: number(vitals.watches.iter().filter(|watch| watch.kind == WatchKind::Events).count() as u64),
        waiting_claims: Vec::new(),
        asked_kinds: asked
            .map(|asking| proto::AskedKind {
                queue: asking.queue.to_string(),
                kind: asking.kind.as_ref().map(ToString::to_string).unwrap_or_default(),
                last_time: Some(time(asking.last)),
            })
            .collect(),
        open_files: 0,
        open_files_max: 0,
        unknown_holders: Vec::new(),
    }
}

fn timings(minute: &LastMinute) -> proto::Timings {
    proto::Timings {
        count: number(minute.count),
        p50: Some(span(minute.p50)),
        p99: Some(span(minute.p99)),
        max: Some(span(minute.max)),
    }
}

fn refusals(refusals: &Refusals) -> proto::Refusals {
    proto::Refusals {
        queue_full: number(refusals.queue_full),
        no_room: number(refusals.no_room),
        too_many_waiting: number(refusals.too_many_waiting),
        disk_full: number(refusals.disk_full),
    }
}

fn log(log: &LogVitals, max_bytes: i64) -> proto::Log {
    let blocked = log.checkpoints.iter().filter(|(kind, outcome, _)| match (kind, outcome) {
        (CheckpointKind::Restart, CheckpointOutcome::Busy) => true,
        (CheckpointKind::Restart, CheckpointOutcome::Done | CheckpointOutcome::Failed)
        | (CheckpointKind::Passive, _) => false,
    });
    proto::Log {
        bytes: number(log.bytes),
        max_bytes,
        restarts: number(log.begun),
        restart_time: log.begun_at.map(time),
        blocked_restarts: number(blocked.map(|(_, _, count)| count).sum()),
    }
}

fn clock(clock: &ClockVitals) -> proto::ClockVitals {
    let ever = |length: Span| (clock.absences > 0).then(|| span(length));
    proto::ClockVitals {
        offset: Some(signed(clock.distance.saturating_neg())),
        steps: number(clock.steps),
        last_step: (clock.steps > 0).then(|| signed(clock.last_step)),
        last_step_time: clock.last_step_at.map(time),
        absences: number(clock.absences),
        last_absence: ever(clock.last_absence),
        longest_absence: ever(clock.longest_absence),
        last_absence_time: clock.last_absence_at.map(time),
    }
}

fn grace_left(read_time: &ReadTime, now: Timestamp) -> Option<prost_types::Duration> {
    let left = read_time.grace.returned_at.plus(read_time.grace.length).since(now);
    (left > Span::ZERO).then(|| span(left))
}

fn waiting_claims(mut waiting: Vec<HeldClaimSummary>) -> Vec<proto::WaitingClaims> {
    waiting.sort_by(|a, b| (&a.queue, a.purpose as u8).cmp(&(&b.queue, b.purpose as u8)));
    let told = waiting.into_iter().map(|waiting| proto::WaitingClaims {
        queue: waiting.queue.to_string(),
        purpose: purpose(waiting.purpose).into(),
        count: number(waiting.count as u64),
        compensation_kinds: waiting.kinds.iter().map(ToString::to_string).collect(),
    });
    told.collect()
}

fn stale_watches(watches: &[WatchVitals]) -> Vec<proto::StaleWatches> {
    let mut counts: BTreeMap<String, i64> = BTreeMap::new();
    for watch in watches.iter().filter(|watch| watch.kind == WatchKind::Stale) {
        if watch.queues.is_empty() {
            *counts.entry(String::new()).or_default() += 1;
        }
        for queue in &watch.queues {
            *counts.entry(queue.to_string()).or_default() += 1;
        }
    }
    counts.into_iter().take(WATCHED_QUEUES).map(|(queue, count)| proto::StaleWatches { queue, count }).collect()
}

fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ids::QueueName, lease::ReturnGrace};

    #[test]
    fn the_disk_and_the_files_are_told() {
        let data = tempfile::tempdir().unwrap();
        fs::write(data.path().join("sagad.db"), [0; 4096]).unwrap();
        let machine = Machine::look(data.path());
        let disk = machine.disk.unwrap();
        assert_eq!(disk.store_bytes, 4096);
        assert!(disk.free_bytes > 0 && disk.total_bytes >= disk.free_bytes, "{disk:?}");
        assert!((3..=machine.open_files_max).contains(&machine.open_files), "{machine:?}");
        assert_eq!(Machine::look(Path::new("/nowhere/at/all")).disk, None);
    }

    #[test]
    fn the_grace_runs_from_the_return_on() {
        let returned_at = Timestamp::from_micros(1_000_000);
        let read_time =
            ReadTime { grace: ReturnGrace { returned_at, length: Span::from_secs(10) }, ..ReadTime::default() };
        assert_eq!(grace_left(&read_time, Timestamp::from_micros(8_000_000)).unwrap().seconds, 3);
        assert_eq!(grace_left(&read_time, Timestamp::from_micros(11_000_000)), None);
    }

    #[test]
    fn watches_are_counted_by_queue_and_those_of_all_apart() {
        let watch = |kind, queues: &[&str]| WatchVitals {
            kind,
            queues: queues.iter().map(|queue| QueueName::parse(queue).unwrap()).collect(),
            one_task: false,
            position: Default::default(),
        };
        let watches = [
            watch(WatchKind::Stale, &["b", "a"]),
            watch(WatchKind::Stale, &["a"]),
            watch(WatchKind::Stale, &[]),
            watch(WatchKind::Events, &["a"]),
        ];
        let told = stale_watches(&watches).into_iter().map(|watches| (watches.queue, watches.count));
        let expected = [("", 1), ("a", 2), ("b", 1)].map(|(queue, count)| (queue.to_owned(), count));
        assert_eq!(told.collect::<Vec<_>>(), expected);
    }
}
