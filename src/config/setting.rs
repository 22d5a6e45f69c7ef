//! What a setting is. All of them are declared in [`super::settings`]; the flags, the variables, the keys of the file,
//! `sagad config`, `deploy/sagad.toml`, `docs/reference/limits.md` and `GetServerInfo` follow from the declarations.

use super::{
    listen, store_location,
    value::{self, Parsed, SettingValue, Value},
};
use crate::domain::{bounds::Bound, time::Span};

/// The declaration of a setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The key of the file. The variable is `SAGAD_` and the key in capitals, the flag the key with dashes.
    pub key: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// The default, written as on the command line.
    pub default: &'static str,
    /// One line, for `--help` and `GetServerInfo`.
    pub help: &'static str,
    /// A paragraph for the configuration file: what it does, and why the default is what it is.
    pub about: &'static str,
    /// What happens when the bound is reached, in Markdown, for `docs/reference/limits.md`. Empty: nothing that needs saying.
    pub at_bound: &'static str,
}

/// The kind of a setting's values. Bounds are included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Where to listen: an address or a name with a port, or a socket.
    Listen,
    /// A directory that has to be given.
    Directory,
    /// A file or a directory; the empty text is none.
    Path {
        /// What the help calls it: `FILE` or `DIR`.
        placeholder: &'static str,
    },
    /// `true` or `false`.
    Flag,
    /// `text` or `json`.
    LogFormat,
    /// A filter for log lines.
    LogFilter,
    /// An IP address with a port; the empty text is none.
    Address,
    /// The address of a gRPC server; the empty text is none.
    Url,
    /// `sqlite:` and a directory, or the URL of a database of PostgreSQL; the empty text is none.
    Store,
    /// A share of a whole, 0 to 1.
    Share,
    /// A length of time.
    Length {
        /// The shortest.
        least: Span,
        /// The longest.
        most: Span,
    },
    /// A length of time, or `forever`.
    Age {
        /// The shortest.
        least: Span,
        /// The longest.
        most: Span,
    },
    /// A whole number.
    Count {
        /// The lowest.
        least: u64,
        /// The highest.
        most: u64,
    },
    /// A number of bytes.
    Size {
        /// The smallest.
        least: u64,
        /// The largest.
        most: u64,
    },
}

impl Setting {
    pub(super) const fn new(key: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Self {
        Setting { key, kind, default, help, about: "", at_bound: "" }
    }

    pub(super) const fn about(self, about: &'static str) -> Self {
        Setting { about, ..self }
    }

    pub(super) const fn at_bound(self, at_bound: &'static str) -> Self {
        Setting { at_bound, ..self }
    }

    /// Its flag, with the dashes.
    pub fn flag(&self) -> String {
        format!("--{}", self.key.replace('_', "-"))
    }

    /// Its environment variable.
    pub fn variable(&self) -> String {
        variable(self.key)
    }

    /// The default as a value.
    pub(super) fn default_value(&self) -> Value {
        self.kind.parse(self.default).expect("each default is a value of its kind: a test parses them all")
    }

    /// The default, as the file has it.
    pub fn default_in_file(&self) -> String {
        self.default_value().shown().to_string()
    }

    /// What it does and why, with its range.
    pub fn about_with_range(&self) -> String {
        match self.kind.range() {
            Some((least, most)) => format!("{} From {least} to {most}.", self.about),
            None => self.about.to_owned(),
        }
    }

    /// The help with the range and the default.
    pub fn help_with_default(&self) -> String {
        let range = self.kind.range().map(|(least, most)| format!(", {least} to {most}")).unwrap_or_default();
        let default = if self.default.is_empty() { "none" } else { self.default };
        format!("{}{range} [default: {default}]", self.help)
    }

    /// The bound as `GetServerInfo` shows it, with the value in effect: bytes, a count or microseconds.
    pub(super) fn bound(&self, value: i64) -> Bound {
        let unit = match self.kind.ends() {
            Some((Value::Length(_), _)) => "microseconds",
            Some((Value::Size(_), _)) => "bytes",
            Some(_) | None => "count",
        };
        Bound { name: self.key, value, unit, meaning: self.help }
    }
}

/// The variable of a key, also of `config`, which is no setting.
pub(super) fn variable(key: &str) -> String {
    format!("SAGAD_{}", key.to_uppercase())
}

impl Kind {
    /// Parses what a flag, a variable or the file says. The error continues a sentence that begins with the text.
    pub(super) fn parse(&self, text: &str) -> Parsed<Value> {
        match *self {
            Kind::Listen => listen::parse(text).map(Value::Listen),
            Kind::Directory => value::directory(text).map(Value::Directory),
            Kind::Path { .. } => Ok(Value::Path(Some(text).filter(|text| !text.is_empty()).map(Into::into))),
            Kind::Flag => value::flag(text).map(Value::Flag),
            Kind::LogFormat => value::log_format(text).map(Value::LogFormat),
            Kind::LogFilter => value::log_filter(text).map(Value::LogFilter),
            Kind::Address => value::address_or_none(text).map(Value::Address),
            Kind::Url => value::url_or_none(text).map(Value::Url),
            Kind::Store => store_location::parse(text).map(Value::Store),
            Kind::Share => value::share(text).map(Value::Share),
            Kind::Length { least, most } => value::span(text, least, most).map(Value::Length),
            Kind::Age { least, most } => value::age(text, least, most).map(Value::Age),
            Kind::Count { least, most } => value::count(text, least, most).map(Value::Count),
            Kind::Size { least, most } => value::size(text, least, most).map(Value::Size),
        }
    }

    /// What stands for a value in the help.
    pub(super) fn placeholder(&self) -> &'static str {
        match self {
            Kind::Listen | Kind::Address => "ADDRESS",
            Kind::Directory => "DIR",
            Kind::Path { placeholder } => placeholder,
            Kind::Flag => "true|false",
            Kind::LogFormat => "text|json",
            Kind::LogFilter => "FILTER",
            Kind::Url | Kind::Store => "URL",
            Kind::Share => "SHARE",
            Kind::Length { .. } | Kind::Age { .. } => "DURATION",
            Kind::Count { .. } => "COUNT",
            Kind::Size { .. } => "SIZE",
        }
    }

    /// The least and the most, as people write them.
    pub fn range(&self) -> Option<(String, String)> {
        let text = |value: Value| match value.shown() {
            SettingValue::Text(text) => text,
            SettingValue::Count(count) => count.to_string(),
            SettingValue::Flag(flag) => flag.to_string(),
        };
        self.ends().map(|(least, most)| (text(least), text(most)))
    }

    /// The least and the most, if it has bounds.
    fn ends(&self) -> Option<(Value, Value)> {
        match *self {
            Kind::Length { least, most } | Kind::Age { least, most } => {
                Some((Value::Length(least), Value::Length(most)))
            }
            Kind::Count { least, most } => Some((Value::Count(least), Value::Count(most))),
            Kind::Size { least, most } => Some((Value::Size(least), Value::Size(most))),
            Kind::Listen
            | Kind::Directory
            | Kind::Path { .. }
            | Kind::Flag
            | Kind::LogFormat
            | Kind::LogFilter
            | Kind::Address
            | Kind::Url
            | Kind::Store
            | Kind::Share => None,
        }
    }
}
