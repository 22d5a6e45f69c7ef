//! Draws the header: the coordinator, the age of the snapshot, and the totals.

use ratatui::{
    style::{Modifier, Style},
    text::{Line, Span},
};

use super::{
    format,
    style::{ALARM, BUSY, DIM, FINE, PLAIN},
};
use crate::{
    cli::{
        text::{bytes, micros, printable, total},
        top::model::Model,
    },
    proto::{GetStatsResponse, GetVitalsResponse, SagaState},
};

/// Most lines of each of its two parts on a narrow screen.
const LINES_MAX: usize = 3;
/// A clock that is further from UTC than this stands out: certificates and people's clocks are no further apart.
const OFFSET_FINE: f64 = 1.0;

/// Its lines.
pub fn lines(model: &Model, width: u16) -> Vec<Line<'static>> {
    let mut lines = format::flow(daemon(model), width, LINES_MAX);
    lines.extend(format::flow(totals(model), width, LINES_MAX));
    let vitals = model.snapshot.as_ref().and_then(|snapshot| snapshot.vitals.as_ref());
    lines.extend(format::flow(vitals.map(machine).unwrap_or_default(), width, LINES_MAX));
    lines
}

/// The daemon's vitals, if known.
fn machine(vitals: &GetVitalsResponse) -> Vec<Span<'static>> {
    let mut facts = Vec::new();
    match vitals.commits.as_ref().filter(|commits| commits.count > 0) {
        Some(commits) => facts.push(Span::raw(format!(
            "commits p50 {} p99 {} max {}",
            format::length(commits.p50.as_ref()),
            format::length(commits.p99.as_ref()),
            format::length(commits.max.as_ref())
        ))),
        None => facts.push(Span::styled("no commits for a minute", DIM)),
    }
    if let Some(log) = &vitals.log {
        let style = if log.max_bytes > 0 && log.bytes >= log.max_bytes { ALARM } else { PLAIN };
        facts.push(Span::styled(format!("log {} of {}", bytes(log.bytes), bytes(log.max_bytes)), style));
    }
    if let Some(disk) = &vitals.disk {
        let style = if vitals.disk_full { ALARM } else { PLAIN };
        facts.push(Span::styled(format!("store {}, {} free", bytes(disk.store_bytes), bytes(disk.free_bytes)), style));
    }
    facts
}

fn daemon(model: &Model) -> Vec<Span<'static>> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let server = Span::styled(printable(&model.settings.server), bold);
    let Some(snapshot) = &model.snapshot else { return vec![server, link(model)] };
    let info = &snapshot.info;
    let started = info.start_time.as_ref().map_or(0, micros);
    let mut facts = vec![
        Span::styled(format!("sagad {}", printable(&info.version)), bold),
        server,
        link(model),
        Span::raw(format!("up {}", format::short(snapshot.clock.at(model.now) - started))),
        Span::raw(format!("revision {}", snapshot.stats.revision)),
    ];
    if let Some(offset) = &info.clock_offset {
        let off = (offset.seconds as f64 + f64::from(offset.nanos) / 1e9).abs() > OFFSET_FINE;
        facts.push(Span::styled(format!("clock {}", format::offset(offset)), if off { ALARM } else { PLAIN }));
    }
    facts
}

/// Whether the daemon answers, and the age of the snapshot.
fn link(model: &Model) -> Span<'static> {
    let age = model.snapshot.as_ref().map(|snapshot| model.now.since(snapshot.seen));
    let age = age.map(|age| format::short(i64::try_from(age.as_micros()).unwrap_or(i64::MAX)));
    match (&model.fetch_error, age) {
        (None, None) => Span::styled("asking...", BUSY),
        (None, Some(age)) => Span::styled(format!("live, {age} old"), FINE),
        (Some(why), None) => Span::styled(format!("NO ANSWER: {why}"), ALARM),
        (Some(why), Some(age)) => Span::styled(format!("NO ANSWER, {age} OLD: {why}"), ALARM),
    }
}

fn totals(model: &Model) -> Vec<Span<'static>> {
    let Some(GetStatsResponse { queues, ready, stale, waiting, oldest_ready_age, writer_queue_depth, .. }) =
        model.snapshot.as_ref().map(|snapshot| &snapshot.stats)
    else {
        return Vec::new();
    };
    let count = |state: SagaState| {
        let states = queues.iter().flat_map(|queue| &queue.states).filter(|count| count.state() == state);
        total(states.map(|count| count.count))
    };
    let quarantined = count(SagaState::Quarantined);
    let oldest = oldest_ready_age.as_ref().filter(|_| *ready > 0);
    let oldest = oldest.map(|age| format!(" (oldest {})", format::length(Some(age)))).unwrap_or_default();
    let alarm = |number: i64| if number > 0 { ALARM } else { DIM };
    vec![
        Span::raw(format!("{ready} ready{oldest}")),
        Span::raw(format!("{} running", count(SagaState::Running))),
        Span::raw(format!("{} compensating", count(SagaState::Compensating))),
        Span::styled(format!("{stale} stale"), alarm(*stale)),
        Span::styled(format!("{quarantined} quarantined"), if quarantined > 0 { BUSY } else { DIM }),
        Span::raw(format!("{waiting} waiting claims")),
        Span::raw(format!("writer queue {writer_queue_depth}")),
    ]
}
