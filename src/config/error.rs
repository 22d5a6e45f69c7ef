//! Errors of a configuration, and the source of each value.

use std::{fmt, io, path::PathBuf};

use super::Listen;

/// The source of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A flag of the command line, with its dashes.
    Flag(String),
    /// An environment variable.
    Variable(String),
    /// A key of the configuration file.
    Key {
        /// The file.
        file: PathBuf,
        /// The key.
        key: String,
        /// The line that it begins on, from 1.
        line: usize,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag(flag) => f.write_str(flag),
            Origin::Variable(variable) => f.write_str(variable),
            Origin::Key { file, key, line } => write!(f, "{key} in {}:{line}", file.display()),
        }
    }
}

/// Why the configuration is invalid. The message says what to change.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// An invalid value.
    #[error("{origin}: {value:?} {problem}")]
    Invalid {
        /// Who said it.
        origin: Origin,
        /// The value.
        value: String,
        /// What is wrong with it; continues a sentence that begins with the value.
        problem: String,
    },
    /// A variable that is not text.
    #[error("{variable}: its value is not UTF-8")]
    NotText {
        /// The variable.
        variable: String,
    },
    /// The file can't be read.
    #[error("the configuration file {} can't be read: {source}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("the configuration file {} is not valid TOML: {problem}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// Where and why.
        problem: String,
    },
    /// The file has an unknown key.
    #[error("the configuration file {}:{line} has an unknown key: {key} ({hint})", file.display())]
    UnknownKey {
        /// The file.
        file: PathBuf,
        /// The key.
        key: String,
        /// The line that it begins on, from 1.
        line: usize,
        /// The key that was probably meant, or a list of all keys.
        hint: String,
    },
    /// Several errors.
    #[error("{} errors:\n  {}", .0.len(), .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  "))]
    Several(Vec<ConfigError>),
    /// Anyone on the network could use the daemon or read its traffic.
    #[error(
        "listening on {listen}, which other machines reach, needs TLS and principals, and {missing}. Give them (see \
         docs/security.md), listen on 127.0.0.1 behind a proxy or a tunnel that has both, or accept it with --insecure \
         (SAGAD_INSECURE=true, insecure = true)"
    )]
    Exposed {
        /// The address.
        listen: Listen,
        /// The protection that is missing, and the consequence.
        missing: &'static str,
    },
    /// A setting that requires another one.
    #[error("{origin} needs {missing} as well")]
    Incomplete {
        /// The source of the setting.
        origin: Origin,
        /// The key of the setting that it requires.
        missing: &'static str,
    },
    /// An invalid default: a bug, reported as an error instead of a panic.
    #[error("the default {value:?} {problem}")]
    Default {
        /// The default.
        value: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl ConfigError {
    /// Combines errors into one; `None` if there are none.
    pub(super) fn of_all(mut errors: Vec<ConfigError>) -> Option<Self> {
        if errors.len() > 1 { Some(ConfigError::Several(errors)) } else { errors.pop() }
    }

    /// The key whose value is invalid, if the error is about one key.
    pub(super) fn key(&self) -> Option<String> {
        match self {
            ConfigError::Invalid { origin, .. } | ConfigError::Incomplete { origin, .. } => Some(match origin {
                Origin::Flag(flag) => flag.trim_start_matches('-').replace('-', "_"),
                Origin::Variable(variable) => variable.trim_start_matches("SAGAD_").to_lowercase(),
                Origin::Key { key, .. } => key.clone(),
            }),
            ConfigError::NotText { variable } => Some(variable.trim_start_matches("SAGAD_").to_lowercase()),
            ConfigError::Unreadable { .. }
            | ConfigError::Malformed { .. }
            | ConfigError::UnknownKey { .. }
            | ConfigError::Several(_)
            | ConfigError::Exposed { .. }
            | ConfigError::Default { .. } => None,
        }
    }
}
