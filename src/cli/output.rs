//! Writes to standard output: tables and sentences for people, or proto3 JSON for programs, one object per line.

use std::{
    env,
    io::{self, IsTerminal, Write},
    sync::Arc,
};

use comfy_table::{Attribute, Color, ColumnConstraint, ContentArrangement, Row, Table, Width, presets};
use parking_lot::Mutex;

use super::{
    errors::CliError,
    json::{self, Named},
    text::{self, cut},
};
pub use super::{
    format::{Format, OutputArg},
    notices::notice,
};
use crate::domain::characters;

/// If a terminal reports a smaller width than this, the width is ignored: it is wrong, or whole lines are easier to
/// read.
const WIDTH_MIN: u16 = 40;

/// A terminal with fewer columns than this is narrow: a line of a history with a short reason does not fit.
const NARROW: u16 = 110;

/// The width that the last column keeps when the others need the room.
const LAST_COLUMN_MIN: u16 = 10;

/// The columns of a table.
#[derive(Clone, Copy, Debug)]
pub struct Columns {
    /// The headings, from left to right.
    pub names: &'static [&'static str],
    /// The columns that a narrow terminal can omit, in the order in which they are omitted.
    pub spare: &'static [&'static str],
}

/// A part of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinePart {
    /// The text.
    pub text: String,
    /// Set if a narrow terminal can omit this part: the order of omission (the lowest first) and the part's name.
    pub spare: Option<(u8, &'static str)>,
}

/// A cell of a table. Unprintable characters are escaped before they reach the terminal.
#[derive(Clone, Debug)]
pub struct Cell(comfy_table::Cell);

impl Cell {
    /// A cell with this text.
    pub fn new(content: impl ToString) -> Self {
        Cell(comfy_table::Cell::new(text::printable(&content.to_string())))
    }

    /// The text that is shown.
    #[cfg(test)]
    pub fn content(&self) -> String {
        self.0.content()
    }

    fn fg(self, color: Color) -> Self {
        Cell(self.0.fg(color))
    }
}

/// What a command is for, which decides how it ends when its output can't be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandKind {
    /// It only shows something. When the reader has gone (`sagad list | head`), it ends with exit code 0.
    Query,
    /// Its exit code is part of the result. If its output can't be written, it still runs to the end and returns that
    /// code.
    Check,
    /// It changes something. If its output can't be written, it still does all its work. Then it fails, because the
    /// result was lost.
    Change,
}

/// Results that could not be written.
#[derive(Clone, Debug)]
struct LostOutput {
    /// Why the first write failed; empty if the reader of a check closed the pipe.
    error: String,
    /// A description of the first lost result; can be empty.
    first: String,
    /// The number of lost results.
    results: u64,
}

/// Where results go.
#[derive(Clone, Debug)]
pub struct Output {
    format: Format,
    kind: CommandKind,
    /// The results that could not be written. After the first of them, nothing more is written.
    lost: Arc<Mutex<Option<LostOutput>>>,
    /// The columns and parts that were omitted because there was no room.
    hidden: Arc<Mutex<Vec<&'static str>>>,
    /// The terminal's width in columns, if it is known.
    width: Option<u16>,
    colour: bool,
}

impl Output {
    /// Standard output in this format. Colours are used only on a terminal, and never with `NO_COLOR`.
    pub fn new(form: OutputArg, kind: CommandKind) -> Self {
        let terminal = io::stdout().is_terminal();
        let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        let width = terminal.then(|| Table::new().width()).flatten().filter(|width| *width >= WIDTH_MIN);
        Self {
            format: form.format(),
            kind,
            lost: Arc::default(),
            hidden: Arc::default(),
            width: width.filter(|_| form != OutputArg::Wide),
            colour: terminal && !unwanted && !dumb,
        }
    }

    /// The same output for a part of a command that is of another kind.
    pub fn of_kind(&self, kind: CommandKind) -> Self {
        Output { kind, ..self.clone() }
    }

    /// The format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The terminal's width in columns, if it is known.
    pub fn width(&self) -> Option<u16> {
        self.width
    }

    /// Prints a message as JSON, or as the text that `text` makes of it.
    pub fn message<M: Named>(&self, message: &M, text: impl FnOnce(&M) -> String) -> Result<(), CliError> {
        let line = match self.format {
            Format::Json => json::render(message)?,
            Format::Text => return self.write(&text::multiline(text(message).trim_end()), str::to_owned),
        };
        self.write(&line, |_| text::multiline(&text(message)))
    }

    /// Prints messages as JSON, one per line, or as a table: the first page with a header, further pages without.
    pub fn rows<M: Named>(
        &self,
        messages: &[M],
        columns: &Columns,
        with_header: bool,
        row: impl Fn(&M) -> Vec<Cell>,
    ) -> Result<(), CliError> {
        match self.format {
            Format::Json => messages.iter().try_for_each(|message| self.line(&json::render(message)?)),
            Format::Text => self.tabulate_what_fits(messages, columns, with_header, row),
        }
    }

    /// Prints a message as JSON, or as one line; on a narrow terminal without the spare parts that don't fit. `parts`
    /// is called with true if the terminal is narrow; a spare part that it then leaves empty counts as omitted.
    pub fn parts<M: Named>(&self, message: &M, parts: impl FnOnce(&M, bool) -> Vec<LinePart>) -> Result<(), CliError> {
        match self.format {
            Format::Json => self.line(&json::render(message)?),
            Format::Text => {
                let narrow = self.width.is_some_and(|width| width < NARROW);
                self.line(&self.fitted(parts(message, narrow)))
            }
        }
    }

    /// Joins the parts to a line that fits. It omits spare parts first and then cuts the end.
    fn fitted(&self, mut parts: Vec<LinePart>) -> String {
        let join = |parts: &[LinePart]| parts.iter().map(|part| part.text.as_str()).collect::<Vec<_>>().join("  ");
        let Some(width) = self.width.map(usize::from) else { return join(&parts).trim_end().to_owned() };
        for (_, name) in parts.iter().filter(|part| part.text.is_empty()).filter_map(|part| part.spare) {
            self.hide(name);
        }
        parts.retain(|part| !part.text.is_empty());
        while text::columns(join(&parts).trim_end()) > width
            && let Some((_, name)) = parts.iter().filter_map(|part| part.spare).min()
        {
            parts.retain(|part| part.spare.is_none_or(|(_, other)| other != name));
            self.hide(name);
        }
        cut(join(&parts).trim_end(), width)
    }

    fn hide(&self, name: &'static str) {
        let mut hidden = self.hidden.lock();
        if !hidden.contains(&name) {
            hidden.push(name);
        }
    }

    /// Prints a table without the columns for which a narrow terminal has no room. A column that one page omits is
    /// omitted from the following pages too.
    pub fn tabulate_what_fits<T>(
        &self,
        items: &[T],
        columns: &Columns,
        with_header: bool,
        row: impl Fn(&T) -> Vec<Cell>,
    ) -> Result<(), CliError> {
        let rows: Vec<Vec<Cell>> = items.iter().map(row).collect();
        if let Some(width) = self.width.map(usize::from) {
            let mut all = self.table(Some(columns.names));
            all.add_rows(rows.iter().map(|row| Row::from(row.iter().map(|cell| cell.0.clone()))));
            let widths = all.column_max_content_widths();
            let last = columns.names.len().saturating_sub(1);
            // The width includes the gap after the column. The last column can be cut.
            let needed = |index: usize| match usize::from(widths.get(index).copied().unwrap_or(0)) {
                width if index == last => width.min(usize::from(LAST_COLUMN_MIN)),
                width => width + 2,
            };
            let room = |name: &&&str| !self.hidden.lock().contains(*name);
            let mut spare = columns.spare.iter().filter(room).collect::<Vec<_>>().into_iter();
            loop {
                let shown = columns.names.iter().enumerate().filter(|(_, name)| room(name));
                if shown.map(|(index, _)| needed(index)).sum::<usize>() <= width {
                    break;
                }
                let Some(name) = spare.next() else { break };
                self.hide(name);
            }
        }
        let hidden = self.hidden.lock().clone();
        let shown = |index: &usize| columns.names.get(*index).is_none_or(|name| !hidden.contains(name));
        let names: Vec<&str> = columns.names.iter().copied().filter(|name| !hidden.contains(name)).collect();
        self.tabulate(&rows, with_header.then_some(names.as_slice()), |row| {
            row.iter().enumerate().filter(|(index, _)| shown(index)).map(|(_, cell)| cell.clone()).collect()
        })
    }

    /// Prints a table in each format.
    pub fn tabulate<T>(
        &self,
        items: &[T],
        header: Option<&[&str]>,
        row: impl Fn(&T) -> Vec<Cell>,
    ) -> Result<(), CliError> {
        let mut table = self.table(header);
        for item in items {
            let mut row = Row::from(row(item).into_iter().map(|cell| cell.0));
            if self.width.is_some() {
                row.max_height(1);
            }
            table.add_row(row);
        }
        self.lay_out(&mut table);
        // The cells are escaped already, so all control sequences in the table are colours.
        self.write(&trimmed(&table), |_| String::new())
    }

    /// Prints one or several lines and flushes them, so that the reader of a stream sees them at once.
    pub fn line(&self, line: &str) -> Result<(), CliError> {
        let line = match self.format {
            Format::Json => characters::json(line),
            Format::Text => characters::printable_lines(line),
        };
        self.write(&line, |_| String::new())
    }

    /// Writes a line. If that fails, `words` describes the line for the error message.
    fn write(&self, line: &str, words: impl FnOnce(&str) -> String) -> Result<(), CliError> {
        let mut lost = self.lost.lock();
        if let Some(lost) = &mut *lost {
            lost.results += 1;
            return Ok(());
        }
        let mut stdout = io::stdout().lock();
        let Err(error) = writeln!(stdout, "{line}").and_then(|()| stdout.flush()) else { return Ok(()) };
        match self.kind {
            CommandKind::Query if error.kind() == io::ErrorKind::BrokenPipe => Err(CliError::ClosedPipe),
            CommandKind::Query => Err(CliError::Failed(unwritten(&error.to_string()))),
            CommandKind::Check | CommandKind::Change => {
                // If a check's reader closes the pipe, the check still returns its exit code.
                let closed = self.kind == CommandKind::Check && error.kind() == io::ErrorKind::BrokenPipe;
                let error = if closed { String::new() } else { error.to_string() };
                *lost = Some(LostOutput { error, first: words(line), results: 1 });
                Ok(())
            }
        }
    }

    /// The command's result: a command that succeeded fails if its output could not be written.
    ///
    /// # Errors
    /// The command's own error, or that its output was lost.
    pub fn finish(&self, result: Result<(), CliError>) -> Result<(), CliError> {
        let hidden = self.hidden.lock();
        if !hidden.is_empty() {
            notice(&format!("no room for {}; -o wide shows all", hidden.join(", ")));
        }
        result?;
        match &*self.lost.lock() {
            Some(LostOutput { error, first, results }) if !error.is_empty() => {
                let mut told = format!("done, but {}", unwritten(error));
                if !first.is_empty() {
                    told.push_str(&format!("\n  {first}"));
                    if *results > 1 {
                        told.push_str(&format!("\n  and {} more", results - 1));
                    }
                }
                Err(CliError::Failed(told))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Removes the margin on the left. On a terminal, only the last column is cut if the line is too long: the ids in
    /// the others can be copied. Elsewhere rows stay whole, for `grep` and `awk`.
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
            table.set_header(header.iter().map(|name| comfy_table::Cell::new(name).add_attribute(Attribute::Bold)));
        }
        table
    }
}

/// The table's text without blanks at the ends of its lines.
fn trimmed(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// A red cell: something needs a person.
pub fn alarming(text: String) -> Cell {
    Cell::new(text).fg(Color::Red)
}

/// A green cell: all is well.
pub fn fine(text: String) -> Cell {
    Cell::new(text).fg(Color::Green)
}

/// A yellow cell: something is in progress.
pub fn busy(text: String) -> Cell {
    Cell::new(text).fg(Color::Yellow)
}

fn unwritten(error: &str) -> String {
    format!("the result could not be written to standard output: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn laid_out(width: Option<u16>, rows: &[[&str; 2]]) -> String {
        let output = Output { width, colour: false, ..Output::new(OutputArg::Text, CommandKind::Query) };
        let mut table = output.table(Some(&["A", "B"]));
        for row in rows {
            let mut row = Row::from(*row);
            table.add_row(row.max_height(1).clone());
        }
        output.lay_out(&mut table);
        trimmed(&table)
    }

    #[test]
    fn columns_align_by_display_width_not_bytes() {
        assert_eq!(laid_out(None, &[["猫", "x"], ["größe", "y"]]), "A      B\n猫     x\ngröße  y");
    }

    #[test]
    fn a_narrow_terminal_omits_spare_parts_and_names_them() {
        let part = |text: &str, spare| LinePart { text: text.to_owned(), spare };
        let parts = vec![
            part("created", None),
            part("by ann", Some((1, "ACTOR"))),
            part("why", None),
            part("[a=1]", Some((0, "DETAILS"))),
        ];
        let at = |width| Output { width, ..Output::new(OutputArg::Text, CommandKind::Query) };
        assert_eq!(at(None).fitted(parts.clone()), "created  by ann  why  [a=1]");
        assert_eq!(at(Some(26)).fitted(parts.clone()), "created  by ann  why");
        let narrow = at(Some(13));
        assert_eq!(narrow.fitted(parts.clone()), "created  why");
        assert_eq!(*narrow.hidden.lock(), ["DETAILS", "ACTOR"]);
        assert_eq!(at(Some(9)).fitted(parts), "created …");
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
