//! [`TraceContext`]: which trace a call belongs to (W3C Trace Context), and whether it is sampled.

use http::HeaderMap;
use rand::RngExt;

/// Where a call's span belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::serve) struct TraceContext {
    pub(super) trace_id: [u8; 16],
    /// The client's span. None: the call is the first span of its trace.
    pub(super) parent: Option<[u8; 8]>,
    pub(super) state: String,
}

/// The longest `tracestate` that is passed on, in bytes. (W3C Trace Context, 3.3.1.5)
const STATE_BYTES: usize = 512;

/// What a client says of its trace: the header `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) struct TraceParent {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    sampled: bool,
}

impl TraceParent {
    /// Parses the header. A malformed one is ignored. (W3C Trace Context: version, trace id, parent id, flags)
    pub(in crate::serve) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut parts = headers.get("traceparent")?.to_str().ok()?.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let ([version], [flags]) = (bytes::<1>(version)?, bytes::<1>(flags)?);
        // Later versions may have more parts; version 0 must not.
        if version == 0xff || (version == 0 && parts.next().is_some()) {
            return None;
        }
        let (trace_id, span_id) = (bytes::<16>(trace)?, bytes::<8>(span)?);
        let sampled = flags & 1 == 1;
        (trace_id != [0; 16] && span_id != [0; 8]).then_some(TraceParent { trace_id, span_id, sampled })
    }

    /// The trace's id in hexadecimal digits.
    pub(in crate::serve) fn trace_id(&self) -> String {
        self.trace_id.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The call's trace context. None: it is not sampled. If the client sends a trace it decides; of other calls the part
/// `share` (0.0 to 1.0) is sampled.
pub(in crate::serve) fn sample(parent: Option<TraceParent>, headers: &HeaderMap, share: f64) -> Option<TraceContext> {
    if let Some(TraceParent { trace_id, span_id, sampled }) = parent {
        return sampled.then(|| TraceContext { trace_id, parent: Some(span_id), state: state(headers) });
    }
    let mut random = rand::rng();
    let sampled = random.random_bool(share.clamp(0.0, 1.0));
    sampled.then(|| TraceContext { trace_id: random.random(), parent: None, state: String::new() })
}

/// Parses exactly `2 * N` lower-case hexadecimal digits.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut bytes = [0; N];
    for (place, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * place..2 * place + 2], 16).ok()?;
    }
    Some(bytes)
}

fn state(headers: &HeaderMap) -> String {
    let states: Vec<_> = headers.get_all("tracestate").iter().filter_map(|state| state.to_str().ok()).collect();
    let state = states.join(",");
    if state.len() > STATE_BYTES { String::new() } else { state }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    fn sampled(value: &str, share: f64) -> Option<TraceContext> {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", value.parse().unwrap());
        headers.insert("tracestate", "a=b".parse().unwrap());
        sample(TraceParent::of(&headers), &headers, share)
    }

    #[test]
    fn p12_only_a_valid_trace_id_is_shown() {
        let shown = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", value.parse().unwrap());
            TraceParent::of(&headers).map(|parent| parent.trace_id())
        };
        assert_eq!(shown(&format!("00-{TRACE}-b7ad6b7169203331-01")).as_deref(), Some(TRACE));
        assert_eq!(
            shown(&format!("00-{TRACE}-b7ad6b7169203331-00")).as_deref(),
            Some(TRACE),
            "one that is not sampled, too"
        );
        for other in
            ["", "00", "00-", "00-xyz-b7ad6b7169203331-01", &format!("00-{TRACE}0-b7ad6b7169203331-01"), "-\"}{-"]
        {
            assert_eq!(shown(other), None, "{other}");
        }
        assert_eq!(TraceParent::of(&HeaderMap::new()), None);
    }

    #[test]
    fn the_sampled_flag_of_the_client_decides() {
        let context = sampled(&format!("00-{TRACE}-b7ad6b7169203331-01"), 0.0).unwrap();
        assert_eq!((context.trace_id[0], context.trace_id[15], context.state.as_str()), (0x0a, 0x9c, "a=b"));
        assert_eq!(context.parent, Some([0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]));
        assert_eq!(sampled(&format!("00-{TRACE}-b7ad6b7169203331-00"), 1.0), None);
        assert!(sampled(&format!("01-{TRACE}-b7ad6b7169203331-01-more"), 0.0).is_some(), "a later version");
    }

    #[test]
    fn p12_a_malformed_trace_context_is_ignored() {
        for bad in [
            "",
            "00",
            "00-x-y-01",
            &format!("ff-{TRACE}-b7ad6b7169203331-01"),
            &format!("00-{TRACE}-b7ad6b7169203331-01-more"),
            &format!("00-{}-b7ad6b7169203331-01", TRACE.to_uppercase()),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            &format!("00-{TRACE}-0000000000000000-01"),
        ] {
            assert_eq!(sampled(bad, 0.0), None, "{bad}");
            assert!(sampled(bad, 1.0).is_some_and(|context| context.parent.is_none()), "{bad}");
        }
    }
}
