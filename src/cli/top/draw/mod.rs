//! Draws the model. Pure: the same model and size make the same screen.

mod action_dialog;
mod detail;
mod format;
mod header;
mod help;
mod queues;
mod sagas;
mod style;
mod table;

#[cfg(test)]
mod tests;

use ratatui::{
    Frame,
    buffer::Buffer,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::Line,
    widgets::Paragraph,
};

use self::style::DIM;
use super::model::{Focus, Model, Typing};
use crate::domain::characters;

/// What the terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Theme {
    /// More than ASCII.
    pub unicode: bool,
    /// Colours.
    pub colour: bool,
}

/// From this height on there is room for queues and sagas at once: two rows of the one, four of the other, their headings
/// and borders.
const BOTH_FROM: u16 = 12;
/// Rows of sagas that queues leave, unless the keys are for them.
const SAGAS_LEFT: u16 = 4;
/// A heading and the borders.
const AROUND_ROWS: u16 = 3;
/// Queues shown above the sagas, unless the keys are for them.
const QUEUES_SHOWN: u16 = 6;

/// Draws everything.
pub fn draw(frame: &mut Frame, model: &Model, theme: Theme) {
    let all = frame.area();
    let header = header::lines(model, all.width);
    let height = u16::try_from(header.len()).unwrap_or(u16::MAX);
    let [top, body, bottom] =
        Layout::vertical([Constraint::Length(height), Constraint::Min(0), Constraint::Length(1)]).areas(all);
    frame.render_widget(Paragraph::new(header), top);
    let (queues, sagas) = halves(model, body);
    if let Some(area) = queues {
        queues::draw(frame, area, model, sagas.is_none());
    }
    if let Some(area) = sagas {
        match &model.query.detail {
            Some(task_id) => detail::draw(frame, area, model, task_id),
            None => sagas::draw(frame, area, model, queues.is_none()),
        }
    }
    frame.render_widget(Paragraph::new(foot(model)), bottom);
    if let Some(dialog) = &model.dialog {
        action_dialog::draw(frame, body, dialog);
    }
    if model.help {
        help::draw(frame, all);
    }
    plain(frame.buffer_mut(), theme);
}

/// Where the queues go and where the sagas; on a low screen only that which the keys are for.
fn halves(model: &Model, body: Rect) -> (Option<Rect>, Option<Rect>) {
    if model.query.detail.is_some() {
        return (None, Some(body));
    }
    if body.height < BOTH_FROM {
        return match model.focus {
            Focus::Queues => (Some(body), None),
            Focus::Sagas => (None, Some(body)),
        };
    }
    let rows = u16::try_from(model.queues().len()).unwrap_or(u16::MAX).max(1);
    let shown = match model.focus {
        Focus::Queues => rows.min(body.height / 2),
        Focus::Sagas => rows.min(QUEUES_SHOWN).min(body.height - 2 * AROUND_ROWS - SAGAS_LEFT),
    };
    let [queues, sagas] = Layout::vertical([Constraint::Length(shown + AROUND_ROWS), Constraint::Min(0)]).areas(body);
    (Some(queues), Some(sagas))
}

/// The line at the bottom: what is being typed, what came of the last key, or which keys there are.
fn foot(model: &Model) -> Line<'static> {
    match &model.typing {
        Some(Typing::Text(text)) => return Line::raw(format!("search for: {text}_   Enter: search   Esc: cancel")),
        Some(Typing::Queues(text)) => {
            return Line::raw(format!("only queues (a,b): {text}_   Enter: apply   Esc: cancel"));
        }
        None => {}
    }
    if !model.notice.is_empty() {
        return Line::styled(model.notice.clone(), Style::new().add_modifier(Modifier::BOLD));
    }
    let keys = match (&model.query.detail, model.focus, model.settings.read_only) {
        (Some(_), _, true) => "Esc back  j/k scroll  ? help  q quit  (read-only)",
        (Some(_), _, false) => "Esc back  r recover  c cancel  x quarantine  w waive  a note  ? help  q quit",
        (None, Focus::Sagas, true) => "Enter open  1-6 view  / find  s sort  Tab queues  ? help  q quit  (read-only)",
        (None, Focus::Sagas, false) => {
            "? help  q quit  Enter open  r recover  c cancel  x quarantine  1-6 view  / find  s sort  Tab queues"
        }
        (None, Focus::Queues, true) => "Enter its sagas  Tab sagas  ? help  q quit  (read-only)",
        (None, Focus::Queues, false) => "Enter its sagas  p pause/resume  Tab sagas  ? help  q quit",
    };
    Line::styled(keys, DIM)
}

/// Takes from the screen what the terminal can't show, or is not to.
fn plain(buffer: &mut Buffer, theme: Theme) {
    for cell in &mut buffer.content {
        if !theme.colour {
            (cell.fg, cell.bg) = (Color::Reset, Color::Reset);
        }
        // Texts come escaped. Should one not, it still does nothing to the terminal.
        if cell.symbol().contains(characters::is_unprintable) {
            cell.set_symbol("?");
        }
        if !theme.unicode && !cell.symbol().is_ascii() {
            cell.set_symbol(match cell.symbol() {
                "─" => "-",
                "│" => "|",
                "┌" | "┐" | "└" | "┘" => "+",
                "…" => "~",
                _ => "?",
            });
        }
    }
}
