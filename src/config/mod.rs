//! What the daemon is told: flags, `SAGAD_…` variables and a TOML file become one validated [`Config`]. Every setting is
//! declared once, in [`settings`]; the contract's own bounds stand in [`crate::domain::bounds`].

mod args;
mod defaults_file;
mod error;
mod limits;
mod listen;
mod passwords;
mod retention;
mod security;
mod setting;
pub mod settings;
mod sources;
mod store_location;
mod value;
mod warnings;

#[cfg(test)]
mod tests;

use std::{net::SocketAddr, path::PathBuf};

pub use args::ServeArgs;
pub use defaults_file::defaults_file;
pub use error::{ConfigError, Origin};
pub use limits::{Limits, OPS_CONNECTIONS};
pub use listen::Listen;
pub use retention::Retention;
pub use security::{Security, TlsFiles};
pub use setting::{Kind, Setting};
pub use sources::{EffectiveSetting, EffectiveSettings};
pub use store_location::StoreLocation;
pub use value::{LogFormat, SettingValue, Value};

use crate::domain::{bounds::Bound, time::Span};
use sources::Sources;

/// The merge with any environment, for the fuzzer: with the feature `fuzzing`, which no release has.
#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    use std::ffi::OsString;

    use super::{Config, ConfigError, ServeArgs};

    /// Merges a command line with an environment and the file that either names.
    pub fn merge(args: &ServeArgs, environment: &dyn Fn(&str) -> Option<OsString>) -> Result<Config, ConfigError> {
        Config::merge(args, environment)
    }
}

/// All that the daemon is told, validated.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where to listen.
    pub listen: Listen,
    /// The directory that holds the store.
    pub data: PathBuf,
    /// Where the store is, if not in `data`.
    pub store: Option<StoreLocation>,
    /// How long leases are kept after the coordinator was away.
    pub restart_grace: Span,
    /// How long the daemon may take to end.
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
    /// Each setting with its value and who said that.
    pub settings: EffectiveSettings,
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
    fn merge(args: &ServeArgs, environment: &sources::Environment<'_>) -> Result<Self, ConfigError> {
        let sources = Sources::open(args, environment)?;
        // All that is wrong is told at once.
        let mut errors = sources.unknown_keys();
        let settings = sources.settings(&mut errors);
        let config = Config::read(&settings, &mut errors);
        // What others can reach is judged once all else is right.
        if errors.is_empty() {
            errors.extend(config.exposed_without_security());
        }
        match ConfigError::of_all(errors) {
            None => Ok(Explained { config, file: sources.file().cloned(), settings }),
            Some(error) => Err(error),
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
    pub(crate) fn merge(args: &ServeArgs, environment: &sources::Environment<'_>) -> Result<Self, ConfigError> {
        Explained::merge(args, environment).map(|explained| explained.config)
    }

    fn read(settings: &EffectiveSettings, errors: &mut Vec<ConfigError>) -> Self {
        Config {
            listen: settings.get("listen"),
            data: settings.get("data"),
            store: settings.get("store"),
            restart_grace: settings.get("restart_grace"),
            drain_grace: settings.get("drain_grace"),
            log_format: settings.get("log_format"),
            log: settings.get("log"),
            insecure: settings.get("insecure"),
            security: Security::read(settings, errors),
            ops_listen: settings.get("ops_listen"),
            otlp_endpoint: settings.get("otlp_endpoint"),
            trace_sample: settings.get("trace_sample"),
            limits: Limits::read(settings),
            retention: Retention::read(settings),
        }
    }

    fn exposed_without_security(&self) -> Option<ConfigError> {
        let missing = self.security.missing().filter(|_| self.is_exposed() && !self.insecure)?;
        Some(ConfigError::Exposed { listen: self.listen.clone(), missing })
    }

    /// Where the store is.
    pub fn store(&self) -> StoreLocation {
        self.store.clone().unwrap_or_else(|| StoreLocation::Sqlite(self.data.clone()))
    }

    /// Whether other machines may reach the port.
    pub fn is_exposed(&self) -> bool {
        self.listen.is_exposed()
    }

    /// What is configured and bounds something, as `GetServerInfo` shows it behind the contract's bounds.
    pub fn bounds(&self) -> Vec<Bound> {
        let drain = settings::find("drain_grace").map(|setting| setting.bound(self.drain_grace.micros()));
        drain.into_iter().chain(self.limits.bounds()).collect()
    }
}
