//! Styles and frames that all parts of the screen use.

use ratatui::{
    style::{Color, Modifier, Style},
    text::Line,
    widgets::Block,
};

/// What needs a person.
pub(super) const ALARM: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);

/// What is under way.
pub(super) const BUSY: Style = Style::new().fg(Color::Yellow);

/// What is fine.
pub(super) const FINE: Style = Style::new().fg(Color::Green);

/// What is there for the sake of completeness.
pub(super) const DIM: Style = Style::new().fg(Color::DarkGray);

/// Nothing special.
pub(super) const PLAIN: Style = Style::new();

/// A frame around a part of the screen; that which the keys are for stands out.
pub(super) fn block(title: String, focused: bool) -> Block<'static> {
    let style = if focused { Style::new().add_modifier(Modifier::BOLD) } else { DIM };
    Block::bordered().title(Line::styled(format!(" {title} "), style)).border_style(style)
}
