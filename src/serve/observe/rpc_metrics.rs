//! [`RpcMetrics`]: the calls of each rpc, by status code and duration, in atomics.

use std::sync::{
    OnceLock,
    atomic::{AtomicI64, Ordering::Relaxed},
};

use tonic::Code;

use crate::{domain::time::Span, metrics::Histogram, serve::path_map::PathMap};

/// The names of gRPC's status codes, by number. (Values of `rpc.response.status_code` in OpenTelemetry's semantic
/// conventions)
pub(in crate::serve) const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
/// Histogram bounds for unary calls, in microseconds: 250 µs to 60 s, the longest time that a `ClaimNext` is held.
const CALL_MICROS: &[u64] = &[
    250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 60_000_000,
];
/// Histogram bounds for streams, in microseconds: a second to a day.
const STREAM_MICROS: &[u64] = &[1_000_000, 10_000_000, 60_000_000, 600_000_000, 3_600_000_000, 86_400_000_000];
/// `rpc.method` of calls with an unknown path. (OpenTelemetry's semantic conventions)
const OTHER: &str = "_OTHER";

/// The calls of all rpcs.
#[derive(Debug)]
pub(in crate::serve) struct RpcMetrics {
    indexes: PathMap<usize>,
    methods: Vec<MethodMetrics>,
}

/// The calls of one rpc.
#[derive(Debug)]
pub(in crate::serve) struct MethodMetrics {
    /// The service's full name and the method's, with a slash between.
    pub(in crate::serve) name: String,
    /// Its calls last as long as their clients like.
    pub(in crate::serve) streams: bool,
    pub(in crate::serve) open: AtomicI64,
    ends: [OnceLock<Histogram>; CODES.len()],
}

impl RpcMetrics {
    /// For the rpcs with these paths, each with whether it streams.
    pub(in crate::serve) fn of<'a>(methods: impl Iterator<Item = (&'a str, bool)>) -> Self {
        let mut methods: Vec<_> = methods.collect();
        methods.sort_unstable();
        let indexes = methods.iter().enumerate().map(|(index, (path, _))| ((*path).to_owned(), index)).collect();
        let named = methods.into_iter().map(|(path, streams)| (path.trim_start_matches('/'), streams));
        let methods = named.chain([(OTHER, false)]).map(|(name, streams)| {
            let (open, ends) = (AtomicI64::new(0), Default::default());
            MethodMetrics { name: name.to_owned(), streams, open, ends }
        });
        RpcMetrics { indexes, methods: methods.collect() }
    }

    /// The index of the rpc with this path. All unknown paths share one, so clients can't make up more.
    pub(super) fn index(&self, path: &str) -> usize {
        self.indexes.get(path).copied().unwrap_or(self.methods.len() - 1)
    }

    pub(super) fn begin(&self, index: usize) {
        self.methods[index].open.fetch_add(1, Relaxed);
    }

    pub(super) fn end(&self, index: usize, code: Code, took: Span) {
        let method = &self.methods[index];
        method.open.fetch_sub(1, Relaxed);
        let bounds = if method.streams { STREAM_MICROS } else { CALL_MICROS };
        let times = method.ends[code as usize].get_or_init(|| Histogram::new(bounds));
        times.record(u64::try_from(took.micros()).unwrap_or(0));
    }

    /// All rpcs, in order of name.
    pub(in crate::serve) fn methods(&self) -> &[MethodMetrics] {
        &self.methods
    }
}

impl MethodMetrics {
    /// The status codes that its calls ended with, each with the durations.
    pub(in crate::serve) fn ends(&self) -> impl Iterator<Item = (&'static str, &Histogram)> {
        CODES.into_iter().zip(&self.ends).filter_map(|(code, times)| Some((code, times.get()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_codes_are_grpcs() {
        for (number, name) in CODES.into_iter().enumerate() {
            let code = Code::from(number as i32);
            assert_eq!(code as usize, number);
            let debug = format!("{code:?}").to_uppercase();
            assert_eq!(name.replace('_', ""), if debug == "OK" { "OK".to_owned() } else { debug });
        }
    }

    #[test]
    fn p10_unknown_paths_share_one_counter() {
        let metrics = RpcMetrics::of([("/a.B/C", false), ("/a.B/Watch", true)].into_iter());
        for n in 0..1000 {
            let index = metrics.index(&format!("/made/up-{n}"));
            metrics.begin(index);
            metrics.end(index, Code::Unimplemented, Span::from_millis(1));
        }
        let watch = metrics.index("/a.B/Watch");
        metrics.begin(watch);
        let names: Vec<_> = metrics.methods().iter().map(|method| method.name.as_str()).collect();
        assert_eq!(names, ["a.B/C", "a.B/Watch", OTHER]);
        assert_eq!(metrics.methods()[1].open.load(Relaxed), 1);
        let other = &metrics.methods()[2];
        let ends: Vec<_> = other.ends().map(|(code, times)| (code, times.read())).collect();
        let (code, times) = &ends[0];
        assert_eq!((ends.len(), *code, times.counts[2], times.sum), (1, "UNIMPLEMENTED", 1000, 1_000_000));
        assert_eq!(other.open.load(Relaxed), 0);
    }
}
