//! Standard output: tables and sentences for people, proto3 JSON for programs, one object a line.

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

/// A terminal that says it is narrower than this does not know its width, or is better off with whole lines.
const WIDTH_MIN: u16 = 40;

/// A terminal with fewer columns than this is narrow: a line of a history with a short reason does not fit.
const NARROW: u16 = 110;

/// What is left of the last column where the others leave it no room: enough to say something.
const LAST_COLUMN_MIN: u16 = 10;

/// The columns of a table.
#[derive(Clone, Copy, Debug)]
pub struct Columns {
    /// Their headings.
    pub names: &'static [&'static str],
    /// Those that a narrow terminal does without, the first to go first.
    pub spare: &'static [&'static str],
}

/// A part of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinePart {
    /// What it says.
    pub text: String,
    /// If a narrow terminal can do without it: when it goes, the lowest first, and what it is called.
    pub spare: Option<(u8, &'static str)>,
}

/// A cell of a table. Whatever it holds, nothing reaches the terminal that can't be shown.
#[derive(Clone, Debug)]
pub struct Cell(comfy_table::Cell);

impl Cell {
    /// A cell with this in it.
    pub fn new(content: impl ToString) -> Self {
        Cell(comfy_table::Cell::new(text::printable(&content.to_string())))
    }

    /// What is shown.
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
    /// Its exit code is an answer as well, so it goes on without its reader and ends with that code.
    Check,
    /// It changes something. It goes on without its reader until all is done, and then fails: nobody got the result.
    Change,
}

/// Results that could not be written.
#[derive(Clone, Debug)]
struct LostOutput {
    /// Why.
    error: String,
    /// The first of them in words, where it has any.
    first: String,
    /// How many there were.
    results: u64,
}

/// Where results go.
#[derive(Clone, Debug)]
pub struct Output {
    format: Format,
    kind: CommandKind,
    /// What could not be written; from then on nothing is.
    lost: Arc<Mutex<Option<LostOutput>>>,
    /// What was left out for lack of room.
    hidden: Arc<Mutex<Vec<&'static str>>>,
    /// A terminal's columns, where they are known.
    width: Option<u16>,
    colour: bool,
}

impl Output {
    /// Standard output in this form. Colours only on a terminal, and never with `NO_COLOR` set.
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
        let line = match self.format {
            Format::Json => json::render(message)?,
            Format::Text => return self.write(&text::multiline(text(message).trim_end()), str::to_owned),
        };
        self.write(&line, |_| text::multiline(&text(message)))
    }

    /// Messages: as JSON one a line, or as one table, with its header or as a further page.
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

    /// A message: as JSON, or as one line, from which a narrow terminal leaves out what it can do without.
    /// `parts` is told whether the terminal is narrow; a spare part that it leaves empty then counts as left out.
    pub fn parts<M: Named>(&self, message: &M, parts: impl FnOnce(&M, bool) -> Vec<LinePart>) -> Result<(), CliError> {
        match self.format {
            Format::Json => self.line(&json::render(message)?),
            Format::Text => {
                let narrow = self.width.is_some_and(|width| width < NARROW);
                self.line(&self.fitted(parts(message, narrow)))
            }
        }
    }

    /// The parts in one line that fits; at last its end is cut.
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

    /// A table for people, without the columns that a narrow terminal has no room for. What is left out of one page is left
    /// out of those that follow.
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
            // Each with the gap behind it; the last can be cut.
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

    /// A table for people, whatever the form is.
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
        // Its cells are escaped; what is left are colours.
        self.write(&trimmed(&table), |_| String::new())
    }

    /// A line, or a text of several, out at once: whoever follows a stream sees it when it happens.
    pub fn line(&self, line: &str) -> Result<(), CliError> {
        let line = match self.format {
            Format::Json => characters::json(line),
            Format::Text => characters::printable_lines(line),
        };
        self.write(&line, |_| String::new())
    }

    /// Writes a line. `words` says what it was about to people who will not see it.
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
                // A reader that has seen enough of a check still gets its exit code.
                let closed = self.kind == CommandKind::Check && error.kind() == io::ErrorKind::BrokenPipe;
                let error = if closed { String::new() } else { error.to_string() };
                *lost = Some(LostOutput { error, first: words(line), results: 1 });
                Ok(())
            }
        }
    }

    /// How the command ends: one that did all it was asked for fails if its result could not be written.
    ///
    /// # Errors
    /// The command's own, or that its result was lost.
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
            table.set_header(header.iter().map(|name| comfy_table::Cell::new(name).add_attribute(Attribute::Bold)));
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
    fn columns_align_by_width_and_not_by_bytes() {
        assert_eq!(laid_out(None, &[["猫", "x"], ["größe", "y"]]), "A      B\n猫     x\ngröße  y");
    }

    #[test]
    fn a_narrow_terminal_does_without_what_it_can() {
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
