//! Draws the table of sagas. Leases count down between two snapshots.

use ratatui::{Frame, layout::Rect, style::Style};

use super::{
    format,
    style::{ALARM, BUSY, DIM, FINE, PLAIN, block},
    table::{self, Cell, Column, figures, text},
};
use crate::{
    cli::{
        tables,
        text::{micros, or_dash, printable},
        top::{
            model::{Focus, Model},
            sort::Sort,
        },
    },
    proto::{Saga, SagaState},
};

const COLUMNS: &[Column] = &[
    text("TASK", 99, 44),
    text("STATE", 98, 20),
    text("QUEUE", 60, 24),
    text("OWNER", 70, 32),
    Column { title: "LEFT", weight: 95, right: true, most: 20 },
    figures("TRY", 40),
    figures("CHANGED", 50),
    text("WHAT", 30, 80),
];

/// Draws the table; `alone` if there is no room for the queues.
pub fn draw(frame: &mut Frame, area: Rect, model: &Model, alone: bool) {
    let rows: Vec<Vec<Cell>> = model.rows().into_iter().map(|saga| row(model, saga)).collect();
    let focused = model.focus == Focus::Sagas;
    let chosen = model.saga.name.as_ref().filter(|_| focused).map(|_| model.saga.row);
    let mut title = title(model, rows.len());
    if alone {
        title.push_str("; no room for queues: Tab");
    }
    table::draw(frame, area, block(title, focused), COLUMNS, rows, chosen);
}

fn title(model: &Model, rows: usize) -> String {
    let more = model.snapshot.as_ref().is_some_and(|snapshot| !snapshot.page.next_page_token.is_empty());
    let mut title = format!("{}: {rows}", model.query.view.name());
    if !model.pages.is_empty() || more {
        title.push_str(&format!(", page {}{}", model.pages.len() + 1, if more { " (> next)" } else { "" }));
    }
    if model.sort != Sort::Created || model.reversed {
        let by = if more || !model.pages.is_empty() { "on this page by" } else { "by" };
        let reversed = if model.reversed { ", reversed" } else { "" };
        title.push_str(&format!(", {by} {}{reversed}", model.sort.name()));
    }
    if model.query.newest_first {
        title.push_str(", newest first");
    }
    if !model.query.queues.is_empty() {
        title.push_str(&format!(", only queue {}", printable(&model.query.queues.join(","))));
    }
    if !model.query.text.is_empty() {
        title.push_str(&format!(", with \"{}\"", printable(&model.query.text)));
    }
    title
}

fn row(model: &Model, saga: &Saga) -> Vec<Cell> {
    let (left, style) = left(model, saga);
    let changed = saga.update_time.as_ref().zip(model.snapshot.as_ref());
    let changed = changed.map(|(at, snapshot)| format::short(snapshot.clock.at(model.now) - micros(at)));
    vec![
        (printable(&saga.task_id), PLAIN),
        (tables::state_text(saga), state_style(saga)),
        (printable(&saga.queue), PLAIN),
        (or_dash(tables::owner(saga)), PLAIN),
        (left, style),
        (saga.attempt.to_string(), PLAIN),
        (changed.unwrap_or_default(), DIM),
        (what(saga), DIM),
    ]
}

/// What the saga is about, and why its cancellation was requested, if it was.
fn what(saga: &Saga) -> String {
    let subject = printable(&tables::subject(saga));
    if saga.cancel_requested { format!("{subject} cancel: {}", printable(&saga.cancel_reason)) } else { subject }
}

/// The remaining time of a lease or reservation, or for how long a lease has been over, by the coordinator's clock,
/// which alone decides.
pub fn left(model: &Model, saga: &Saga) -> (String, Style) {
    let lease = tables::held(saga).and_then(|lease| lease.expire_time.as_ref());
    let reserved = saga.dispatch_expire_time.as_ref().filter(|_| saga.state() == SagaState::Dispatched);
    let (Some(end), Some(snapshot)) = (lease.or(reserved), &model.snapshot) else { return ("-".to_owned(), DIM) };
    let left = micros(end) - snapshot.clock.at(model.now);
    let over = || format::short(-left);
    match (saga.stale, left) {
        (true, _) => (format!("expired {} ago", format::rough(-left)), ALARM),
        // The look was before its end, or it has grace after a restart: the next look tells.
        (false, ..0) => (format!("due {}", over()), BUSY),
        (false, 0..3_000_000) => (format::short(left), BUSY),
        (false, _) => (format::short(left), PLAIN),
    }
}

/// The colour of a state.
pub fn state_style(saga: &Saga) -> Style {
    match saga.state() {
        SagaState::Failed | SagaState::Quarantined | SagaState::Unspecified => ALARM,
        SagaState::Planned | SagaState::Dispatched | SagaState::Running | SagaState::Compensating if saga.stale => {
            ALARM
        }
        SagaState::Compensating | SagaState::Dispatched => BUSY,
        SagaState::Running | SagaState::Completed | SagaState::Compensated => FINE,
        SagaState::Planned => PLAIN,
    }
}
