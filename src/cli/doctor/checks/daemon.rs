//! The daemon itself: its version, its writer, its load, its clock.

use std::time::Duration;

use super::super::{
    facts::DoctorFacts,
    finding::{Finding, Severity, length, seconds},
};
use crate::{
    cli::text::{self, counted},
    proto::{GetVitalsResponse, Refusals},
};

/// An idle writer turns four times a second, and the slowest disk that is not broken syncs within this.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// A queue that is half full is no peak any more: one batch takes all that waits.
const QUEUE_SHARE: f64 = 0.5;
/// A machine that keeps its clock by NTP is off by milliseconds.
const OFFSET_FINE: f64 = 1.0;
/// From here on, times in the history and in logs of other machines don't go together any more.
const OFFSET_WRONG: f64 = 60.0;
/// What happened longer ago is history.
const LATELY: Duration = Duration::from_secs(3600);
/// Open files, as a part of those that are allowed.
const FILES_MANY: f64 = 0.8;
const FILES_TOO_MANY: f64 = 0.95;

pub(super) fn version(facts: &DoctorFacts) -> Vec<Finding> {
    let (ours, theirs) = (&facts.client_version, &facts.info.version);
    if ours == theirs && facts.vitals.is_some() {
        return Vec::new();
    }
    vec![Finding {
        check: "version",
        severity: Severity::Warning,
        seen: format!("this sagad is {ours}, the daemon is {theirs}"),
        why: "One of them may lack what the other has: checks may be missing, and flags may be refused.",
        mend: format!("install the same version of both: `sagad --version` should print {theirs}"),
    }]
}

pub(super) fn writer(facts: &DoctorFacts) -> Vec<Finding> {
    let silence = facts.vitals.as_ref().map(|vitals| length(vitals.writer_silence.as_ref())).unwrap_or_default();
    if silence < SILENCE_MAX {
        return Vec::new();
    }
    vec![Finding {
        check: "writer",
        severity: Severity::Problem,
        seen: format!("the writer has done nothing for {}", text::length(silence)),
        why: "It waits for the disk, or gets no CPU. Meanwhile no change is made, not even a heartbeat.",
        mend: "look at the disk: `iostat -x 1`, `dmesg | tail`; and at the daemon's log".to_owned(),
    }]
}

fn turned_away(vitals: Option<&GetVitalsResponse>) -> i64 {
    let refusals = vitals.and_then(|vitals| vitals.refusals).unwrap_or_default();
    let Refusals { queue_full, no_room, too_many_waiting, disk_full: _ } = refusals;
    queue_full.saturating_add(no_room).saturating_add(too_many_waiting)
}

pub(super) fn overload(facts: &DoctorFacts) -> Vec<Finding> {
    let Some(vitals) = &facts.vitals else { return Vec::new() };
    let (depth, max) = (vitals.writer_queue_depth, vitals.writer_queue_max.max(1));
    let all = turned_away(Some(vitals));
    let now = all.saturating_sub(facts.vitals_before.as_ref().map_or(all, |before| turned_away(Some(before))));
    let full = depth as f64 >= max as f64 * QUEUE_SHARE;
    if !full && all == 0 {
        return Vec::new();
    }
    let severity = if now > 0 || full { Severity::Problem } else { Severity::Note };
    let seen = format!(
        "{depth} of {max} places in the writer's queue are taken; {} refused since the start, {now} of them during \
         this check",
        if all == 1 { "1 change was".to_owned() } else { format!("{all} changes were") }
    );
    vec![Finding {
        check: "overload",
        severity,
        seen,
        why: "Clients try a refused call again later. A heartbeat that comes too late loses its lease.",
        mend: "use fewer or slower clients, longer leases (--ttl), or a faster disk; `sagad bench` measures what it can do"
            .to_owned(),
    }]
}

pub(super) fn clock(facts: &DoctorFacts) -> Vec<Finding> {
    let off = seconds(facts.info.clock_offset.as_ref());
    let clock = facts.vitals.as_ref().and_then(|vitals| vitals.clock).unwrap_or_default();
    let stepped = clock.steps > 0 && facts.since(clock.last_step_time.as_ref()) < LATELY;
    if off.abs() < OFFSET_FINE && !stepped {
        return Vec::new();
    }
    // There is no such thing as a minus of nothing.
    let told = if off.abs() < 0.05 { 0.0 } else { off };
    let mut seen = format!("the coordinator's clock is {told:+.1} s from the machine's UTC");
    if clock.steps > 0 {
        let (last, ago) = (seconds(clock.last_step.as_ref()), facts.since(clock.last_step_time.as_ref()));
        let times = counted(clock.steps, "time");
        seen.push_str(&format!(
            "; the machine's clock was stepped {times} in this run, last by {last:+.1} s, {} ago",
            text::length(ago)
        ));
    }
    let severity = if off.abs() >= OFFSET_WRONG {
        Severity::Problem
    } else if off.abs() >= OFFSET_FINE {
        Severity::Warning
    } else {
        // It was stepped there and back.
        Severity::Note
    };
    vec![Finding {
        check: "clock",
        severity,
        seen,
        why: "The coordinator does not follow such steps, so leases keep their length; but times in the history differ \
              from those in other logs.",
        mend:
            "make sure that the machine's clock is right (`timedatectl`); after a restart the daemon uses UTC again, \
               unless the store has later times"
                .to_owned(),
    }]
}

pub(super) fn absences(facts: &DoctorFacts) -> Vec<Finding> {
    let clock = facts.vitals.as_ref().and_then(|vitals| vitals.clock).unwrap_or_default();
    let ago = facts.since(clock.last_absence_time.as_ref());
    if clock.absences == 0 || ago >= LATELY {
        return Vec::new();
    }
    let span = |span: Option<&prost_types::Duration>| text::length(length(span));
    vec![Finding {
        check: "absences",
        severity: Severity::Warning,
        seen: format!(
            "the daemon was away {} in this run, last for {} ({} ago), at most for {}",
            counted(clock.absences, "time"),
            span(clock.last_absence.as_ref()),
            text::length(ago),
            span(clock.longest_absence.as_ref()),
        ),
        why: "It was stopped, got no CPU, or hung in a write. Leases were extended, but no call was served meanwhile.",
        mend: "look for a suspended machine, a stolen CPU (`vmstat 1`, column st) or a hanging disk (`iostat -x 1`)"
            .to_owned(),
    }]
}

pub(super) fn grace(facts: &DoctorFacts) -> Vec<Finding> {
    let left = facts.vitals.as_ref().and_then(|vitals| vitals.restart_grace_left.as_ref());
    let Some(left) = left else { return Vec::new() };
    vec![Finding {
        check: "grace",
        severity: Severity::Note,
        seen: format!(
            "leases from before the daemon was away are kept for another {}",
            text::length(length(Some(left)))
        ),
        why: "Until then the daemon can't tell dead workers from living ones, so their sagas don't go stale.",
        mend: "wait; --restart-grace of `sagad serve` sets how long this lasts".to_owned(),
    }]
}

pub(super) fn open_files(facts: &DoctorFacts) -> Vec<Finding> {
    let Some(vitals) = &facts.vitals else { return Vec::new() };
    let share = vitals.open_files as f64 / vitals.open_files_max.max(1) as f64;
    if vitals.open_files_max == 0 || share < FILES_MANY {
        return Vec::new();
    }
    vec![Finding {
        check: "open-files",
        severity: if share >= FILES_TOO_MANY { Severity::Problem } else { Severity::Warning },
        seen: format!("{} of {} files and connections are open", vitals.open_files, vitals.open_files_max),
        why: "Each client is a connection. When none is left, new clients wait, and backups fail.",
        mend: "raise the limit (LimitNOFILE= of the unit, or `ulimit -n`), or look for clients that open connections \
               and keep them"
            .to_owned(),
    }]
}
