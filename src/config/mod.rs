//! What the daemon is told: flags, `SAGAD_…` variables and a TOML file become one validated [`Config`]. Every
//! operational limit and its default stands here; the contract's own bounds stand in [`crate::domain::bounds`].

mod args;
mod error;
mod limits;
mod listen;
mod retention;
mod security;
mod setting;
mod source;
mod value;
mod warnings;

#[cfg(test)]
mod tests;

use std::{net::SocketAddr, path::PathBuf};

pub use args::ServeArgs;
pub use error::{ConfigError, Origin};
pub use limits::{Limits, OPS_CONNECTIONS};
pub use listen::Listen;
pub use retention::Retention;
pub use security::{Security, TlsFiles};
pub use setting::{Setting, SettingValue};

use crate::domain::{bounds::Bound, time::Span};
use source::Sources;

/// The keys, and the merge with any environment, for the fuzzer: with the feature `fuzzing`, which no release has.
#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    use std::ffi::OsString;

    pub use super::args::KEYS;
    use super::{Config, ConfigError, ServeArgs};

    /// Merges a command line with an environment and the file that either names.
    pub fn merge(args: &ServeArgs, environment: &dyn Fn(&str) -> Option<OsString>) -> Result<Config, ConfigError> {
        Config::merge(args, environment)
    }
}

/// Where the daemon listens when nothing is said: this machine only.
pub const LISTEN: &str = "127.0.0.1:7420";
/// Where the store lies when nothing is said.
pub const DATA: &str = "./sagad-data";
/// How long leases are kept after the coordinator was away: a worker with the default ttl of 30 s heartbeats every 10 s,
/// so each one that is alive does so within it.
pub const RESTART_GRACE: Span = Span::from_secs(10);
/// Longest restart grace: beyond an hour it hides dead workers instead of forgiving live ones.
pub const RESTART_GRACE_MAX: Span = Span::from_secs(3600);
/// How long the daemon may take to end: below the half minute after which service managers kill.
pub const DRAIN_GRACE: Span = Span::from_secs(10);
/// Shortest drain grace: what closing connections and the store may take by themselves.
pub const DRAIN_GRACE_MIN: Span = Span::from_secs(1);
/// Longest drain grace.
pub const DRAIN_GRACE_MAX: Span = Span::from_secs(600);
/// The share of calls that are traced when nothing is said: enough to see what is usual, little enough to cost nothing.
pub const TRACE_SAMPLE: f64 = 0.01;
/// What is logged when nothing is said.
pub const LOG: &str = "info";

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// An object a line, for collectors.
    Json,
}

/// All that the daemon is told, validated.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where to listen.
    pub listen: Listen,
    /// The directory that holds the store.
    pub data: PathBuf,
    /// How long leases are kept after the coordinator was away. Up to [`RESTART_GRACE_MAX`], zero allowed.
    pub restart_grace: Span,
    /// How long the daemon may take to end, [`DRAIN_GRACE_MIN`] to [`DRAIN_GRACE_MAX`].
    pub drain_grace: Span,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which of them are written: levels by target, as `tracing_subscriber::filter::Targets` has them; known to parse.
    pub log: String,
    /// Listen beyond this machine, though TLS or principals are missing.
    pub insecure: bool,
    /// The files that say who may connect and call.
    pub security: Security,
    /// What is kept for how long.
    pub retention: Retention,
    /// Where metrics and probes are served, if they are. Port 0: any free one.
    pub ops_listen: Option<SocketAddr>,
    /// The collector that traces are sent to by OTLP over gRPC, if there is one.
    pub otlp_endpoint: Option<String>,
    /// The share of calls that are traced though their client does not say so: 0 to 1.
    pub trace_sample: f64,
    /// What the daemon bounds.
    pub limits: Limits,
}

/// A configuration with where it comes from.
#[derive(Clone, Debug)]
pub struct Explained {
    /// What the daemon goes by.
    pub config: Config,
    /// The file, if one was named.
    pub file: Option<PathBuf>,
    /// Each key with its value and who said that.
    pub settings: Vec<Setting>,
}

impl Explained {
    /// Merges as [`Config::load`] does.
    ///
    /// # Errors
    /// Those of [`Config::load`].
    pub fn load(args: &ServeArgs) -> Result<Self, ConfigError> {
        Self::merge(args, &|variable| std::env::var_os(variable))
    }

    /// The same with any environment.
    fn merge(args: &ServeArgs, environment: &source::Environment<'_>) -> Result<Self, ConfigError> {
        let mut sources = Sources::gather(args, environment)?;
        let mut errors = sources.unknown_keys();
        // All that is wrong is told at once: a value that is, is passed over, and the rest is read again.
        let config = loop {
            let error = match Config::read(&sources) {
                Ok(config) => break Some(config),
                Err(error) => error,
            };
            let passed_over = error.key().is_some_and(|key| sources.pass_over(&key));
            // What others can reach is judged once all else is right.
            if !matches!(error, ConfigError::Exposed { .. }) || errors.is_empty() {
                errors.push(error);
            }
            if !passed_over {
                break None;
            }
        };
        match (config, ConfigError::of_all(errors)) {
            (Some(config), None) => {
                let (file, settings) = sources.told();
                Ok(Explained { config, file, settings })
            }
            (_, Some(error)) => Err(error),
            // The loop ends without a configuration only after an error.
            (None, None) => Err(ConfigError::Several(Vec::new())),
        }
    }
}

impl Config {
    /// Merges a command line with the process's environment and the file that either names.
    ///
    /// # Errors
    /// All that is wrong, each with the flag, variable or key that said it.
    pub fn load(args: &ServeArgs) -> Result<Self, ConfigError> {
        Explained::load(args).map(|explained| explained.config)
    }

    /// The same with any environment.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn merge(args: &ServeArgs, environment: &source::Environment<'_>) -> Result<Self, ConfigError> {
        Explained::merge(args, environment).map(|explained| explained.config)
    }

    fn read(sources: &Sources<'_>) -> Result<Self, ConfigError> {
        let span = |key, default, least, most| sources.read(key, default, value::span(least, most), setting::span);
        let listen = value::known(LISTEN, listen::parse)?;
        let config = Config {
            listen: sources.read("listen", listen, listen::parse, setting::text)?,
            data: sources.read("data", DATA.into(), value::path, |path: &PathBuf| setting::text(&path.display()))?,
            restart_grace: span("restart_grace", RESTART_GRACE, Span::ZERO, RESTART_GRACE_MAX)?,
            drain_grace: span("drain_grace", DRAIN_GRACE, DRAIN_GRACE_MIN, DRAIN_GRACE_MAX)?,
            log_format: sources.read("log_format", LogFormat::default(), value::log_format, setting::log_format)?,
            log: sources.read("log", LOG.to_owned(), value::log_filter, setting::text)?,
            insecure: sources.read("insecure", false, value::flag, setting::flag)?,
            security: Security::read(sources)?,
            ops_listen: sources.read("ops_listen", None, value::address_or_none, setting::optional)?,
            otlp_endpoint: sources.read("otlp_endpoint", None, value::url_or_none, setting::optional)?,
            trace_sample: sources.read("trace_sample", TRACE_SAMPLE, value::share, setting::text)?,
            limits: Limits::read(sources)?,
            retention: Retention::read(sources)?,
        };
        match config.security.missing() {
            Some(missing) if config.is_exposed() && !config.insecure => {
                return Err(ConfigError::Exposed { listen: config.listen, missing });
            }
            Some(_) | None => {}
        }
        Ok(config)
    }

    /// Whether other machines may reach the port.
    pub fn is_exposed(&self) -> bool {
        self.listen.is_exposed()
    }

    /// What is configured and bounds something, as `GetServerInfo` shows it behind the contract's bounds.
    pub fn bounds(&self) -> Vec<Bound> {
        let mut bounds =
            vec![limits::span_bound("drain_grace", self.drain_grace, "longest time that the daemon takes to end")];
        bounds.extend(self.limits.bounds());
        bounds
    }
}
