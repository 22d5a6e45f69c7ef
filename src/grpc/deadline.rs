//! The deadline that a caller sends. A held `ClaimNext` must be answered before it.

use http::{HeaderMap, HeaderName};
#[cfg(any(test, feature = "fuzzing"))]
use tonic::metadata::MetadataMap;

use crate::domain::{bounds::WAIT_MARGIN, time::Span};

const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// How long a call with these headers may be held: `wait`, or less if the caller's deadline is earlier.
#[cfg(any(test, feature = "fuzzing"))]
pub fn bounded_wait(wait: Span, metadata: &MetadataMap) -> Span {
    wait_within(wait, call_timeout(metadata.as_ref()))
}

/// How long a call may be held: `wait`, or less, because the answer has to leave before the caller's `timeout`. None: the
/// caller has no deadline.
pub(super) fn wait_within(wait: Span, timeout: Option<Span>) -> Span {
    match timeout {
        None => wait,
        Some(timeout) => {
            let left = timeout.micros() - WAIT_MARGIN.micros();
            wait.min(Span::from_micros(left).unwrap_or(Span::ZERO))
        }
    }
}

/// Parses the `grpc-timeout` header: up to eight digits and a unit. A malformed one is ignored, as by other gRPC servers.
/// (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md)
pub fn call_timeout(headers: &HeaderMap) -> Option<Span> {
    let value = headers.get(TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let amount: i64 = digits.parse().ok()?;
    let micros = match unit {
        "H" => amount * 3_600_000_000,
        "M" => amount * 60_000_000,
        "S" => amount * 1_000_000,
        "m" => amount * 1000,
        "u" => amount,
        "n" => amount / 1000,
        _ => return None,
    };
    Span::from_micros(micros)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tonic::metadata::AsciiMetadataValue;

    use super::*;
    use crate::domain::bounds::WAIT_MAX;

    fn wait(timeout: &str) -> i64 {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", timeout.parse().unwrap());
        bounded_wait(Span::from_secs(60), &metadata).micros() / 1000
    }

    #[test]
    fn a_wait_ends_before_the_deadline() {
        assert_eq!(bounded_wait(Span::from_secs(60), &MetadataMap::new()), Span::from_secs(60));
        assert_eq!(wait("5S"), 4900);
        assert_eq!(wait("5000m"), 4900);
        assert_eq!(wait("50m"), 0);
        assert_eq!(wait("99999999H"), 60_000);
        assert_eq!(wait("1M"), 59_900);
        for unreadable in ["", "S", "5", "5x", "-5S", "123456789S"] {
            assert_eq!(wait(unreadable), 60_000, "{unreadable}");
        }
    }

    proptest! {
        #[test]
        fn p12_no_header_makes_a_wait_longer(value in prop_oneof!["[ -~]{0,12}|[0-9]{1,9}[HMSmun]".prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 0..40)])
        {
            let mut metadata = MetadataMap::new();
            // An invalid header value never gets here.
            if let Ok(value) = AsciiMetadataValue::try_from(&value[..]) {
                metadata.insert("grpc-timeout", value);
            }
            prop_assert!(bounded_wait(WAIT_MAX, &metadata) <= WAIT_MAX);
        }

        #[test]
        fn p12_a_deadline_is_kept(amount in 0..100_000_000_i64, unit in 0..6_usize) {
            let (letter, nanos) = [
                ("H", 3_600_000_000_000), ("M", 60_000_000_000), ("S", 1_000_000_000), ("m", 1_000_000), ("u", 1000),
                ("n", 1_i128),
            ][unit];
            let left = i128::from(amount) * nanos / 1_000_000 - 100;
            prop_assert_eq!(i128::from(wait(&format!("{amount}{letter}"))), left.clamp(0, 60_000));
        }
    }
}
