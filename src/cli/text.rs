//! Words for people: times with how far away they are, lengths, and text that can do nothing to a terminal.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use prost_types::Timestamp;

use crate::client::{convert, time};

/// Text from the store, with control characters escaped: none of it may move a cursor or fake a line.
pub fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { escape(c) } else { vec![c] }).collect()
}

/// The same where lines are welcome.
pub fn multiline(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
}

fn escape(c: char) -> Vec<char> {
    c.escape_default().collect()
}

/// Bytes: as text where they are short printable text, else their number.
pub fn content(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.len() <= 400 => printable(text),
        Ok(_) | Err(_) => format!("{} bytes", bytes.len()),
    }
}

/// The units of lengths, in microseconds.
const UNITS: [(&str, u128); 6] =
    [("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1)];

/// A length to the microsecond, in as many units as that takes: `1h 30m 15s`, `250ms`.
pub fn exact(length: Duration) -> String {
    let mut left = length.as_micros();
    let mut parts = Vec::new();
    for (unit, micros) in UNITS {
        if left >= micros {
            parts.push(format!("{}{unit}", left / micros));
            left %= micros;
        }
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

/// A length in at most two units: `1h 30m`, `12s`, `250ms`.
pub fn length(length: Duration) -> String {
    let whole = if length >= Duration::from_secs(10) { Duration::from_secs(length.as_secs()) } else { length };
    exact(whole).split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// How far `at` is from `now`: `in 12s`, `3m 5s ago`, `now` within half a second.
pub fn relative(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let rounded = |length: Duration| Duration::from_secs((length + Duration::from_millis(500)).as_secs());
    let away = at - now;
    match (away.to_std().map(rounded), (-away).to_std().map(rounded)) {
        (Ok(ahead), _) if !ahead.is_zero() => format!("in {}", length(ahead)),
        (_, Ok(ago)) if !ago.is_zero() => format!("{} ago", length(ago)),
        (_, _) => "now".to_owned(),
    }
}

/// `1 saga`, `2 sagas`.
pub fn counted(count: impl Into<i64>, what: &str) -> String {
    let count = count.into();
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A size as people read it: `20.0 MiB`.
pub fn bytes(bytes: i64) -> String {
    const UNITS: [(&str, f64); 4] =
        [("TiB", 1_099_511_627_776.0), ("GiB", 1_073_741_824.0), ("MiB", 1_048_576.0), ("KiB", 1024.0)];
    let bytes = bytes as f64;
    match UNITS.iter().find(|(_, size)| bytes >= *size) {
        Some((unit, size)) => format!("{:.1} {unit}", bytes / size),
        None => format!("{bytes} bytes"),
    }
}

/// A time in full: RFC 3339 in UTC, and how far away it is.
pub fn when(at: &Timestamp) -> String {
    match convert::to_utc(at) {
        Some(at) => format!("{} ({})", at.to_rfc3339_opts(SecondsFormat::Millis, true), relative(at, time::utc_now())),
        None => "a time outside of the calendar".to_owned(),
    }
}

/// A time in full, for columns and lines.
pub fn stamp(at: Option<&Timestamp>) -> String {
    let at = at.and_then(convert::to_utc);
    at.map_or_else(|| "-".to_owned(), |at| at.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// Only how far away a time is, to the nearest unit: for columns.
pub fn away(at: Option<&Timestamp>) -> String {
    at.and_then(convert::to_utc).map_or_else(|| "-".to_owned(), |at| roughly(at, time::utc_now()))
}

fn roughly(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let micros = (at - now).abs().to_std().unwrap_or_default().as_micros();
    let mut units = UNITS.iter().take_while(|(_, unit)| *unit >= 1_000_000);
    let largest = units.find(|(name, unit)| micros >= *unit || (*name == "s" && micros * 2 >= *unit));
    match largest.map(|(name, unit)| (name, (micros + unit / 2) / unit)) {
        Some((name, count)) if at > now => format!("in {count}{name}"),
        Some((name, count)) => format!("{count}{name} ago"),
        None => "now".to_owned(),
    }
}

/// The last part of an enum value's name: `SAGA_STATE_RUNNING` after `SAGA_STATE_` as `running`.
pub fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase().replace('_', "-")
}

/// A dash where there is nothing.
pub fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { printable(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_by_their_distance() {
        let now = DateTime::from_timestamp(1_000_000, 0).expect("in the calendar");
        let told = |seconds| relative(now + chrono::TimeDelta::seconds(seconds), now);
        assert_eq!(told(12), "in 12s");
        assert_eq!(told(-185), "3m 5s ago");
        assert_eq!(told(0), "now");
        assert_eq!(told(-90_000), "1d 1h ago");
        assert_eq!(relative(now + chrono::TimeDelta::milliseconds(299_900), now), "in 5m");
        assert_eq!(roughly(now + chrono::TimeDelta::milliseconds(299_900), now), "in 5m");
        assert_eq!(roughly(now - chrono::TimeDelta::seconds(40), now), "40s ago");
        assert_eq!(roughly(now, now), "now");
        assert_eq!(relative(now - chrono::TimeDelta::milliseconds(30), now), "now");
    }

    #[test]
    fn lengths_are_short() {
        assert_eq!(length(Duration::from_secs(5_400)), "1h 30m");
        assert_eq!(length(Duration::from_millis(12_345)), "12s");
        assert_eq!(length(Duration::from_millis(250)), "250ms");
        assert_eq!(length(Duration::from_millis(1_250)), "1s 250ms");
        assert_eq!(length(Duration::ZERO), "0s");
        assert_eq!(exact(Duration::from_secs(93_784)), "1d 2h 3m 4s");
        assert_eq!(bytes(20 << 20) + ", " + &bytes(1_536) + ", " + &bytes(7), "20.0 MiB, 1.5 KiB, 7 bytes");
        assert_eq!(counted(1, "saga") + ", " + &counted(0, "event"), "1 saga, 0 events");
    }

    #[test]
    fn nothing_from_the_store_reaches_the_terminal_raw() {
        assert_eq!(printable("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
        assert_eq!(printable("größe 猫"), "größe 猫");
        assert_eq!(content(&[0xff, 0xfe]), "2 bytes");
        assert_eq!(content(b"{\"a\":1}"), "{\"a\":1}");
    }
}
