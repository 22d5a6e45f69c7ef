//! The routes of the operators' port.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{RawQuery, State},
    http::{
        Request, StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
    routing::get,
};
use tonic::server::NamedService;
use tower::Service;

use super::{
    metrics_text::{CONTENT_TYPE as METRICS, MetricsText},
    readings::Readings,
    state::{OpsState, ProbeCheck},
};

/// The health service as `tonic-health` makes it; its type can't be named.
pub(in crate::serve) trait HealthService:
    Service<Request<Body>, Response = axum::http::Response<tonic::body::Body>, Error = Infallible, Future: Send>
    + NamedService
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> HealthService for S where
    S: Service<Request<Body>, Response = axum::http::Response<tonic::body::Body>, Error = Infallible, Future: Send>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static
{
}

const TEXT: &str = "text/plain; charset=utf-8";

/// `/metrics`, the probes, and gRPC health.
pub(super) fn routes<H: HealthService>(ops: Arc<OpsState>, health: H) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route_service(&format!("/{}/{{*rpc}}", H::NAME), health)
        .fallback(async || page(StatusCode::NOT_FOUND, TEXT, "there are /metrics, /livez and /readyz\n".to_owned()))
        .method_not_allowed_fallback(async || {
            page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n".to_owned())
        })
        .with_state(ops)
}

async fn metrics(State(ops): State<Arc<OpsState>>) -> Response {
    match MetricsText::read(&Readings::now(&ops).await).render() {
        Ok(text) => page(StatusCode::OK, METRICS, text),
        // Only for a label that can't be encoded, and there is none.
        Err(error) => page(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("the metrics can't be written: {error}\n")),
    }
}

async fn livez(State(ops): State<Arc<OpsState>>, RawQuery(query): RawQuery) -> Response {
    let checks = ops.checks_with_retries().await;
    probe_response(checks.into_iter().filter(|check| check.live).collect(), query)
}

async fn readyz(State(ops): State<Arc<OpsState>>, RawQuery(query): RawQuery) -> Response {
    probe_response(ops.checks_with_retries().await, query)
}

/// `ok`, or the first failed check. With `?verbose`: all checks, one per line.
fn probe_response(checks: Vec<ProbeCheck>, query: Option<String>) -> Response {
    let verbose = query.is_some_and(|query| query.split('&').any(|part| part.starts_with("verbose")));
    let failed = checks.iter().find(|check| !check.ok);
    let status = if failed.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let lines = checks.iter().map(|check| {
        let (mark, text) = if check.ok { ('+', check.condition) } else { ('-', check.failure.as_str()) };
        format!("[{mark}] {text}\n")
    });
    let text = if verbose {
        lines.collect()
    } else {
        failed.map_or_else(|| "ok\n".to_owned(), |check| format!("{}\n", check.failure))
    };
    page(status, TEXT, text)
}

fn page(status: StatusCode, kind: &'static str, text: String) -> Response {
    (status, [(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-store")], text).into_response()
}
