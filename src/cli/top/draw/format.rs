//! Short forms of times, rates and numbers, and facts side by side.

use ratatui::text::{Line, Span};

/// A duration in microseconds, short: `850ms`, `12.3s`, `2m 05s`, `1h 02m`, `3d 4h`.
pub fn short(micros: i64) -> String {
    let micros = micros.max(0);
    let seconds = micros / 1_000_000;
    match seconds {
        0 => format!("{}ms", micros / 1000),
        1..60 => format!("{seconds}.{}s", micros % 1_000_000 / 100_000),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A duration in microseconds, in its largest unit: `5s`, `9m`, `3d`.
pub fn rough(micros: i64) -> String {
    let seconds = micros.max(0) / 1_000_000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A protobuf duration, short; a dash if absent.
pub fn length(length: Option<&prost_types::Duration>) -> String {
    length.map_or_else(
        || "-".to_owned(),
        |length| short(length.seconds.saturating_mul(1_000_000).saturating_add(i64::from(length.nanos) / 1000)),
    )
}

/// A signed duration in seconds: `+0.012s`.
pub fn offset(length: &prost_types::Duration) -> String {
    let seconds = length.seconds as f64 + f64::from(length.nanos) / 1e9;
    // A clock that is a nanosecond off is not off.
    let seconds = if seconds.abs() < 0.0005 { 0.0 } else { seconds };
    format!("{seconds:+.3}s")
}

/// A rate: `0`, `0.4`, `12`, `3.4k`.
pub fn rate(rate: f64) -> String {
    if rate == 0.0 {
        "0".to_owned()
    } else if rate < 9.95 {
        format!("{rate:.1}")
    } else {
        number(rate.round() as i64)
    }
}

/// A number in at most five characters: `9999`, `12.3k`, `4.5M`.
pub fn number(number: i64) -> String {
    match number {
        ..10_000 => number.to_string(),
        10_000..1_000_000 => format!("{:.1}k", number as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1}M", number as f64 / 1e6),
        _ => format!("{:.1}G", number as f64 / 1e9),
    }
}

/// Facts side by side, as many per line as fit; none is split. At most `lines` lines.
pub fn flow(facts: Vec<Span<'static>>, width: u16, lines: usize) -> Vec<Line<'static>> {
    const GAP: usize = 3;
    let mut flowed: Vec<Line<'static>> = Vec::new();
    for fact in facts {
        let room = usize::from(width);
        match flowed.last_mut() {
            Some(line) if line.width() + GAP + fact.width() <= room => {
                line.push_span(Span::raw(" ".repeat(GAP)));
                line.push_span(fact);
            }
            Some(_) | None => flowed.push(Line::from(fact)),
        }
    }
    flowed.truncate(lines);
    flowed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        let told = [850_000, 12_345_678, 125_000_000, 3_720_000_000, 273_600_000_000].map(short);
        assert_eq!(told, ["850ms", "12.3s", "2m 05s", "1h 02m", "3d 4h"]);
        assert_eq!(short(-5), "0ms");
        assert_eq!([850_000, 12_345_678, 565_000_000, 273_600_000_000].map(rough), ["0s", "12s", "9m", "3d"]);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.0, 0.42, 12.4, 3_412.0, 34_120.0].map(rate), ["0", "0.4", "12", "3412", "34.1k"]);
        assert_eq!(number(4_500_000), "4.5M");
        assert_eq!(offset(&prost_types::Duration { seconds: 0, nanos: -12_000_000 }), "-0.012s");
        assert_eq!(offset(&prost_types::Duration { seconds: 0, nanos: -7 }), "+0.000s");
    }

    #[test]
    fn facts_wrap_at_the_width() {
        let facts = || ["aaaa", "bbbb", "cccc"].map(Span::raw).to_vec();
        let flowed = |width| flow(facts(), width, 9).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(flowed(80), ["aaaa   bbbb   cccc"]);
        assert_eq!(flowed(11), ["aaaa   bbbb", "cccc"]);
        assert_eq!(flow(facts(), 4, 2).len(), 2);
    }
}
