//! Words for people: times with how far away they are, lengths, and text that can do nothing to a terminal.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use prost_types::Timestamp;
use ratatui::text::Span;

use crate::{
    client::{convert, time},
    domain::characters,
};

/// Text from the store in one line, with everything escaped that can't be shown: none of it may move a cursor, fake a line or
/// turn what stands behind it.
pub fn printable(text: &str) -> String {
    characters::printable(text).into_owned()
}

/// The same where lines are welcome.
pub fn multiline(text: &str) -> String {
    characters::printable_lines(text).into_owned()
}

/// Bytes: as text where they are short printable text, else their number.
pub fn content(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.len() <= 400 => printable(text),
        Ok(_) | Err(_) => format!("{} bytes", bytes.len()),
    }
}

/// The largest distance from 1970, in microseconds, that is shown, so that two times can be subtracted. No calendar
/// goes as far.
const FARTHEST: i64 = 1 << 61;

/// A time as microseconds since 1970.
pub fn micros(time: &Timestamp) -> i64 {
    let micros = time.seconds.saturating_mul(1_000_000).saturating_add(i64::from(time.nanos) / 1000);
    micros.clamp(-FARTHEST, FARTHEST)
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

/// A length as people read it, rounded: `1h 30m`, `12s`, `1.3s`, `250ms`.
pub fn length(length: Duration) -> String {
    let micros = length.as_micros();
    match micros {
        0..1_000 => exact(length),
        1_000..999_500 => format!("{}ms", (micros + 500) / 1_000),
        999_500..9_950_000 => {
            let tenths = (micros + 50_000) / 100_000;
            if tenths.is_multiple_of(10) {
                format!("{}s", tenths / 10)
            } else {
                format!("{}.{}s", tenths / 10, tenths % 10)
            }
        }
        _ => exact(Duration::from_secs(length.as_secs())).split(' ').take(2).collect::<Vec<_>>().join(" "),
    }
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

/// The sum of what a coordinator told, or the largest number there is.
pub fn total(numbers: impl Iterator<Item = i64>) -> i64 {
    numbers.fold(0, i64::saturating_add)
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

/// A time in UTC to the second, without its year, for narrow lines.
pub fn short_stamp(at: Option<&Timestamp>) -> String {
    let at = at.and_then(convert::to_utc);
    at.map_or_else(|| "-".to_owned(), |at| at.format("%m-%d %H:%M:%S").to_string())
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

/// How many columns of a terminal a text takes.
pub fn columns(text: &str) -> usize {
    Span::raw(text).width()
}

/// The text, at most so wide; cut ones end in `…`.
pub fn cut(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    for c in text.chars() {
        kept.push(c);
        if columns(&kept) >= width {
            kept.pop();
            break;
        }
    }
    kept + "…"
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
    fn times_are_shown_relative_to_now() {
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
    fn durations_and_sizes_are_short() {
        assert_eq!(length(Duration::from_secs(5_400)), "1h 30m");
        assert_eq!(length(Duration::from_millis(12_345)), "12s");
        assert_eq!(length(Duration::from_millis(250)), "250ms");
        assert_eq!(length(Duration::from_micros(467_736)), "468ms");
        assert_eq!(length(Duration::from_micros(736)), "736us");
        assert_eq!(length(Duration::from_micros(999_700)), "1s");
        assert_eq!(length(Duration::from_millis(1_260)), "1.3s");
        assert_eq!(length(Duration::from_millis(9_960)), "9s");
        assert_eq!(length(Duration::from_secs(9)), "9s");
        assert_eq!(length(Duration::ZERO), "0s");
        assert_eq!(exact(Duration::from_secs(93_784)), "1d 2h 3m 4s");
        assert_eq!(bytes(20 << 20) + ", " + &bytes(1_536) + ", " + &bytes(7), "20.0 MiB, 1.5 KiB, 7 bytes");
        assert_eq!(counted(1, "saga") + ", " + &counted(0, "event"), "1 saga, 0 events");
    }

    #[test]
    fn truncated_text_ends_with_an_ellipsis() {
        assert_eq!(cut("worker-3", 8), "worker-3");
        assert_eq!(cut("worker-3", 5), "work…");
        assert_eq!(cut("猫猫猫", 4), "猫…");
    }

    #[test]
    fn stored_text_is_escaped_for_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
        assert_eq!(printable("größe 猫"), "größe 猫");
        assert_eq!(content(&[0xff, 0xfe]), "2 bytes");
        assert_eq!(content(b"{\"a\":1}"), "{\"a\":1}");
    }
}
