//! What can be wrong with a configuration, and who said it.

use std::{fmt, io, path::PathBuf};

use super::Listen;

/// Where a value comes from.
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

/// Why there is no configuration. The text says what to change.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A value that can't be used.
    #[error("{origin}: {value:?} {problem}")]
    Invalid {
        /// Who said it.
        origin: Origin,
        /// What was said.
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
    /// The file has a key that means nothing.
    #[error("the configuration file {}:{line} has an unknown key: {key} ({hint})", file.display())]
    UnknownKey {
        /// The file.
        file: PathBuf,
        /// The key.
        key: String,
        /// The line that it begins on, from 1.
        line: usize,
        /// The key that may be meant, or all that there are.
        hint: String,
    },
    /// Several things are wrong.
    #[error("{} errors:\n  {}", .0.len(), .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  "))]
    Several(Vec<ConfigError>),
    /// Anyone on the network could use the daemon, or read what it is told.
    #[error(
        "listening on {listen}, which other machines reach, needs TLS and principals, and {missing}. Give them (see \
         docs/how-to/secure.md), listen on 127.0.0.1 behind a proxy or a tunnel that has both, or accept it with --insecure \
         (SAGAD_INSECURE=true, insecure = true)"
    )]
    Exposed {
        /// The address.
        listen: Listen,
        /// What is missing, and what follows from that.
        missing: &'static str,
    },
    /// One setting makes no sense without another.
    #[error("{origin} needs {missing} as well")]
    Incomplete {
        /// Who said the one.
        origin: Origin,
        /// The key of the other.
        missing: &'static str,
    },
}

impl ConfigError {
    /// All of them as one; none: there is none.
    pub(super) fn of_all(mut errors: Vec<ConfigError>) -> Option<Self> {
        if errors.len() > 1 { Some(ConfigError::Several(errors)) } else { errors.pop() }
    }
}
