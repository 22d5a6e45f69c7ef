//! Log lines: to stderr, as text or JSON, with UTC times. Results go to stdout, so that the two never mix.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::LogFormat;

/// Why there are no logs.
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
    /// Something else collects this process's logs already.
    #[error("logging is set up already")]
    SetUp,
}

/// Sends the process's log lines to stderr. Colours only for a terminal, and not with `NO_COLOR`.
///
/// # Errors
/// A filter that does not parse, or logging that was set up before.
pub fn start(format: LogFormat, filter: &str) -> Result<(), LogError> {
    let lines = EnvFilter::try_new(filter)
        .map_err(|error| LogError::Filter { filter: filter.to_owned(), problem: error.to_string() })?;
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let registry = tracing_subscriber::registry().with(lines);
    // The default timer writes UTC with microseconds, as RFC 3339 has it.
    let started = match format {
        LogFormat::Text => registry.with(fmt::layer().with_writer(io::stderr).with_ansi(colours)).try_init(),
        LogFormat::Json => registry.with(fmt::layer().json().flatten_event(true).with_writer(io::stderr)).try_init(),
    };
    started.map_err(|_| LogError::SetUp)
}
