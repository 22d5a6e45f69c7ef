//! `sagad top --once`: prints the screen as text, or its contents as JSON.

use ratatui::{Terminal, backend::TestBackend};
use serde_json::{Value, json};

use super::{
    draw::{self, Theme},
    model::{Message, Model},
    snapshot::Snapshot,
};
use crate::{
    cli::{
        errors::CliError,
        json::{self, Named},
        output::{Format, Output},
    },
    client::time,
};

/// The width without a terminal.
const WIDTH: u16 = 120;
/// Lines besides the rows: the largest header, headings and borders of two tables, and the bottom line.
const OTHER_LINES: usize = 9 + 3 + 3 + 1;

/// Prints it.
pub fn print(output: &Output, mut model: Model, snapshot: Snapshot) -> Result<(), CliError> {
    if output.format() == Format::Json {
        return output.line(&data(&model, &snapshot)?.to_string());
    }
    let rows = OTHER_LINES + snapshot.stats.queues.len() + snapshot.page.sagas.len();
    model.update(time::now(), Message::Fetched(Box::new(snapshot)));
    let height = u16::try_from(rows).unwrap_or(u16::MAX);
    let lines = screen(&model, output.width().unwrap_or(WIDTH), height)?;
    output.line(&lines.join("\n"))
}

/// The lines of a screen, without the line of keys and trailing empty lines.
fn screen(model: &Model, width: u16, height: u16) -> Result<Vec<String>, CliError> {
    let failed = |error: std::convert::Infallible| CliError::Failed(error.to_string());
    let mut terminal = Terminal::new(TestBackend::new(width, height)).map_err(failed)?;
    let theme = Theme { colour: false, ..Theme::here() };
    terminal.draw(|frame| draw::draw(frame, model, theme)).map_err(failed)?;
    let buffer = terminal.backend().buffer();
    let rows = buffer.content.chunks(usize::from(width.max(1)));
    let mut lines: Vec<String> =
        rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned()).collect();
    lines.pop();
    Ok(lines)
}

fn data(model: &Model, snapshot: &Snapshot) -> Result<Value, CliError> {
    Ok(json!({
        "server": model.settings.server,
        "info": value(&snapshot.info)?,
        "stats": value(&snapshot.stats)?,
        "vitals": snapshot.vitals.as_ref().map(value).transpose()?,
        "queues": snapshot.queues.iter().map(value).collect::<Result<Vec<_>, _>>()?,
        "sagas": snapshot.page.sagas.iter().map(value).collect::<Result<Vec<_>, _>>()?,
        "more": !snapshot.page.next_page_token.is_empty(),
    }))
}

fn value<M: Named>(message: &M) -> Result<Value, CliError> {
    serde_json::from_str(&json::render(message)?).map_err(|error| CliError::Failed(error.to_string()))
}
