//! The daemon's configuration: flags, `SAGAD_…` variables and a TOML file are merged into one validated [`Config`].
//! Every operational limit and its default is here; the contract's own bounds are in [`crate::domain::bounds`].

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

/// The keys, and the merge with a given environment, for the fuzzer: with the feature `fuzzing`, which no release has.
#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    use std::ffi::OsString;

    pub use super::args::KEYS;
    use super::{Config, ConfigError, ServeArgs};

    /// Merges a command line with an environment and the file that either of them names.
    pub fn merge(args: &ServeArgs, environment: &dyn Fn(&str) -> Option<OsString>) -> Result<Config, ConfigError> {
        Config::merge(args, environment)
    }
}

/// Default address: reachable from this machine only.
pub const LISTEN: &str = "127.0.0.1:7420";
/// Default directory of the store.
pub const DATA: &str = "./sagad-data";
/// How long leases are kept after the coordinator was away. A worker with the default TTL of 30 s heartbeats every 10
/// s, so each live worker heartbeats within it.
pub const RESTART_GRACE: Span = Span::from_secs(10);
/// Longest restart grace: a longer one would only keep the leases of dead workers.
pub const RESTART_GRACE_MAX: Span = Span::from_secs(3600);
/// How long the daemon may take to stop: less than the 30 s after which service managers kill it.
pub const DRAIN_GRACE: Span = Span::from_secs(10);
/// Shortest drain grace: the time that closing the connections and the store can take.
pub const DRAIN_GRACE_MIN: Span = Span::from_secs(1);
/// Longest drain grace.
pub const DRAIN_GRACE_MAX: Span = Span::from_secs(600);
/// Default fraction of calls that are traced: enough to see typical calls, at negligible cost.
pub const TRACE_SAMPLE: f64 = 0.01;
/// Default log filter.
pub const LOG: &str = "info";

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text, for people.
    #[default]
    Text,
    /// One JSON object per line, for collectors.
    Json,
}

/// The validated configuration of the daemon.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where to listen.
    pub listen: Listen,
    /// The directory that holds the store.
    pub data: PathBuf,
    /// How long leases are kept after the coordinator was away, from zero to [`RESTART_GRACE_MAX`].
    pub restart_grace: Span,
    /// How long the daemon may take to stop, [`DRAIN_GRACE_MIN`] to [`DRAIN_GRACE_MAX`].
    pub drain_grace: Span,
    /// How log lines look.
    pub log_format: LogFormat,
    /// The log filter: levels by target, in the syntax of `tracing_subscriber::filter::Targets`; known to parse.
    pub log: String,
    /// Listen beyond this machine, though TLS or principals are missing.
    pub insecure: bool,
    /// The files that decide who may connect and call.
    pub security: Security,
    /// How long ended sagas are kept.
    pub retention: Retention,
    /// The address of metrics and probes, if they are served. Port 0: any free one.
    pub ops_listen: Option<SocketAddr>,
    /// The collector to which traces are sent by OTLP over gRPC, if any.
    pub otlp_endpoint: Option<String>,
    /// The fraction of calls traced without the client asking for it, 0 to 1.
    pub trace_sample: f64,
    /// The operational limits.
    pub limits: Limits,
}

/// A configuration together with the source of each setting.
#[derive(Clone, Debug)]
pub struct Explained {
    /// The configuration.
    pub config: Config,
    /// The file, if one was named.
    pub file: Option<PathBuf>,
    /// Each key with its value and source.
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
        // All errors are reported at once: an invalid value is ignored, and the rest is read again.
        let config = loop {
            let error = match Config::read(&sources) {
                Ok(config) => break Some(config),
                Err(error) => error,
            };
            let passed_over = error.key().is_some_and(|key| sources.pass_over(&key));
            // Which machines can reach the ports is checked only once all else is valid.
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
    /// Merges a command line with the process's environment and the file that either of them names.
    ///
    /// # Errors
    /// All invalid values, each with its flag, variable or key.
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

    /// The configured limits, as `GetServerInfo` lists them after the contract's bounds.
    pub fn bounds(&self) -> Vec<Bound> {
        let mut bounds =
            vec![limits::span_bound("drain_grace", self.drain_grace, "longest time that the daemon takes to end")];
        bounds.extend(self.limits.bounds());
        bounds
    }
}
