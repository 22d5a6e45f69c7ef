//! A setting in effect: its value in the syntax of the file, and its source.

use std::{fmt, path::PathBuf};

use super::{LogFormat, Origin, value::SIZE_UNITS};
use crate::domain::time::Span;

/// Keys whose values are never shown. There are none yet; add a key that holds a secret here.
pub(super) const SECRETS: &[&str] = &[];

/// Shown in place of a secret. It is not a valid value in a file.
pub(super) const HIDDEN: &str = "(secret)";

/// A setting in effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its key in the file.
    pub key: &'static str,
    /// Its value; `None` if it is a secret.
    pub value: Option<SettingValue>,
    /// Its source; `None`: the default.
    pub origin: Option<Origin>,
}

/// The value of a setting. Its `Display` is valid TOML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingValue {
    /// A string: durations, sizes, addresses, paths, words.
    Text(String),
    /// A whole number.
    Count(u64),
    /// Yes or no.
    Flag(bool),
}

impl Setting {
    /// The value in the syntax of the file, or a placeholder for a secret.
    pub fn shown(&self) -> String {
        self.value.as_ref().map_or_else(|| HIDDEN.to_owned(), ToString::to_string)
    }
}

impl fmt::Display for SettingValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SettingValue::Text(value) => quoted(value, f),
            SettingValue::Count(value) => write!(f, "{value}"),
            SettingValue::Flag(value) => write!(f, "{value}"),
        }
    }
}

/// Writes a basic TOML string on one line, with all control characters escaped.
fn quoted(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("\"")?;
    for c in text.chars() {
        match c {
            '"' | '\\' => write!(f, "\\{c}")?,
            c if c.is_control() => write!(f, "\\u{:04X}", u32::from(c))?,
            c => write!(f, "{c}")?,
        }
    }
    f.write_str("\"")
}

/// Values that are written as their own text.
pub(super) fn text(value: &impl ToString) -> SettingValue {
    SettingValue::Text(value.to_string())
}

/// A path, or none.
pub(super) fn file(value: &Option<PathBuf>) -> SettingValue {
    SettingValue::Text(value.as_ref().map(|file| file.display().to_string()).unwrap_or_default())
}

/// What reads as its own text, or as an empty one where it is absent.
pub(super) fn optional<T: ToString>(value: &Option<T>) -> SettingValue {
    SettingValue::Text(value.as_ref().map(ToString::to_string).unwrap_or_default())
}

/// `text` or `json`.
pub(super) fn log_format(value: &LogFormat) -> SettingValue {
    let word = match value {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    SettingValue::Text(word.to_owned())
}

/// Yes or no.
pub(super) fn flag(value: &bool) -> SettingValue {
    SettingValue::Flag(*value)
}

/// A count.
pub(super) fn count(value: &u64) -> SettingValue {
    SettingValue::Count(*value)
}

/// A length in as many units as it takes: `1h30m`.
pub(super) fn span(value: &Span) -> SettingValue {
    SettingValue::Text(humantime::format_duration(value.to_std()).to_string().replace(' ', ""))
}

/// A length, or `forever`.
pub(super) fn age(value: &Option<Span>) -> SettingValue {
    value.as_ref().map_or_else(|| SettingValue::Text("forever".to_owned()), span)
}

/// A size in the largest unit that it is a multiple of.
pub(super) fn size(value: &u64) -> SettingValue {
    let unit = SIZE_UNITS.iter().rev().find(|(_, unit)| *value > 0 && value.is_multiple_of(*unit));
    unit.map_or(SettingValue::Count(*value), |(name, unit)| SettingValue::Text(format!("{}{name}", value / unit)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::value, *};

    /// What a file would make of a value: the text that a parser gets.
    fn said(value: &SettingValue) -> String {
        let table: toml::Table = format!("key = {value}").parse().unwrap();
        match &table["key"] {
            toml::Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(micros in 0..3_600_000_000_i64, bytes in 1..u64::MAX >> 1, words in ".*") {
            let length = Span::from_micros(micros).unwrap();
            prop_assert_eq!(value::span(Span::ZERO, length)(&said(&span(&length))), Ok(length));
            for bytes in [bytes, bytes >> 20 << 20, bytes >> 30 << 30, 1023, 1 << 10] {
                prop_assert_eq!(value::size(0, u64::MAX)(&said(&size(&bytes))), Ok(bytes));
            }
            prop_assert_eq!(said(&text(&words)), words);
        }
    }

    #[test]
    fn values_are_shown_as_people_write_them() {
        assert_eq!(span(&Span::from_secs(5400)).to_string(), "\"1h30m\"");
        assert_eq!(span(&Span::ZERO).to_string(), "\"0s\"");
        assert_eq!(size(&(64 << 20)).to_string(), "\"64MiB\"");
        assert_eq!(size(&1_000_000).to_string(), "1000000");
        assert_eq!(text(&"a\"b\\\n\u{9b}").to_string(), "\"a\\\"b\\\\\\u000A\\u009B\"");
        assert_eq!(
            (log_format(&LogFormat::Json).to_string(), flag(&true).to_string()),
            ("\"json\"".into(), "true".into())
        );
    }
}
