//! The daemon's output: log lines and messages go to stderr, as text or JSON with UTC times, and results to stdout, so
//! that the two never mix. Nothing that writes waits for a reader: see [`Output`].

mod output;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    fmt::Write,
    io::{self, IsTerminal},
    panic,
    sync::LazyLock,
    thread,
};

use tracing::field::Field;
use tracing_subscriber::{
    field::MakeExt,
    filter::Targets,
    fmt::{self, FormatFields, format, format::Writer},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::{
    config::LogFormat,
    domain::characters::{PrintableWriter, printable_lines},
};
pub use output::{JsonLines, Output, OutputEvents, TextLine};

/// Where log lines and messages go.
static STDERR: LazyLock<Output> = LazyLock::new(|| {
    let reports = OutputEvents {
        dropped: |lines| tracing::warn!(lines, "lines of the log were dropped: whoever reads it was too slow"),
        // There is nowhere to report it.
        failed: |_| {},
    };
    Output::start("sagad-stderr", output::without_lock(io::stderr()), reports)
});
/// Where results go.
static STDOUT: LazyLock<Output> = LazyLock::new(|| {
    let reports = OutputEvents {
        dropped: |_| {},
        // The reader closed stdout; that is no reason to end.
        failed: |error| tracing::info!(%error, "stdout can't be written to"),
    };
    Output::start("sagad-stdout", output::without_lock(io::stdout()), reports)
});

/// Why logging could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter does not parse.
    #[error("{filter:?} is not a log filter: {problem}")]
    Filter {
        /// The filter.
        filter: String,
        /// Why.
        problem: String,
    },
    /// Logging was started before.
    #[error("logging is set up already")]
    SetUp,
}

/// Sends the process's log lines to stderr, and the messages of panics. Colours only for a terminal, and not with
/// `NO_COLOR`.
///
/// # Errors
/// A filter that does not parse, or logging that was set up before.
pub fn start(format: LogFormat, filter: &str) -> Result<(), LogError> {
    let lines = filter
        .parse::<Targets>()
        .map_err(|error| LogError::Filter { filter: filter.to_owned(), problem: error.to_string() })?;
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let registry = tracing_subscriber::registry().with(lines);
    // The default timer writes UTC with microseconds, as RFC 3339 has it. Errors of the layer itself would be printed,
    // and printing waits; there are none, as an output takes everything.
    let layer = fmt::layer().log_internal_errors(false);
    let started = match format {
        LogFormat::Text => {
            registry.with(layer.with_writer(STDERR.clone()).with_ansi(colours).fmt_fields(fields())).try_init()
        }
        LogFormat::Json => {
            registry.with(layer.with_writer(JsonLines(STDERR.clone())).json().flatten_event(true)).try_init()
        }
    };
    started.map_err(|_| LogError::SetUp)?;
    // The standard hook prints to stderr itself, and waits for it.
    panic::set_hook(Box::new(move |info| {
        let backtrace = Backtrace::capture();
        let thread = thread::current();
        let name = thread.name().unwrap_or("<unnamed>");
        let backtrace =
            if backtrace.status() == BacktraceStatus::Captured { format!("\n{backtrace}") } else { String::new() };
        report_failure(format, &format!("thread '{name}' {info}{backtrace}"));
    }));
    Ok(())
}

/// Formats the fields of a text log line like the default, but escapes everything that can't be shown: callers' texts
/// are among them, and must not look like lines of their own.
fn fields() -> impl for<'writer> FormatFields<'writer> {
    let field = |writer: &mut Writer<'_>, field: &Field, value: &dyn std::fmt::Debug| {
        if field.name() != "message" {
            let (begin, between, end) = if writer.has_ansi_escapes() {
                ("\u{1b}[3m", "\u{1b}[0m\u{1b}[2m=", "\u{1b}[0m")
            } else {
                ("", "=", "")
            };
            write!(writer, "{begin}{}{between}{end}", field.name().trim_start_matches("r#"))?;
        }
        write!(PrintableWriter(writer), "{value:?}")
    };
    format::debug_fn(field).delimited(" ")
}

/// Reports on stderr why something failed: as a log line if a collector reads JSON; else as a message, so that it is
/// seen even if the filter hides log lines.
pub fn report_failure(format: LogFormat, error: &str) {
    if format == LogFormat::Json && tracing::enabled!(tracing::Level::ERROR) {
        tracing::error!(error, "failed");
    } else {
        print_message(error);
    }
}

/// Writes a message to stderr.
pub fn print_message(message: &str) {
    STDERR.push(format!("sagad: {}\n", printable_lines(message)).as_bytes());
}

/// Writes a result to stdout.
pub fn print_result(line: &str) {
    STDOUT.push(format!("{}\n", printable_lines(line)).as_bytes());
}

/// The number of log lines dropped because the reader was too slow.
pub fn dropped_lines() -> u64 {
    STDERR.dropped()
}

/// Waits until everything is written, at most a second for each output. Call it at the end of the process.
pub fn flush() {
    STDOUT.flush();
    STDERR.flush();
}
