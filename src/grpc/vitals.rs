//! `GetVitals`: what the store measures of itself, and what the system reports about its disk and files.

use std::{collections::BTreeMap, fs, path::Path};

use rustix::{
    fs::statvfs,
    process::{Resource, getrlimit},
};

use crate::{
    domain::time::{Span, Timestamp},
    metrics::{
        CheckpointKind, CheckpointOutcome, ClockVitals, LastMinute, LogVitals, Refusals, Vitals, WatchKind, WatchVitals,
    },
    proto,
    store::{HeldClaimSummary, ReadTime, Store},
};

use super::{
    ServerSettings,
    render::{enums::purpose, signed, span, time},
};

/// Most queues of `WatchStale` streams in an answer: more than anybody has.
const WATCHED_QUEUES: usize = 1_000;
/// For how long a kind counts as asked for.
const ASKED: Span = Span::from_secs(3_600);
/// The store's files. Only their metadata is read: opening and closing them would drop SQLite's locks.
const FILES: [&str; 2] = ["sagad.db", "sagad.db-wal"];

/// What the system reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SystemVitals {
    disk: Option<proto::Disk>,
    open_files: i64,
    open_files_max: i64,
}

impl SystemVitals {
    /// Reads it for a data directory and this process. Blocks as long as the disk does.
    pub(super) fn read(data: &Path) -> Self {
        let size = |file: &&str| fs::metadata(data.join(file)).map_or(0, |metadata| metadata.len());
        let disk = statvfs(data).ok().map(|disk| proto::Disk {
            free_bytes: count(disk.f_bavail.saturating_mul(disk.f_frsize)),
            total_bytes: count(disk.f_blocks.saturating_mul(disk.f_frsize)),
            store_bytes: count(FILES.iter().map(size).sum()),
        });
        let open = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        SystemVitals {
            disk,
            // One of them is the directory that is being read.
            open_files: count(open.saturating_sub(1) as u64),
            open_files_max: getrlimit(Resource::Nofile).current.map_or(0, count),
        }
    }
}

pub(super) async fn answer(store: &Store, settings: &ServerSettings, system: SystemVitals) -> proto::GetVitalsResponse {
    let vitals = store.vitals();
    let bound = settings.bounds.iter().find(|bound| bound.name == "max_wal_bytes");
    let mut answer = render(&vitals, &store.read_time(), bound.map_or(0, |bound| bound.value));
    (answer.disk, answer.open_files, answer.open_files_max) = (system.disk, system.open_files, system.open_files_max);
    answer.waiting_claims = waiting_claims(store.waiting().await.unwrap_or_default());
    answer.writer_silence = Some(span(store.writer_silence()));
    answer
}

fn render(vitals: &Vitals, read_time: &ReadTime, max_log_bytes: i64) -> proto::GetVitalsResponse {
    let asked = vitals.handled_kinds.iter().filter(|asking| vitals.time.since(asking.last) < ASKED);
    proto::GetVitalsResponse {
        current_time: Some(time(vitals.time)),
        commits: Some(timings(&vitals.commit_minute)),
        batches: Some(timings(&vitals.batch_minute)),
        changes: count(vitals.changes),
        batch_count: count(vitals.batch_sizes.count()),
        writer_queue_depth: count(vitals.writer_queue_depth),
        writer_queue_max: count(vitals.writer_queue_max),
        writer_silence: None,
        disk_full: vitals.disk_full,
        refusals: Some(refusals(&vitals.refusals)),
        log: Some(log(&vitals.log, max_log_bytes)),
        disk: None,
        clock: Some(clock(&vitals.clock)),
        restart_grace_left: grace_left(read_time, vitals.time),
        stale_watches: stale_watches(&vitals.watches),
        event_watches: count(vitals.watches.iter().filter(|watch| watch.kind == WatchKind::Events).count() as u64),
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
        count: count(minute.count),
        p50: Some(span(minute.p50)),
        p99: Some(span(minute.p99)),
        max: Some(span(minute.max)),
    }
}

fn refusals(refusals: &Refusals) -> proto::Refusals {
    proto::Refusals {
        queue_full: count(refusals.queue_full),
        no_room: count(refusals.no_room),
        too_many_waiting: count(refusals.too_many_waiting),
        disk_full: count(refusals.disk_full),
    }
}

fn log(log: &LogVitals, max_bytes: i64) -> proto::Log {
    let blocked = log.checkpoints.iter().filter(|(kind, outcome, _)| match (kind, outcome) {
        (CheckpointKind::Restart, CheckpointOutcome::Busy) => true,
        (CheckpointKind::Restart, CheckpointOutcome::Done | CheckpointOutcome::Failed)
        | (CheckpointKind::Passive, _) => false,
    });
    proto::Log {
        bytes: count(log.bytes),
        max_bytes,
        restarts: count(log.begun),
        restart_time: log.begun_at.map(time),
        blocked_restarts: count(blocked.map(|(_, _, count)| count).sum()),
    }
}

fn clock(clock: &ClockVitals) -> proto::ClockVitals {
    let ever = |length: Span| (clock.absences > 0).then(|| span(length));
    proto::ClockVitals {
        offset: Some(signed(clock.distance.saturating_neg())),
        steps: count(clock.steps),
        last_step: (clock.steps > 0).then(|| signed(clock.last_step)),
        last_step_time: clock.last_step_at.map(time),
        absences: count(clock.absences),
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
    let listed = waiting.into_iter().map(|waiting| proto::WaitingClaims {
        queue: waiting.queue.to_string(),
        purpose: purpose(waiting.purpose).into(),
        count: count(waiting.count as u64),
        compensation_kinds: waiting.kinds.iter().map(ToString::to_string).collect(),
    });
    listed.collect()
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

fn count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ids::QueueName, lease::RestartGrace};

    #[test]
    fn vitals_have_the_disk_and_the_open_files() {
        let data = tempfile::tempdir().unwrap();
        fs::write(data.path().join("sagad.db"), [0; 4096]).unwrap();
        let system = SystemVitals::read(data.path());
        let disk = system.disk.unwrap();
        assert_eq!(disk.store_bytes, 4096);
        assert!(disk.free_bytes > 0 && disk.total_bytes >= disk.free_bytes, "{disk:?}");
        assert!((3..=system.open_files_max).contains(&system.open_files), "{system:?}");
        assert_eq!(SystemVitals::read(Path::new("/nowhere/at/all")).disk, None);
    }

    #[test]
    fn the_remaining_grace_counts_from_the_return() {
        let returned_at = Timestamp::from_micros(1_000_000);
        let read_time =
            ReadTime { grace: RestartGrace { returned_at, length: Span::from_secs(10) }, ..ReadTime::default() };
        assert_eq!(grace_left(&read_time, Timestamp::from_micros(8_000_000)).unwrap().seconds, 3);
        assert_eq!(grace_left(&read_time, Timestamp::from_micros(11_000_000)), None);
    }

    #[test]
    fn watches_are_counted_by_queue_and_unfiltered_ones_separately() {
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
        let listed = stale_watches(&watches).into_iter().map(|watches| (watches.queue, watches.count));
        let expected = [("", 1), ("a", 2), ("b", 1)].map(|(queue, count)| (queue.to_owned(), count));
        assert_eq!(listed.collect::<Vec<_>>(), expected);
    }
}
