//! Traces, sent by OTLP to a collector: a span for each call that is sampled, and within it the wait in the writer's queue,
//! the transition, and the commit.
//!
//! Spans are made when a call has ended, from times that were noted on its way: nothing on that way knows of traces. They go
//! through a bounded queue to a task that sends them; when the collector is slow or away they are dropped and counted, and no
//! call waits. The messages are OTLP's own and the usual SDK is not between: its spans begin and end where the work is done, and
//! its exporter does not count what it drops.

mod context;
mod sender;
mod span;

pub(super) use context::{Context, sample};
pub(super) use sender::{FLUSH, SpanCounts, Tracer};
pub(super) use span::CallSpan;
