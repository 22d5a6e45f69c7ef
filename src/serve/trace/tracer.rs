//! [`Tracer`]: the queue of spans, and the task that sends them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tracing::{info, warn};

/// Spans that wait to be sent: a second of a thousand sampled calls, in one or two MiB.
const QUEUE: usize = 4096;
/// Most spans in one message.
const BATCH: usize = 512;
/// How long spans are collected before they are sent.
const BATCH_DELAY: Duration = Duration::from_millis(500);
/// How long the collector may take to connect or answer.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long shutdown waits at most for the last spans to be sent.
pub(in crate::serve) const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// How many spans were sent or dropped.
#[derive(Debug, Default)]
pub(in crate::serve) struct SpanCounts {
    /// The collector took them.
    pub(in crate::serve) exported: AtomicU64,
    /// The queue was full.
    pub(in crate::serve) queue_full: AtomicU64,
    /// The collector refused them or was not reachable.
    pub(in crate::serve) not_taken: AtomicU64,
}

/// Queues spans; cheap to clone.
#[derive(Clone, Debug)]
pub(in crate::serve) struct Tracer {
    spans: mpsc::Sender<Span>,
    counts: Arc<SpanCounts>,
    /// The part of calls that is sampled if their clients send no trace (0.0 to 1.0).
    pub(in crate::serve) share: f64,
}

/// The task that sends spans.
pub(in crate::serve) struct SpanSender {
    task: JoinHandle<()>,
    end: CancellationToken,
}

impl Tracer {
    /// Starts to send spans to a collector, which need not be reachable.
    ///
    /// # Errors
    /// The address is malformed.
    pub(in crate::serve) fn start(
        address: &str,
        share: f64,
        counts: Arc<SpanCounts>,
    ) -> Result<(Self, SpanSender), tonic::transport::Error> {
        let mut endpoint =
            Endpoint::from_shared(address.to_owned())?.timeout(EXPORT_TIMEOUT).connect_timeout(EXPORT_TIMEOUT);
        if address.starts_with("https:") {
            endpoint = endpoint.tls_config(ClientTlsConfig::new().with_native_roots())?;
        }
        let (spans, waiting) = mpsc::channel(QUEUE);
        let end = CancellationToken::new();
        let task = tokio::spawn(send_all(waiting, endpoint.connect_lazy(), counts.clone(), end.clone()));
        Ok((Tracer { spans, counts, share }, SpanSender { task, end }))
    }

    /// Queues a span, or drops it if the queue is full.
    pub(super) fn send(&self, span: Span) {
        if self.spans.try_send(span).is_err() {
            self.counts.queue_full.fetch_add(1, Relaxed);
        }
    }
}

impl SpanSender {
    /// Sends what is queued and ends the task, within `within`.
    pub(in crate::serve) async fn shut_down(mut self, within: Duration) {
        self.end.cancel();
        if timeout(within, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

async fn send_all(
    mut waiting: mpsc::Receiver<Span>,
    channel: Channel,
    counts: Arc<SpanCounts>,
    end: CancellationToken,
) {
    let mut client = TraceServiceClient::new(channel);
    let mut failing = false;
    let mut spans = Vec::with_capacity(BATCH);
    loop {
        tokio::select! {
            biased;
            count = waiting.recv_many(&mut spans, BATCH) => if count == 0 { return },
            // `biased`: spans that were queued before are taken first.
            () = end.cancelled() => return,
        }
        if spans.len() < BATCH {
            let _ = end.run_until_cancelled(sleep(BATCH_DELAY)).await;
            while spans.len() < BATCH
                && let Ok(span) = waiting.try_recv()
            {
                spans.push(span);
            }
        }
        let count = spans.len() as u64;
        match client.export(message(std::mem::take(&mut spans))).await {
            Ok(answer) => {
                let refused = answer.into_inner().partial_success.map_or(0, |part| part.rejected_spans.max(0) as u64);
                counts.exported.fetch_add(count.saturating_sub(refused), Relaxed);
                counts.not_taken.fetch_add(refused, Relaxed);
                if std::mem::replace(&mut failing, false) {
                    info!("the collector takes traces again");
                }
            }
            Err(status) => {
                counts.not_taken.fetch_add(count, Relaxed);
                if !std::mem::replace(&mut failing, true) {
                    warn!(code = ?status.code(), why = status.message(), "the collector takes no traces; they are dropped");
                }
            }
        }
    }
}

/// A span attribute.
pub(super) fn text(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

fn message(spans: Vec<Span>) -> ExportTraceServiceRequest {
    let (name, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    let attributes = vec![text("service.name", name), text("service.version", version)];
    let scope = InstrumentationScope { name: name.to_owned(), version: version.to_owned(), ..Default::default() };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource { attributes, ..Resource::default() }),
            scope_spans: vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        }],
    }
}
