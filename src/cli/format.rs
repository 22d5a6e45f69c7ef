//! [`Format`]: the form of results.

use clap::ValueEnum;

/// The form of results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "its names say it")]
pub enum Format {
    Text,
    Json,
}

/// What `--output` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "a comment on each would be shown in every command's help")]
pub enum OutputArg {
    Text,
    Wide,
    Json,
}

impl OutputArg {
    /// The form that it stands for.
    pub fn format(self) -> Format {
        match self {
            OutputArg::Text | OutputArg::Wide => Format::Text,
            OutputArg::Json => Format::Json,
        }
    }
}
