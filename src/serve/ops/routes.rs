//! The routes of the operators' port.

use http::{
    HeaderValue, Method, Response, StatusCode,
    header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE},
    request::Parts,
};
use tonic::body::Body;

use super::{Ops, ProbeCheck, collect::collect, metrics_text::MetricsFormat};

const TEXT: &str = "text/plain; charset=utf-8";

/// Answers a request.
pub(super) async fn answer(ops: &Ops, request: &Parts) -> Response<Body> {
    if request.method != Method::GET && request.method != Method::HEAD {
        let mut refused = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n".to_owned());
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    let verbose = request.uri.query().is_some_and(|query| query.split('&').any(|part| part.starts_with("verbose")));
    match request.uri.path() {
        "/metrics" => metrics(ops, request).await,
        "/livez" => {
            probe_response(ops.checks_with_retries().await.into_iter().filter(|check| check.live).collect(), verbose)
        }
        "/readyz" => probe_response(ops.checks_with_retries().await, verbose),
        _ => page(StatusCode::NOT_FOUND, TEXT, "there are /metrics, /livez and /readyz\n".to_owned()),
    }
}

async fn metrics(ops: &Ops, request: &Parts) -> Response<Body> {
    let wants_openmetrics = request
        .headers
        .get_all(ACCEPT)
        .iter()
        .any(|accept| accept.to_str().is_ok_and(|accept| accept.contains("application/openmetrics-text")));
    let format = if wants_openmetrics { MetricsFormat::OpenMetrics } else { MetricsFormat::Prometheus };
    match collect(ops).await.render(format) {
        Ok(text) => page(StatusCode::OK, format.content_type(), text),
        // Only for a label that can't be encoded, and there is none.
        Err(error) => page(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("the metrics can't be written: {error}\n")),
    }
}

/// `ok`, or the first failed check. `verbose`: all checks, one per line.
fn probe_response(checks: Vec<ProbeCheck>, verbose: bool) -> Response<Body> {
    let wrong = checks.iter().find(|check| !check.ok);
    let status = if wrong.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let lines = checks.iter().map(|check| {
        let (mark, text) = if check.ok { ('+', check.condition) } else { ('-', check.failure.as_str()) };
        format!("[{mark}] {text}\n")
    });
    let text = if verbose {
        lines.collect()
    } else {
        wrong.map_or_else(|| "ok\n".to_owned(), |check| format!("{}\n", check.failure))
    };
    page(status, TEXT, text)
}

fn page(status: StatusCode, kind: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Body::new(http_body_util::Full::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
