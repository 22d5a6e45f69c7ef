//! Draws the table of queues: their counts and rates.

use ratatui::{Frame, layout::Rect};

use super::{
    format,
    style::{ALARM, BUSY, DIM, PLAIN, block},
    table::{self, Cell, Column, figures, text},
};
use crate::{
    cli::{
        text::{printable, total},
        top::model::{Focus, Model},
    },
    proto::{QueueStats, SagaState},
};

const COLUMNS: &[Column] = &[
    text("QUEUE", 99, 40),
    figures("READY", 90),
    figures("OLDEST", 80),
    figures("STALE", 95),
    figures("PLAN", 40),
    figures("DISP", 30),
    figures("RUN", 85),
    figures("COMP", 70),
    figures("QUAR", 60),
    figures("NEW/s", 50),
    figures("CLAIM/s", 48),
    figures("DONE/s", 55),
    figures("FAIL/s", 45),
    figures("EXP/s", 46),
    text("PAUSED BY", 20, 60),
];

/// Draws the table; `alone` if there is no room for the sagas.
pub fn draw(frame: &mut Frame, area: Rect, model: &Model, alone: bool) {
    let rows: Vec<Vec<Cell>> = model.queues().into_iter().map(|queue| row(model, queue)).collect();
    let focused = model.focus == Focus::Queues;
    let chosen = model.queue.name.as_ref().filter(|_| focused).map(|_| model.queue.row);
    let mut title = match (rows.len(), model.query.queues.is_empty()) {
        (count, true) => format!("queues: {count}"),
        (count, false) => format!("queues: {count}, filtered"),
    };
    let left_out = model.snapshot.as_ref().map_or(0, |snapshot| snapshot.stats.omitted_queues);
    if left_out > 0 {
        title.push_str(&format!(", {left_out} not shown"));
    }
    let title = if alone { format!("{title}; no room for sagas: Tab") } else { title };
    table::draw(frame, area, block(title, focused), COLUMNS, rows, chosen);
}

fn row(model: &Model, queue: &QueueStats) -> Vec<Cell> {
    let count =
        |state: SagaState| total(queue.states.iter().filter(|count| count.state() == state).map(|count| count.count));
    let figure = |number: i64| (format::number(number), if number == 0 { DIM } else { PLAIN });
    let alarm = |number: i64, style| (format::number(number), if number == 0 { DIM } else { style });
    let age = queue.oldest_ready_age.as_ref().filter(|_| queue.ready > 0);
    let name = printable(&queue.queue);
    let mut cells = vec![
        if queue.paused { (format!("{name} PAUSED"), BUSY) } else { (name, PLAIN) },
        figure(queue.ready),
        (format::length(age), PLAIN),
        alarm(queue.stale, ALARM),
        figure(count(SagaState::Planned)),
        figure(count(SagaState::Dispatched)),
        figure(count(SagaState::Running)),
        figure(count(SagaState::Compensating)),
        alarm(count(SagaState::Quarantined), BUSY),
    ];
    match model.rates.of(&queue.queue, model.now) {
        Some(rates) => {
            cells.extend(rates.map(|rate| (format::rate(rate), if rate == 0.0 { DIM } else { PLAIN })));
        }
        None => cells.extend((0..5).map(|_| ("-".to_owned(), DIM))),
    }
    cells.push((paused_by(model, queue), DIM));
    cells
}

fn paused_by(model: &Model, queue: &QueueStats) -> String {
    let known = model.snapshot.iter().flat_map(|snapshot| &snapshot.queues);
    let by = known.filter(|known| queue.paused && known.queue == queue.queue);
    by.map(|known| format!("{}: {}", printable(&known.actor), printable(&known.reason))).next().unwrap_or_default()
}
