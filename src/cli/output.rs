//! Standard output: tables and sentences for people, proto3 JSON for programs, one object a line.

use std::{
    env,
    io::{self, IsTerminal, Write},
};

use clap::ValueEnum;
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};

use super::{
    errors::CliError,
    json::{self, Named},
};

/// The width that tables are laid out for where no terminal says.
#[cfg(test)]
const PLAIN_WIDTH: usize = 100;

/// The form of results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Where results go.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    format: Format,
    terminal: bool,
    colour: bool,
}

impl Output {
    /// Standard output in this form. Colours only on a terminal, and never with `NO_COLOR` set.
    pub fn new(format: Format) -> Self {
        let terminal = io::stdout().is_terminal();
        let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { format, terminal, colour: terminal && !unwanted && !dumb }
    }

    /// The form.
    pub fn format(&self) -> Format {
        self.format
    }

    /// A message: as JSON, or as the text that `text` makes of it.
    pub fn message<M: Named>(&self, message: &M, text: impl FnOnce(&M) -> String) -> Result<(), CliError> {
        match self.format {
            Format::Json => self.line(&json::render(message)?),
            Format::Text => self.line(text(message).trim_end()),
        }
    }

    /// Messages: as JSON one a line, or as one table; people are told when there are none.
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
            table.add_row(row(item));
        }
        self.line(&trimmed(&table))
    }

    /// A line, out at once: whoever follows a stream sees it when it happens.
    pub fn line(&self, line: &str) -> Result<(), CliError> {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{line}")?;
        stdout.flush()?;
        Ok(())
    }

    /// An empty table. On a terminal it is fitted to its width; elsewhere rows stay whole, for `grep` and `awk`.
    fn table(&self, header: Option<&[&str]>) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        if self.terminal {
            table.set_content_arrangement(ContentArrangement::Dynamic);
            if let Some(width) = table.width() {
                table.set_width(width);
            }
        }
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

/// The table without the padding that its style puts around it.
fn trimmed(table: &Table) -> String {
    let lines = table.lines().map(|line| {
        let line = line.strip_prefix(' ').map(ToOwned::to_owned).unwrap_or(line);
        line.trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
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

    #[test]
    fn columns_align_by_width_and_not_by_bytes() {
        let output = Output { format: Format::Text, terminal: false, colour: false };
        let mut table = output.table(Some(&["A", "B"]));
        table.add_row(["猫", "x"]).add_row(["größe", "y"]);
        let text = trimmed(&table);
        assert_eq!(text, "A      B\n猫     x\ngröße  y");
        assert!(text.lines().all(|line| line.len() <= PLAIN_WIDTH));
    }
}
