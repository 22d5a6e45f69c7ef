//! The disk: how fast, how full, and who holds the log.

use std::time::Duration;

use super::super::{
    facts::DoctorFacts,
    finding::{Finding, Severity, length},
};
use crate::{
    cli::text::{self, bytes},
    proto::SagaState,
};

/// A commit is one sync. A disk with flash takes 0.2 to 5 ms for it, one that spins 10 to 30: what takes longer for one
/// in a hundred waits for something else.
const COMMIT_P99_FINE: Duration = Duration::from_millis(50);
/// From here on a batch takes as long as the shortest useful leases, and what is due is done too late.
const COMMIT_P99_BAD: Duration = Duration::from_millis(500);
/// One such wait in a minute is an outlier, but a heartbeat in it may have come too late.
const COMMIT_MAX_FINE: Duration = Duration::from_secs(1);
/// The log may grow by its bound while a checkpoint waits, and the database by what is in the log.
const FREE_LOGS: i64 = 2;
/// Less than this part free, and file systems begin to be slow.
const FREE_SHARE: f64 = 0.05;
/// A store of this size takes minutes to copy and to check.
const STORE_LARGE: i64 = 20 << 30;
/// Ended sagas that nobody looks through any more.
const ENDED_MANY: i64 = 5_000_000;

pub(super) fn speed(facts: &DoctorFacts) -> Vec<Finding> {
    let Some(commits) = facts.vitals.as_ref().and_then(|vitals| vitals.commits.as_ref()) else { return Vec::new() };
    if commits.count == 0 {
        return vec![Finding {
            check: "disk-speed",
            severity: Severity::Note,
            seen: "nothing was committed in the last minute".to_owned(),
            why: "So the current speed of the disk is not known.",
            mend: "run this again under load, or run `sagad bench`, which measures the times of syncs".to_owned(),
        }];
    }
    let [p50, p99, max] = [&commits.p50, &commits.p99, &commits.max].map(|span| length(span.as_ref()));
    let severity = if p99 >= COMMIT_P99_BAD {
        Severity::Problem
    } else if p99 >= COMMIT_P99_FINE || max >= COMMIT_MAX_FINE {
        Severity::Warning
    } else {
        return Vec::new();
    };
    vec![Finding {
        check: "disk-speed",
        severity,
        seen: format!(
            "of {} commits in the last minute half took up to {}, one in a hundred {} or more, the longest {}",
            commits.count,
            text::length(p50),
            text::length(p99),
            text::length(max)
        ),
        why: "Every change waits for the disk before it is answered, heartbeats too: leases of a few seconds may run \
              out though their workers live.",
        mend: "see who else uses the disk (`iostat -x 1`, `iotop`), give the store one of its own with flash, or make \
               leases longer (--ttl)"
            .to_owned(),
    }]
}

pub(super) fn space(facts: &DoctorFacts) -> Vec<Finding> {
    let Some(vitals) = &facts.vitals else { return Vec::new() };
    let Some(disk) = &vitals.disk else { return Vec::new() };
    let log = vitals.log.as_ref().map_or(0, |log| log.max_bytes);
    let severity = if vitals.disk_full || disk.free_bytes < log.saturating_mul(FREE_LOGS) {
        Severity::Problem
    } else if disk.free_bytes < disk.store_bytes || (disk.free_bytes as f64) < disk.total_bytes as f64 * FREE_SHARE {
        Severity::Warning
    } else {
        return Vec::new();
    };
    let refused = if vitals.disk_full { "; changes are refused" } else { "" };
    vec![Finding {
        check: "disk-space",
        severity,
        seen: format!(
            "{} of {} are free on the disk of the store, which has {}{refused}",
            bytes(disk.free_bytes),
            bytes(disk.total_bytes),
            bytes(disk.store_bytes)
        ),
        why: "On a full disk every change is refused (STORE_FULL), and a backup needs as much room as the store has.",
        mend:
            "free some space; this removes old sagas: `sagad purge --state completed,compensated --older-than 30days \
               --reason full`"
                .to_owned(),
    }]
}

pub(super) fn wal(facts: &DoctorFacts) -> Vec<Finding> {
    let Some(log) = facts.vitals.as_ref().and_then(|vitals| vitals.log.as_ref()) else { return Vec::new() };
    if log.max_bytes == 0 || log.bytes < log.max_bytes {
        return Vec::new();
    }
    let held = log.blocked_restarts > 0;
    let seen = format!(
        "the write-ahead log has {}, and should have started over at {}{}",
        bytes(log.bytes),
        bytes(log.max_bytes),
        if held {
            format!("; a reader prevented that {}", text::counted(log.blocked_restarts, "time"))
        } else {
            String::new()
        }
    );
    vec![Finding {
        check: "wal",
        severity: if held { Severity::Problem } else { Severity::Note },
        seen,
        why: "A backup or another process has been reading the store for long. Until it ends, the log grows and may fill \
              the disk.",
        mend: "find who has it open: `fuser -v DATA/sagad.db-wal` or `lsof DATA/sagad.db`, and end what is not the \
               daemon; a backup ends by itself"
            .to_owned(),
    }]
}

pub(super) fn store_size(facts: &DoctorFacts) -> Vec<Finding> {
    let size = facts.vitals.as_ref().and_then(|vitals| vitals.disk.as_ref()).map_or(0, |disk| disk.store_bytes);
    let states = facts.stats.queues.iter().flat_map(|queue| &queue.states);
    let ended = states
        .filter(|count| match count.state() {
            SagaState::Completed | SagaState::Failed | SagaState::Compensated | SagaState::Quarantined => true,
            SagaState::Unspecified
            | SagaState::Planned
            | SagaState::Dispatched
            | SagaState::Running
            | SagaState::Compensating => false,
        })
        .map(|count| count.count);
    let ended = text::total(ended);
    if size < STORE_LARGE && ended < ENDED_MANY {
        return Vec::new();
    }
    vec![Finding {
        check: "store-size",
        severity: Severity::Warning,
        seen: format!("the store has {} and {ended} sagas that have ended", bytes(size)),
        why: "Backups, restores and checks take longer with each of them.",
        mend: "remove them after a while: retention in the daemon's configuration (`sagad config show`), or `sagad \
               purge --state completed,compensated --older-than 30days --reason size`"
            .to_owned(),
    }]
}
