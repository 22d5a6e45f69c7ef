//! Draws a table that fits: each column is as wide as its widest cell. If there is no room for all columns, the least
//! important ones are left out and named on the border, rather than cutting all of them. The two most important ones
//! stay.

use ratatui::{
    Frame,
    layout::{Constraint, Rect},
    style::{Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Row, Table, TableState},
};

use crate::cli::text::cut;

/// A column.
pub struct Column {
    /// Its heading.
    pub title: &'static str,
    /// Its importance: the lowest columns are left out first. Unique within a table.
    pub weight: u8,
    /// True for numbers, which are right-aligned.
    pub right: bool,
    /// Its maximum width.
    pub most: usize,
}

/// A column of text.
pub const fn text(title: &'static str, weight: u8, most: usize) -> Column {
    Column { title, weight, right: false, most }
}

/// A column of numbers.
pub const fn figures(title: &'static str, weight: u8) -> Column {
    Column { title, weight, right: true, most: 12 }
}

/// The least width of the most important column to make room for the next one: some letters of an id.
const FIRST_LEAST: usize = 8;

/// A cell.
pub type Cell = (String, Style);

/// Draws it into a block. `chosen` is the row that stands out, if the keys are for this table.
pub fn draw(
    frame: &mut Frame,
    area: Rect,
    block: Block<'static>,
    columns: &[Column],
    rows: Vec<Vec<Cell>>,
    chosen: Option<usize>,
) {
    let inside = usize::from(block.inner(area).width);
    let widths = widths(columns, &rows, inside);
    let hidden: Vec<&str> =
        columns.iter().zip(&widths).filter(|(_, width)| **width == 0).map(|(column, _)| column.title).collect();
    let block = if hidden.is_empty() {
        block
    } else {
        block.title_bottom(cut(&format!(" no room for {} ", hidden.join(", ")), inside))
    };
    let shown: Vec<usize> = (0..columns.len()).filter(|index| widths[*index] > 0).collect();
    let line = |text: String, style: Style, index: usize| {
        let text = cut(&text, widths[index]);
        let line = Line::from(Span::styled(text, style));
        if columns[index].right { line.right_aligned() } else { line }
    };
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let header = shown.iter().map(|index| line(columns[*index].title.to_owned(), bold, *index));
    let header = Row::new(header.collect::<Vec<_>>());
    let body = rows.into_iter().map(|row| {
        let cells = row.into_iter().enumerate().filter(|(index, _)| widths[*index] > 0);
        Row::new(cells.map(|(index, (text, style))| line(text, style, index)).collect::<Vec<_>>())
    });
    let constraints = shown.iter().map(|index| Constraint::Length(u16::try_from(widths[*index]).unwrap_or(u16::MAX)));
    let table = Table::new(body, constraints)
        .header(header)
        .block(block)
        .column_spacing(2)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::new().with_selected(chosen);
    frame.render_stateful_widget(table, area, &mut state);
}

/// The width of each column; zero: left out.
fn widths(columns: &[Column], rows: &[Vec<Cell>], room: usize) -> Vec<usize> {
    let width = |text: &str| Span::raw(text.to_owned()).width();
    let widest = |index: usize| rows.iter().map(|row| width(&row[index].0)).max().unwrap_or(0);
    let mut widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(index, column)| widest(index).max(width(column.title)).min(column.most))
        .collect();
    let all = |widths: &[usize]| widths.iter().filter(|width| **width > 0).map(|width| width + 2).sum::<usize>();
    loop {
        let needed = all(&widths).saturating_sub(2);
        if needed <= room {
            return widths;
        }
        let left = (0..columns.len()).filter(|index| widths[*index] > 0);
        let (Some(least), Some(most)) =
            (left.clone().min_by_key(|index| columns[*index].weight), left.max_by_key(|index| columns[*index].weight))
        else {
            return widths;
        };
        if least == most {
            widths[most] = room;
            return widths;
        }
        // Of the last two the first is cut, as long as that leaves something of it.
        let rest = room.saturating_sub(widths[least] + 2);
        if widths.iter().filter(|width| **width > 0).count() == 2 && rest >= FIRST_LEAST {
            widths[most] = rest;
            return widths;
        }
        widths[least] = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_important_column_is_hidden_first() {
        let columns = [text("TASK", 9, 40), figures("TRY", 1), text("OWNER", 5, 40)];
        let row = ["fix-7", "1", "worker-3"].map(|cell| (cell.to_owned(), Style::new())).to_vec();
        let rows = [row];
        assert_eq!(widths(&columns, &rows, 40), [5, 3, 8]);
        assert_eq!(widths(&columns, &rows, 17), [5, 0, 8]);
        assert_eq!(widths(&columns, &rows, 10), [5, 0, 0]);
        assert_eq!(widths(&columns, &rows, 3), [3, 0, 0]);
        let row = ["01a20351-8651-7485-8291-f48890a93860", "1", "worker-3"].map(|cell| (cell.to_owned(), Style::new()));
        assert_eq!(widths(&columns, &[row.to_vec()], 20), [10, 0, 8], "the first is cut to make room for OWNER");
    }
}
