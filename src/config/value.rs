//! The values of settings: from text, one parser for each kind, whoever said it; and back to what the file takes. A
//! parser's error continues a sentence that begins with the value.

use std::{
    fmt::{self, Display},
    net::SocketAddr,
    path::PathBuf,
};

use tracing_subscriber::filter::Targets;

use super::{Listen, StoreLocation};
use crate::domain::time::Span;

/// The units of sizes, the smallest first.
const SIZE_UNITS: [(&str, u64); 3] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// What a parser returns.
pub(super) type Parsed<T> = Result<T, String>;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// An object a line, for collectors.
    Json,
}

/// A value of a setting, by its kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Where to listen.
    Listen(Listen),
    /// A directory.
    Directory(PathBuf),
    /// A file or a directory, or none.
    Path(Option<PathBuf>),
    /// Yes or no.
    Flag(bool),
    /// How log lines look.
    LogFormat(LogFormat),
    /// A filter for log lines, which is known to parse.
    LogFilter(String),
    /// An address, or none.
    Address(Option<SocketAddr>),
    /// The address of a gRPC server, or none.
    Url(Option<String>),
    /// Where the store is, or nothing.
    Store(Option<StoreLocation>),
    /// A share of a whole.
    Share(f64),
    /// A length of time.
    Length(Span),
    /// A length of time; none: for ever.
    Age(Option<Span>),
    /// A count.
    Count(u64),
    /// A number of bytes.
    Size(u64),
}

/// A value as the file takes it. Its `Display` is TOML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingValue {
    /// A string: lengths of time, sizes, addresses, paths, words.
    Text(String),
    /// A whole number.
    Count(u64),
    /// Yes or no.
    Flag(bool),
}

impl Value {
    /// The value as the file takes it.
    pub fn shown(&self) -> SettingValue {
        let text = |value: &dyn ToString| SettingValue::Text(value.to_string());
        let path = |path: &PathBuf| SettingValue::Text(path.display().to_string());
        let none = || SettingValue::Text(String::new());
        match self {
            Value::Listen(listen) => text(listen),
            Value::Directory(directory) => path(directory),
            Value::Path(found) => found.as_ref().map_or_else(none, path),
            Value::Flag(flag) => SettingValue::Flag(*flag),
            Value::LogFormat(LogFormat::Text) => text(&"text"),
            Value::LogFormat(LogFormat::Json) => text(&"json"),
            Value::LogFilter(filter) => text(filter),
            Value::Address(address) => address.as_ref().map_or_else(none, |address| text(address)),
            Value::Url(url) => url.as_ref().map_or_else(none, |url| text(url)),
            Value::Store(store) => store.as_ref().map_or_else(none, |store| text(store)),
            Value::Share(share) => text(share),
            Value::Age(None) => text(&"forever"),
            // In as many units as it takes: `1h30m`.
            Value::Length(length) | Value::Age(Some(length)) => {
                text(&humantime::format_duration(length.to_std()).to_string().replace(' ', ""))
            }
            Value::Count(count) => SettingValue::Count(*count),
            // In the largest unit that it is a multiple of.
            Value::Size(bytes) => {
                let unit = SIZE_UNITS.iter().rev().find(|(_, unit)| *bytes > 0 && bytes.is_multiple_of(*unit));
                unit.map_or(SettingValue::Count(*bytes), |(name, unit)| text(&format!("{}{name}", bytes / unit)))
            }
        }
    }
}

impl Display for SettingValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SettingValue::Text(value) => quoted(value, f),
            SettingValue::Count(value) => write!(f, "{value}"),
            SettingValue::Flag(value) => write!(f, "{value}"),
        }
    }
}

/// A basic string on one line, whatever is in it, and with nothing in it that could move a cursor.
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

/// Takes a value as the type that the program uses; back comes what is of another kind.
macro_rules! value_as {
    ($($type:ty: $kind:ident,)*) => {$(
        impl TryFrom<Value> for $type {
            type Error = Value;

            fn try_from(value: Value) -> Result<Self, Value> {
                match value {
                    Value::$kind(value) => Ok(value),
                    other => Err(other),
                }
            }
        }
    )*};
}

value_as! {
    Listen: Listen,
    PathBuf: Directory,
    Option<PathBuf>: Path,
    bool: Flag,
    LogFormat: LogFormat,
    String: LogFilter,
    Option<SocketAddr>: Address,
    Option<String>: Url,
    Option<StoreLocation>: Store,
    f64: Share,
    Span: Length,
    Option<Span>: Age,
}

/// Takes a count or a size as a whole number; it fits, because its bounds do.
macro_rules! value_as_number {
    ($($type:ty,)*) => {$(
        impl TryFrom<Value> for $type {
            type Error = Value;

            fn try_from(value: Value) -> Result<Self, Value> {
                match value {
                    Value::Count(number) | Value::Size(number) => number.try_into().map_err(|_| value),
                    other => Err(other),
                }
            }
        }
    )*};
}

value_as_number! { u32, u64, usize, }

/// An IP address and a port.
pub(super) fn address(text: &str) -> Parsed<SocketAddr> {
    text.parse().map_err(|_| "is not an IP address with a port, such as 127.0.0.1:7420 or [::1]:7420".to_owned())
}

/// An IP address and a port, or nothing at all.
pub(super) fn address_or_none(text: &str) -> Parsed<Option<SocketAddr>> {
    if text.is_empty() { Ok(None) } else { address(text).map(Some) }
}

/// The address of a gRPC server, or nothing at all.
pub(super) fn url_or_none(text: &str) -> Parsed<Option<String>> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    match rest {
        None if text.is_empty() => Ok(None),
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[') && !rest.contains('@') => {
            Ok(Some(text.to_owned()))
        }
        Some(_) | None => {
            Err("is not an address such as http://127.0.0.1:4317 or https://collector.example:4317".to_owned())
        }
    }
}

/// A share of a whole.
pub(super) fn share(text: &str) -> Parsed<f64> {
    let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "is not a share between 0 and 1, such as \"0.01\"".to_owned())
}

/// A directory, which has to be named.
pub(super) fn directory(text: &str) -> Parsed<PathBuf> {
    if text.is_empty() { Err("is empty: a directory is needed".to_owned()) } else { Ok(text.into()) }
}

/// A length within bounds, both included; none: `forever`.
pub(super) fn age(text: &str, least: Span, most: Span) -> Parsed<Option<Span>> {
    if text == "forever" {
        return Ok(None);
    }
    span(text, least, most).map(Some).map_err(|problem| format!("{problem}; nor is it forever"))
}

/// `text` or `json`.
pub(super) fn log_format(text: &str) -> Parsed<LogFormat> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("is neither text nor json".to_owned()),
    }
}

/// A filter for log lines.
pub(super) fn log_filter(text: &str) -> Parsed<String> {
    match text.parse::<Targets>() {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("is not a log filter, such as info or sagad=debug,info: {error}")),
    }
}

/// Yes or no.
pub(super) fn flag(text: &str) -> Parsed<bool> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err("is neither true nor false".to_owned()),
    }
}

/// A length within bounds, both included.
pub(super) fn span(text: &str, least: Span, most: Span) -> Parsed<Span> {
    // The one number that needs no unit.
    let length = if text == "0" { Ok(std::time::Duration::ZERO) } else { humantime::parse_duration(text) };
    let length = length.map_err(|_| "is not a length of time, such as 500ms, 30s, 5m or 1h30m".to_owned())?;
    let span = i64::try_from(length.as_micros()).ok().and_then(Span::from_micros);
    within(span.ok_or_else(|| format!("is more than {most}"))?, least, most)
}

/// A count within bounds, both included.
pub(super) fn count(text: &str, least: u64, most: u64) -> Parsed<u64> {
    within(text.parse().map_err(|_| "is not a whole number".to_owned())?, least, most)
}

/// A number of bytes, with or without a binary unit, within bounds, both included.
pub(super) fn size(text: &str, least: u64, most: u64) -> Parsed<u64> {
    let (digits, unit) = SIZE_UNITS
        .iter()
        .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?.trim_end(), *unit)))
        .unwrap_or((text, 1));
    let bytes = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(unit));
    let bytes = bytes.ok_or_else(|| "is not a size, such as 67108864, 512KiB or 64MiB".to_owned())?;
    within(bytes, least, most).map_err(|problem| format!("{problem} bytes"))
}

fn within<T: PartialOrd + Display>(value: T, least: T, most: T) -> Parsed<T> {
    if value < least {
        Err(format!("is less than {least}"))
    } else if value > most {
        Err(format!("is more than {most}"))
    } else {
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_take_binary_units() {
        let size = |text: &str| size(text, 1024, 1 << 40);
        assert_eq!(size("67108864"), Ok(64 << 20));
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert_eq!(size("1 KiB"), Ok(1024));
        assert_eq!(size("1GiB"), Ok(1 << 30));
        for bad in ["", "MiB", "64MB", "-1KiB", "1.5MiB", "99999999999999999999", "99999999999GiB", "1023", "1025GiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_parsed_as_on_the_command_line() {
        let span = |text: &str| span(text, Span::ZERO, Span::from_secs(3600));
        assert_eq!(span("0"), Ok(Span::ZERO));
        assert_eq!(span("0s"), Ok(Span::ZERO));
        assert_eq!(span("1m30s"), Ok(Span::from_secs(90)));
        assert_eq!(span("250ms"), Ok(Span::from_millis(250)));
        for bad in ["", "10", "-1s", "ten", "61m", "1000000000y"] {
            assert!(span(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_invalid_value_names_the_accepted_ones() {
        assert!(address("localhost:7420").unwrap_err().contains("127.0.0.1:7420"));
        assert!(address("[::1]:0").is_ok());
        assert!(log_filter("sagad=debug,info").is_ok());
        assert!(log_filter("sagad=loud").unwrap_err().contains("log filter"));
        assert!(log_format("xml").is_err() && directory("").is_err() && flag("yes").is_err());
        assert!(count("0", 1, 9).is_err() && count("10", 1, 9).is_err() && count("x", 1, 9).is_err());
        assert_eq!(count("9", 1, 9), Ok(9));
    }

    /// What a file would make of a value: the text that a parser gets.
    fn said(value: &Value) -> String {
        let table: toml::Table = format!("key = {}", value.shown()).parse().unwrap();
        match &table["key"] {
            toml::Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }

    proptest! {
        #[test]
        fn printed_values_are_parsed_again(micros in 0..3_600_000_000_i64, bytes in 1..u64::MAX >> 1, words in ".*") {
            let length = Span::from_micros(micros).unwrap();
            prop_assert_eq!(span(&said(&Value::Length(length)), Span::ZERO, length), Ok(length));
            for bytes in [bytes, bytes >> 20 << 20, bytes >> 30 << 30, 1023, 1 << 10] {
                prop_assert_eq!(size(&said(&Value::Size(bytes)), 0, u64::MAX), Ok(bytes));
            }
            prop_assert_eq!(said(&Value::LogFilter(words.clone())), words);
        }
    }

    #[test]
    fn values_are_shown_as_people_write_them() {
        for (value, shown) in [
            (Value::Length(Span::from_secs(5400)), "\"1h30m\""),
            (Value::Length(Span::ZERO), "\"0s\""),
            (Value::Age(None), "\"forever\""),
            (Value::Size(64 << 20), "\"64MiB\""),
            (Value::Size(1_000_000), "1000000"),
            (Value::LogFilter("a\"b\\\n\u{9b}".to_owned()), "\"a\\\"b\\\\\\u000A\\u009B\""),
            (Value::LogFormat(LogFormat::Json), "\"json\""),
            (Value::Flag(true), "true"),
            (Value::Path(None), "\"\""),
        ] {
            assert_eq!(value.shown().to_string(), shown);
        }
    }
}
