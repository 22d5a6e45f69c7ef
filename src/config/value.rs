//! Parsers from text to values, one for each kind, for all sources. A parser's error continues a sentence that begins
//! with the value.

use std::{fmt::Display, net::SocketAddr, path::PathBuf};

use tracing_subscriber::filter::Targets;

use crate::domain::time::Span;

use super::{ConfigError, LogFormat};

/// The units of sizes, the smallest first.
pub(super) const SIZE_UNITS: [(&str, u64); 3] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// What a parser returns.
pub(super) type Parsed<T> = Result<T, String>;

/// Parses a default.
pub(super) fn known<T>(value: &'static str, parse: impl Fn(&str) -> Parsed<T>) -> Result<T, ConfigError> {
    parse(value).map_err(|problem| ConfigError::Default { value, problem })
}

/// An IP address and a port.
pub(super) fn address(text: &str) -> Parsed<SocketAddr> {
    text.parse().map_err(|_| "is not an IP address with a port, such as 127.0.0.1:7420 or [::1]:7420".to_owned())
}

/// An IP address and a port; the empty text is `None`.
pub(super) fn address_or_none(text: &str) -> Parsed<Option<SocketAddr>> {
    if text.is_empty() { Ok(None) } else { address(text).map(Some) }
}

/// The URL of a gRPC server; the empty text is `None`.
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

/// A URL without its user and password, for errors.
pub(super) fn without_password(address: &str) -> String {
    let (scheme, rest) = address.split_once("://").map_or(("", address), |(scheme, rest)| (scheme, rest));
    match rest.rsplit_once('@') {
        Some((_, host)) if scheme.is_empty() => format!("***@{host}"),
        Some((_, host)) => format!("{scheme}://***@{host}"),
        None => address.to_owned(),
    }
}

/// A text with the users and passwords removed from all its URLs.
pub(super) fn without_passwords(text: &str) -> String {
    let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`');
    let words = text
        .split_inclusive(ends)
        .map(|word| if word.contains("://") { without_password(word) } else { word.to_owned() });
    words.collect()
}

/// A fraction from 0 to 1.
pub(super) fn share(text: &str) -> Parsed<f64> {
    let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "is not a share between 0 and 1, such as \"0.01\"".to_owned())
}

/// A path.
pub(super) fn path(text: &str) -> Parsed<PathBuf> {
    if text.is_empty() { Err("is empty: a directory is needed".to_owned()) } else { Ok(text.into()) }
}

/// A duration within inclusive bounds, or `forever`, which is `None`.
pub(super) fn age(least: Span, most: Span) -> impl Fn(&str) -> Parsed<Option<Span>> {
    move |text| {
        if text == "forever" {
            Ok(None)
        } else {
            span(least, most)(text).map(Some).map_err(|e| format!("{e}; nor is it forever"))
        }
    }
}

/// A path; the empty text is `None`.
pub(super) fn file(text: &str) -> Parsed<Option<PathBuf>> {
    Ok(Some(text).filter(|text| !text.is_empty()).map(PathBuf::from))
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

/// A duration within inclusive bounds.
pub(super) fn span(least: Span, most: Span) -> impl Fn(&str) -> Parsed<Span> {
    move |text| {
        // Zero is the only number that needs no unit.
        let length = if text == "0" { Ok(std::time::Duration::ZERO) } else { humantime::parse_duration(text) };
        let length = length.map_err(|_| "is not a length of time, such as 500ms, 30s, 5m or 1h30m".to_owned())?;
        let span = i64::try_from(length.as_micros()).ok().and_then(Span::from_micros);
        within(span.ok_or_else(|| format!("is more than {most}"))?, least, most)
    }
}

/// A count within inclusive bounds.
pub(super) fn count(least: u64, most: u64) -> impl Fn(&str) -> Parsed<u64> {
    move |text| within(text.parse().map_err(|_| "is not a whole number".to_owned())?, least, most)
}

/// A number of bytes, with or without a binary unit, within inclusive bounds.
pub(super) fn size(least: u64, most: u64) -> impl Fn(&str) -> Parsed<u64> {
    move |text| {
        let (digits, unit) = SIZE_UNITS
            .iter()
            .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?.trim_end(), *unit)))
            .unwrap_or((text, 1));
        let bytes = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(unit));
        let bytes = bytes.ok_or_else(|| "is not a size, such as 67108864, 512KiB or 64MiB".to_owned())?;
        if bytes < least {
            Err(format!("is less than {least} bytes"))
        } else if bytes > most {
            Err(format!("is more than {most} bytes"))
        } else {
            Ok(bytes)
        }
    }
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
    use super::*;

    #[test]
    fn sizes_take_binary_units() {
        let size = size(1024, 1 << 40);
        assert_eq!(size("67108864"), Ok(64 << 20));
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert_eq!(size("1 KiB"), Ok(1024));
        assert_eq!(size("1GiB"), Ok(1 << 30));
        for bad in ["", "MiB", "64MB", "-1KiB", "1.5MiB", "99999999999999999999", "99999999999GiB", "1023", "1025GiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn passwords_in_addresses_are_not_told() {
        for (given, told) in [
            ("http://ann:hush@host:1", "http://***@host:1"),
            ("http://ann:hu/sh@host:1", "http://***@host:1"),
            ("ann:hush@host:1", "***@host:1"),
            ("http://host:1", "http://host:1"),
        ] {
            assert_eq!(without_password(given), told);
        }
        assert_eq!(without_passwords("a@b = \"http://ann:hush@h\" 'x'"), "a@b = \"http://***@h\" 'x'");
    }

    #[test]
    fn lengths_read_as_on_the_command_line() {
        let span = span(Span::ZERO, Span::from_secs(3600));
        assert_eq!(span("0"), Ok(Span::ZERO));
        assert_eq!(span("0s"), Ok(Span::ZERO));
        assert_eq!(span("1m30s"), Ok(Span::from_secs(90)));
        assert_eq!(span("250ms"), Ok(Span::from_millis(250)));
        for bad in ["", "10", "-1s", "ten", "61m", "1000000000y"] {
            assert!(span(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn other_values_say_what_they_want() {
        assert!(address("localhost:7420").unwrap_err().contains("127.0.0.1:7420"));
        assert!(address("[::1]:0").is_ok());
        assert!(log_filter("sagad=debug,info").is_ok());
        assert!(log_filter("sagad=loud").unwrap_err().contains("log filter"));
        assert!(log_format("xml").is_err() && path("").is_err() && flag("yes").is_err());
        assert!(count(1, 9)("0").is_err() && count(1, 9)("10").is_err() && count(1, 9)("x").is_err());
        assert_eq!(count(1, 9)("9"), Ok(9));
    }
}
