//! The mode `session`: cycles over one stream, many of them in flight at a time.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{load_client::LoadClient, totals::Rpc};
use crate::{
    cli::errors::CliError,
    client::{LeaseKey, convert::to_proto},
    proto::{
        ClaimRequest, CompleteRequest, HeartbeatRequest, SessionRequest, session_request::Call,
        session_response::Result as SessionResult,
    },
};

/// A cycle in flight; its index is the `call_id` of its calls.
#[derive(Default)]
struct Cycle {
    /// The saga and its lease, once it is claimed.
    lease: Option<LeaseKey>,
    /// When its current call was sent.
    sent: u64,
}

/// Runs one session with this many cycles in flight.
///
/// # Errors
/// The stream can't be opened, or broke.
pub async fn cycles(load_client: LoadClient, in_flight: usize) -> Result<(), CliError> {
    let (shared, mut sagas) = (load_client.shared.clone(), load_client.client.sagas());
    let (calls, requests) = mpsc::channel(in_flight);
    let mut answers = sagas.session(ReceiverStream::new(requests)).await?.into_inner();
    let window = &shared.window;
    window.ready();
    let mut cycles: Vec<Cycle> = Vec::new();
    cycles.resize_with(in_flight, Cycle::default);
    for (place, cycle) in cycles.iter_mut().enumerate() {
        let Some(call) = claim(&load_client) else { break };
        cycle.sent = window.now();
        calls.send(item(place, call)).await.map_err(|_| broken())?;
    }
    loop {
        let answer = tokio::select! {
            answer = answers.message() => answer?.ok_or_else(broken)?,
            () = window.over.cancelled() => return Ok(()),
        };
        let now = window.now();
        let place = usize::try_from(answer.call_id).map_err(|_| broken())?;
        let cycle = cycles.get_mut(place).ok_or_else(broken)?;
        let (rpc, next) = match answer.result {
            Some(SessionResult::Claim(claimed)) => {
                cycle.lease = claimed.saga.as_ref().and_then(LeaseKey::of);
                let LeaseKey { task_id, owner_id, fencing_token } = cycle.lease.clone().ok_or_else(broken)?;
                let beat = HeartbeatRequest { task_id, owner_id, fencing_token, ..Default::default() };
                (Some(Rpc::Claim), Some(Call::Heartbeat(beat)))
            }
            Some(SessionResult::Heartbeat(_)) => {
                let LeaseKey { task_id, owner_id, fencing_token } = cycle.lease.take().ok_or_else(broken)?;
                let request_id = load_client.request_id();
                let done = CompleteRequest { task_id, owner_id, fencing_token, request_id, ..Default::default() };
                (Some(Rpc::Heartbeat), Some(Call::Complete(done)))
            }
            Some(SessionResult::Complete(_)) => (Some(Rpc::Complete), None),
            Some(SessionResult::Error(error)) => {
                load_client.totals.lock().failure(|| format!("{}: {}", error.code, error.message));
                (None, None)
            }
            Some(_) | None => return Err(broken()),
        };
        if let Some(rpc) = rpc
            && window.covers(cycle.sent, now)
        {
            load_client.totals.lock().record(rpc, now - cycle.sent);
        }
        if window.is_over(now) {
            return Ok(());
        }
        let next = match next {
            Some(call) => call,
            None => {
                let Some(call) = claim(&load_client) else {
                    window.close();
                    return Ok(());
                };
                call
            }
        };
        cycle.sent = window.now();
        calls.send(item(place, next)).await.map_err(|_| broken())?;
    }
}

/// A claim on the next saga; none if none is left.
fn claim(load_client: &LoadClient) -> Option<Call> {
    let task_id = load_client.shared.pool.next()?;
    let (ttl, request_id) = (Some(to_proto(load_client.shared.plan.ttl())), load_client.request_id());
    Some(Call::Claim(ClaimRequest { task_id, owner_id: load_client.owner(), ttl, request_id, ..Default::default() }))
}

fn item(place: usize, call: Call) -> SessionRequest {
    SessionRequest { call_id: i64::try_from(place).unwrap_or(i64::MAX), call: Some(call), timeout: None }
}

fn broken() -> CliError {
    CliError::Failed("a session ended early, or had an unexpected answer".to_owned())
}
