//! Draws the help over the rest of the screen.

use ratatui::{
    Frame,
    layout::Rect,
    text::Line,
    widgets::{Clear, Paragraph, Wrap},
};

use super::style::block;

const KEYS: &[(&str, &str)] = &[
    ("q, Ctrl-C", "leave"),
    ("Up Down j k, PgUp PgDn", "move; Home End g G to the ends"),
    ("> <", "next page, page before"),
    ("Enter, Esc", "open a saga or a queue; go back"),
    ("Tab", "between queues and sagas"),
    ("1 2 3 4 5 6", "running, stale, compensating, planned, quarantined, in flight"),
    ("/ f", "find a text; only these queues; Esc shows all again"),
    ("s S o", "sort, reverse, newest first"),
    ("space", "refresh now"),
    ("r", "recover a stale saga: plan again, undo, park"),
    ("c C", "cancel; C takes it from its worker at once"),
    ("x X", "quarantine; X takes it from its worker at once"),
    ("w a", "waive a compensation; add a note"),
    ("p", "pause or resume the queue"),
    ("", "Each action asks for a reason, shows its request, and has to be confirmed."),
];

/// Draws them.
pub fn draw(frame: &mut Frame, area: Rect) {
    let lines: Vec<Line> = KEYS.iter().map(|(keys, what)| Line::raw(format!("{keys:<24}{what}"))).collect();
    frame.render_widget(Clear, area);
    let block = block("keys; any key goes back".to_owned(), true);
    frame.render_widget(Paragraph::new(lines).block(block).wrap(Wrap { trim: false }), area);
}
