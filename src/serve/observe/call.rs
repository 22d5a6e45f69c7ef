//! [`Call`]: one call, from its headers to its end.

use std::{net::SocketAddr, sync::Arc};

use http::{HeaderMap, Request};
use tonic::{Code, body::Body};
use tracing::{Level, debug};

use super::{
    layer::ObserveLayer,
    meters::{CODES, Meters},
};
use crate::{clock::Clock, domain::time::Timestamp, grpc::Notes, listen::Line};

/// Who reads log lines of calls.
pub(super) const TARGET: &str = "sagad::calls";

/// A call that is looked at. Dropped before its end was seen, it was given up by its client.
pub(super) struct Call {
    clock: Arc<dyn Clock>,
    begun: Timestamp,
    meters: Option<(Arc<Meters>, usize)>,
    line: Option<LogLine>,
    ended: bool,
}

/// What the call's log line tells beside its end.
struct LogLine {
    path: String,
    peer: Option<SocketAddr>,
    trace_id: Option<String>,
    notes: Arc<Notes>,
}

impl Call {
    /// Looks at a call, if anyone wants to know of it.
    pub(super) fn begin(layer: &ObserveLayer, request: &Request<Body>) -> Option<Self> {
        let path = request.uri().path();
        let meters = layer.meters.as_ref().map(|meters| (meters.clone(), meters.place(path)));
        let line = tracing::enabled!(target: TARGET, Level::DEBUG).then(|| LogLine {
            path: path.trim_start_matches('/').to_owned(),
            peer: request.extensions().get::<Arc<Line>>().map(|line| line.peer()),
            trace_id: trace_id(request.headers()).map(str::to_owned),
            notes: Arc::default(),
        });
        if meters.is_none() && line.is_none() {
            return None;
        }
        if let Some((meters, place)) = &meters {
            meters.begin(*place);
        }
        let clock = layer.clock.clone();
        Some(Call { begun: clock.now(), clock, meters, line, ended: false })
    }

    /// Where its handler notes what it is about, if anyone reads that.
    pub(super) fn notes(&self) -> Option<Arc<Notes>> {
        self.line.as_ref().map(|line| line.notes.clone())
    }

    /// Looks for its end in headers or trailers.
    pub(super) fn look_at(&mut self, headers: &HeaderMap) {
        if let Some(status) = headers.get("grpc-status") {
            self.end(Code::from_bytes(status.as_bytes()));
        }
    }

    fn end(&mut self, code: Code) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let took = self.clock.now().since(self.begun);
        if let Some((meters, place)) = &self.meters {
            meters.end(*place, code, took);
        }
        if let Some(LogLine { path, peer, trace_id, notes }) = &self.line {
            let peer = peer.map(|peer| peer.to_string());
            let task_id = notes.subject();
            let (rpc, code, micros) = (path.as_str(), CODES[code as usize], took.micros());
            let (task_id, trace_id) = (task_id.as_deref(), trace_id.as_deref());
            debug!(target: TARGET, rpc, code, task_id, micros, peer = peer.as_deref(), trace_id, "call");
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// The trace that a call belongs to, as its client says. (W3C Trace Context: version, trace id, parent id, flags)
fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let id = headers.get("traceparent")?.to_str().ok()?.split('-').nth(1)?;
    (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p12_a_trace_id_is_taken_only_if_it_is_one() {
        let told = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", value.parse().unwrap());
            trace_id(&headers).map(str::to_owned)
        };
        let id = "0af7651916cd43dd8448eb211c80319c";
        assert_eq!(told(&format!("00-{id}-b7ad6b7169203331-01")), Some(id.to_owned()));
        for other in ["", "00", "00-", "00-xyz-b7ad6b7169203331-01", &format!("00-{id}0-b7ad6b7169203331-01"), "-\"}{-"]
        {
            assert_eq!(told(other), None, "{other}");
        }
        assert_eq!(trace_id(&HeaderMap::new()), None);
    }
}
