//! [`Format`]: the form of results.

use clap::ValueEnum;

/// The form of results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Text,
    Json,
}

/// What `--output` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
// No doc comments: they would be shown in every command's help.
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
