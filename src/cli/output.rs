//! Standard output: tables and sentences for people, proto3 JSON for programs, one object a line.

use std::{
    env,
    io::{self, IsTerminal, Write},
};

use clap::ValueEnum;
use comfy_table::{Attribute, Cell, Color, ColumnConstraint, ContentArrangement, Row, Table, Width, presets};

use super::{
    errors::CliError,
    json::{self, Named},
};

/// A terminal that says it is narrower than this does not know its width, or is better off with whole lines.
const WIDTH_MIN: u16 = 40;

/// What is left of the last column where the others leave it no room: enough to say something.
const LAST_COLUMN_MIN: u16 = 10;

/// The form of results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "a comment on each would be shown in every command's help")]
pub enum Format {
    Text,
    Json,
}

/// Where results go.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    format: Format,
    /// A terminal's columns, where they are known.
    width: Option<u16>,
    colour: bool,
}

impl Output {
    /// Standard output in this form. Colours only on a terminal, and never with `NO_COLOR` set.
    pub fn new(format: Format) -> Self {
        let terminal = io::stdout().is_terminal();
        let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        let width = terminal.then(|| Table::new().width()).flatten().filter(|width| *width >= WIDTH_MIN);
        Self { format, width, colour: terminal && !unwanted && !dumb }
    }

    /// The form.
    pub fn format(&self) -> Format {
        self.format
    }

    /// A terminal's columns, where they are known.
    pub fn width(&self) -> Option<u16> {
        self.width
    }

    /// A message: as JSON, or as the text that `text` makes of it.
    pub fn message<M: Named>(&self, message: &M, text: impl FnOnce(&M) -> String) -> Result<(), CliError> {
        match self.format {
            Format::Json => self.line(&json::render(message)?),
            Format::Text => self.line(text(message).trim_end()),
        }
    }

    /// Messages: as JSON one a line, or as one table.
    pub fn rows<M: Named>(
        &self,
        messages: &[M],
        header: Option<&[&str]>,
        row: impl Fn(&M) -> Vec<Cell>,
    ) -> Result<(), CliError> {
        match self.format {
            Format::Json => messages.iter().try_for_each(|message| self.line(&json::render(message)?)),
            Format::Text => self.tabulate(messages, header, row),
        }
    }

    /// A table for people, whatever the form is.
    pub fn tabulate<T>(
        &self,
        items: &[T],
        header: Option<&[&str]>,
        row: impl Fn(&T) -> Vec<Cell>,
    ) -> Result<(), CliError> {
        let mut table = self.table(header);
        for item in items {
            let mut row = Row::from(row(item));
            if self.width.is_some() {
                row.max_height(1);
            }
            table.add_row(row);
        }
        self.lay_out(&mut table);
        self.line(&trimmed(&table))
    }

    /// A line, out at once: whoever follows a stream sees it when it happens.
    pub fn line(&self, line: &str) -> Result<(), CliError> {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{line}")?;
        stdout.flush()?;
        Ok(())
    }

    /// Columns without a margin on the left. On a terminal the last one is cut short where the line would be too
    /// long, and no other: ids are there to be copied. Elsewhere rows stay whole, for `grep` and `awk`.
    fn lay_out(&self, table: &mut Table) {
        let last = table.column_count().saturating_sub(1);
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, if index == last { 0 } else { 2 }));
            column.set_constraint(if index == last {
                ColumnConstraint::LowerBoundary(Width::Fixed(LAST_COLUMN_MIN))
            } else {
                ColumnConstraint::ContentWidth
            });
        }
        if let Some(width) = self.width {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width).set_truncation_indicator("…");
        }
    }

    /// An empty table.
    fn table(&self, header: Option<&[&str]>) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        if self.colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        if let Some(header) = header {
            table.set_header(header.iter().map(|name| Cell::new(name).add_attribute(Attribute::Bold)));
        }
        table
    }
}

/// The table without blanks at the ends of its lines.
fn trimmed(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// A cell that stands out: red for what needs a person.
pub fn alarming(text: String) -> Cell {
    Cell::new(text).fg(Color::Red)
}

/// A cell in green: all is well.
pub fn fine(text: String) -> Cell {
    Cell::new(text).fg(Color::Green)
}

/// A cell in yellow: something is under way.
pub fn busy(text: String) -> Cell {
    Cell::new(text).fg(Color::Yellow)
}

/// A note to people on stderr.
pub fn notice(text: &str) {
    // There is nowhere left to complain about stderr.
    writeln!(io::stderr(), "sagad: {text}").ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn laid_out(width: Option<u16>, rows: &[[&str; 2]]) -> String {
        let output = Output { format: Format::Text, width, colour: false };
        let mut table = output.table(Some(&["A", "B"]));
        for row in rows {
            let mut row = Row::from(*row);
            table.add_row(row.max_height(1).clone());
        }
        output.lay_out(&mut table);
        trimmed(&table)
    }

    #[test]
    fn columns_align_by_width_and_not_by_bytes() {
        assert_eq!(laid_out(None, &[["猫", "x"], ["größe", "y"]]), "A      B\n猫     x\ngröße  y");
    }

    #[test]
    fn on_a_terminal_only_the_last_column_is_cut_short() {
        let id = "01a20351-8651-7485-8291-f48890a93860";
        let text = laid_out(Some(50), &[[id, "a branch with a rather long name"]]);
        let row = text.lines().nth(1).expect("a header and a row");
        assert!(row.starts_with(id) && row.ends_with('…') && row.chars().count() <= 50, "{text}");
        assert_eq!(text.lines().count(), 2, "{text}");
    }
}
