//! Draws the dialog of an action over the rest of the screen: the question, the request, the result.

use ratatui::{
    Frame,
    layout::Rect,
    style::{Modifier, Style},
    text::Line,
    widgets::{Clear, Paragraph, Wrap},
};

use super::style::{ALARM, BUSY, DIM, block};
use crate::cli::{
    text::printable,
    top::{
        action_dialog::{ActionDialog, DialogStage},
        operator_action::ActionRequest,
    },
};

/// Draws it in the middle of an area.
pub fn draw(frame: &mut Frame, area: Rect, dialog: &ActionDialog) {
    let lines = lines(dialog);
    let width = area.width.min(100);
    let inside = usize::from(width.saturating_sub(2)).max(1);
    let rows: usize = lines.iter().map(|line| line.width().div_ceil(inside).max(1)).sum();
    // Words that don't fit move to the next line whole, so that a wrapped text takes more than its characters do.
    let height = u16::try_from(rows + rows / 4 + 2).unwrap_or(u16::MAX).min(area.height);
    let place = Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    frame.render_widget(Clear, place);
    let title = format!("{}: {}", dialog.action.title(), printable(dialog.target.name()));
    frame.render_widget(Paragraph::new(lines).block(block(title, true)).wrap(Wrap { trim: false }), place);
}

fn lines(dialog: &ActionDialog) -> Vec<Line<'static>> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let keys = |text: &'static str| Line::styled(text, DIM);
    match &dialog.stage {
        DialogStage::Decision => vec![
            Line::styled("r  plan it again, for another worker", bold),
            Line::styled("c  undo what it left behind", bold),
            Line::styled("x  park it for a person", bold),
            keys("Esc: close"),
        ],
        DialogStage::Position => vec![
            Line::styled(format!("position of the compensation: {}_", dialog.position), bold),
            keys("Enter: next   Esc: close"),
        ],
        DialogStage::Reason => vec![
            Line::styled(format!("{}: {}_", dialog.action.asks(), printable(&dialog.reason)), bold),
            keys("Enter: next   Esc: close"),
        ],
        DialogStage::Confirm(typed) => {
            let mut lines = sent(&dialog.request());
            lines.push(Line::raw(""));
            if dialog.action.is_hard() {
                let name = printable(dialog.target.name());
                lines.push(Line::styled(
                    "A live worker loses its lease. What it is doing goes on until it notices.",
                    ALARM,
                ));
                lines.push(Line::styled(format!("type {name} and Enter to do it: {}_", printable(typed)), bold));
                lines.push(keys("Esc: close"));
            } else {
                lines.push(Line::styled("y: do it   n, Esc: close", bold));
            }
            lines
        }
        DialogStage::Sending => {
            let mut lines = sent(&dialog.request());
            lines.push(Line::styled("sent, waiting for the answer...", BUSY));
            lines
        }
        DialogStage::Refused(why) => {
            let mut lines = vec![Line::styled("NOT DONE", ALARM)];
            lines.extend(why.lines().map(|line| Line::raw(line.to_owned())));
            lines.push(keys("any key: close"));
            lines
        }
        DialogStage::Unknown(why) => {
            let mut lines = vec![Line::styled("NO ANSWER: it may have been done, or not", ALARM)];
            lines.extend(why.lines().map(|line| Line::raw(line.to_owned())));
            lines.extend(sent(&dialog.request()));
            lines.push(Line::styled("y: send the very same again, which is done at most once   Esc: close", bold));
            lines
        }
    }
}

/// The request: one field per line.
fn sent(request: &ActionRequest) -> Vec<Line<'static>> {
    let (rpc, fields) = match request.rendered() {
        Ok((rpc, json)) => (rpc, serde_json::from_str::<serde_json::Map<_, _>>(&json).unwrap_or_default()),
        Err(error) => return vec![Line::styled(error.text("").unwrap_or_default(), ALARM)],
    };
    let mut lines = vec![Line::raw(format!("will send {rpc}:"))];
    lines.extend(fields.iter().map(|(name, value)| Line::raw(printable(&format!("  \"{name}\": {value}")))));
    lines
}
