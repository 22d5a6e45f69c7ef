//! [`CallSpan`]: one call's spans, made when it has ended.

use opentelemetry_proto::tonic::{
    common::v1::KeyValue,
    trace::v1::{Span, Status, span::SpanKind, status::StatusCode},
};
use tonic::Code;

use super::{
    TraceContext,
    tracer::{Tracer, text},
};
use crate::{domain::time::Timestamp, grpc::CallNotes, listen::Peer, metrics::WriteStage};

/// What is known of a call when it has ended.
pub(in crate::serve) struct CallSpan<'a> {
    pub(in crate::serve) context: &'a TraceContext,
    /// The service's name and the method's, with a slash between.
    pub(in crate::serve) rpc: &'a str,
    pub(in crate::serve) peer: Option<Peer>,
    pub(in crate::serve) code: Code,
    pub(in crate::serve) code_name: &'static str,
    pub(in crate::serve) begun: Timestamp,
    pub(in crate::serve) ended: Timestamp,
    /// By how many microseconds the wall clock is ahead of `begun` and `ended`.
    pub(in crate::serve) clock_offset: i64,
    pub(in crate::serve) notes: &'a CallNotes,
}

impl CallSpan<'_> {
    /// Queues the call's span and its child spans.
    pub(in crate::serve) fn send(self, tracer: &Tracer) {
        let server_span = self.server_span();
        for (name, begin, end) in [
            ("queue", WriteStage::Queued, WriteStage::Taken),
            ("transition", WriteStage::Taken, WriteStage::Judged),
            ("commit", WriteStage::Committing, WriteStage::Committed),
        ] {
            if let Some(span) = self.child_span(&server_span, name, begin, end) {
                tracer.send(span);
            }
        }
        tracer.send(server_span);
    }

    fn child_span(&self, parent: &Span, name: &str, begin: WriteStage, end: WriteStage) -> Option<Span> {
        let timing = self.notes.timing()?;
        Some(Span {
            parent_span_id: parent.span_id.clone(),
            name: name.to_owned(),
            kind: SpanKind::Internal.into(),
            start_time_unix_nano: self.nanos(timing.at(begin)?),
            end_time_unix_nano: self.nanos(timing.at(end)?),
            ..self.new_span()
        })
    }

    /// The server's span. (OpenTelemetry's semantic conventions for gRPC)
    fn server_span(&self) -> Span {
        let failed = is_server_error(self.code);
        Span {
            parent_span_id: self.context.parent.map(|parent| parent.to_vec()).unwrap_or_default(),
            name: self.rpc.to_owned(),
            kind: SpanKind::Server.into(),
            start_time_unix_nano: self.nanos(self.begun),
            end_time_unix_nano: self.nanos(self.ended),
            attributes: self.attributes(failed),
            status: failed.then(|| Status { code: StatusCode::Error.into(), message: String::new() }),
            ..self.new_span()
        }
    }

    fn attributes(&self, failed: bool) -> Vec<KeyValue> {
        let mut attributes = vec![
            text("rpc.system.name", "grpc"),
            text("rpc.method", self.rpc),
            text("rpc.response.status_code", self.code_name),
        ];
        attributes.extend(self.peer.map(|peer| match peer {
            Peer::Tcp(address) => text("network.peer.address", &address.ip().to_string()),
            Peer::Unix => text("network.transport", "unix"),
        }));
        attributes.extend(self.notes.subject().map(|subject| text("sagad.task_id", &subject)));
        attributes.extend(self.notes.attributes().iter().map(|(key, value)| text(key, value)));
        attributes.extend(failed.then(|| text("error.type", self.code_name)));
        attributes
    }

    fn new_span(&self) -> Span {
        let id: [u8; 8] = rand::random();
        Span {
            trace_id: self.context.trace_id.to_vec(),
            span_id: id.to_vec(),
            trace_state: self.context.state.clone(),
            // Sampled.
            flags: 1,
            ..Span::default()
        }
    }

    fn nanos(&self, time: Timestamp) -> u64 {
        u64::try_from(time.micros().saturating_add(self.clock_offset)).unwrap_or(0).saturating_mul(1000)
    }
}

/// Whether a status code means that the server failed, not its caller. (Semantic conventions for gRPC, server spans)
fn is_server_error(code: Code) -> bool {
    use Code::{DataLoss, DeadlineExceeded, Internal, Unavailable, Unimplemented, Unknown};
    matches!(code, Unknown | DeadlineExceeded | Unimplemented | Internal | Unavailable | DataLoss)
}
