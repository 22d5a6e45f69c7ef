//! [`RpcMetrics`]: the calls of each rpc, by status code and duration, in atomics.

use std::sync::{
    OnceLock,
    atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
};

use tonic::Code;

use crate::{domain::time::Span, serve::path_map::PathMap};

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
pub(in crate::serve) struct Meters {
    places: PathMap<usize>,
    methods: Vec<Method>,
}

/// The calls of one rpc.
#[derive(Debug)]
pub(in crate::serve) struct Method {
    /// The service's full name and the method's, with a slash between.
    pub(in crate::serve) name: String,
    /// Its calls last as long as their clients like.
    pub(in crate::serve) streams: bool,
    pub(in crate::serve) open: AtomicI64,
    ends: [OnceLock<Times>; CODES.len()],
}

/// A histogram of the durations of calls with one status code.
#[derive(Debug)]
pub(in crate::serve) struct Times {
    bounds: &'static [u64],
    counts: Box<[AtomicU64]>,
    micros: AtomicU64,
}

impl Times {
    fn new(bounds: &'static [u64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Times { bounds, counts, micros: AtomicU64::new(0) }
    }

    /// The bounds in microseconds, the count of each bucket (one more than there are bounds), and the sum in microseconds.
    pub(in crate::serve) fn read(&self) -> (&'static [u64], Vec<u64>, u64) {
        (self.bounds, self.counts.iter().map(|count| count.load(Relaxed)).collect(), self.micros.load(Relaxed))
    }
}

impl Meters {
    /// For the rpcs with these paths, each with whether it streams.
    pub(in crate::serve) fn of<'a>(methods: impl Iterator<Item = (&'a str, bool)>) -> Self {
        let mut methods: Vec<_> = methods.collect();
        methods.sort_unstable();
        let places = methods.iter().enumerate().map(|(place, (path, _))| ((*path).to_owned(), place)).collect();
        let named = methods.into_iter().map(|(path, streams)| (path.trim_start_matches('/'), streams));
        let methods = named.chain([(OTHER, false)]).map(|(name, streams)| {
            let (open, ends) = (AtomicI64::new(0), Default::default());
            Method { name: name.to_owned(), streams, open, ends }
        });
        Meters { places, methods: methods.collect() }
    }

    /// The index of the rpc with this path. All unknown paths share one, so clients can't make up more.
    pub(super) fn place(&self, path: &str) -> usize {
        self.places.get(path).copied().unwrap_or(self.methods.len() - 1)
    }

    pub(super) fn begin(&self, place: usize) {
        self.methods[place].open.fetch_add(1, Relaxed);
    }

    pub(super) fn end(&self, place: usize, code: Code, took: Span) {
        let method = &self.methods[place];
        method.open.fetch_sub(1, Relaxed);
        let bounds = if method.streams { STREAM_MICROS } else { CALL_MICROS };
        let times = method.ends[code as usize].get_or_init(|| Times::new(bounds));
        let micros = u64::try_from(took.micros()).unwrap_or(0);
        times.counts[bounds.partition_point(|bound| *bound < micros)].fetch_add(1, Relaxed);
        times.micros.fetch_add(micros, Relaxed);
    }

    /// All rpcs, in order of name.
    pub(in crate::serve) fn methods(&self) -> &[Method] {
        &self.methods
    }
}

impl Method {
    /// The status codes that its calls ended with, each with the durations.
    pub(in crate::serve) fn ends(&self) -> impl Iterator<Item = (&'static str, &Times)> {
        CODES.into_iter().zip(&self.ends).filter_map(|(code, times)| Some((code, times.get()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_codes() {
        for (number, name) in CODES.into_iter().enumerate() {
            let code = Code::from(number as i32);
            assert_eq!(code as usize, number);
            let debug = format!("{code:?}").to_uppercase();
            assert_eq!(name.replace('_', ""), if debug == "OK" { "OK".to_owned() } else { debug });
        }
    }

    #[test]
    fn p10_paths_that_no_service_has_share_one_place() {
        let meters = Meters::of([("/a.B/C", false), ("/a.B/Watch", true)].into_iter());
        for n in 0..1000 {
            let place = meters.place(&format!("/made/up-{n}"));
            meters.begin(place);
            meters.end(place, Code::Unimplemented, Span::from_millis(1));
        }
        let watch = meters.place("/a.B/Watch");
        meters.begin(watch);
        let names: Vec<_> = meters.methods().iter().map(|method| method.name.as_str()).collect();
        assert_eq!(names, ["a.B/C", "a.B/Watch", OTHER]);
        assert_eq!(meters.methods()[1].open.load(Relaxed), 1);
        let other = &meters.methods()[2];
        let ends: Vec<_> = other.ends().map(|(code, times)| (code, times.read())).collect();
        let (code, (_, counts, micros)) = &ends[0];
        assert_eq!((ends.len(), *code, counts[2], *micros), (1, "UNIMPLEMENTED", 1000, 1_000_000));
        assert_eq!(other.open.load(Relaxed), 0);
    }
}
