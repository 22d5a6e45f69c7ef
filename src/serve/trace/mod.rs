//! Traces, sent to a collector by OTLP: a span for each sampled call, with child spans for its wait in the writer's queue,
//! its transition, and its commit.
//!
//! Spans are made when a call has ended, from times that were noted while it ran; the code that runs it knows nothing of
//! traces. They go through a bounded queue to a task that sends them. If the collector is slow or away they are dropped and
//! counted, and no call waits. The OpenTelemetry SDK is not used: its spans begin and end where the work is done, and its
//! exporter does not count dropped spans.

mod call_span;
mod trace_context;
mod tracer;

pub(super) use call_span::CallSpan;
pub(super) use trace_context::{TraceContext, TraceParent, sample};
pub(super) use tracer::{FLUSH_TIMEOUT, SpanCounts, Tracer};
