//! Bytes as the request of any rpc: read by the coordinator's codec, parsed, and both outcomes judged.

use std::{collections::BTreeSet, fmt::Debug};

use bytes::Bytes;
use http_body_util::Full;
use prost::{Message, Name};
use sagad::{
    domain::command::Request,
    grpc::{
        parse::{self, ChangeRequest, Violations, queries, session, unleased_operations},
        problem::Problem,
        transport_errors,
    },
    proto::{self, codec::BoundedCodec},
};
use tonic::{Code, Status, Streaming, codec::Codec};
use tonic_types::StatusExt;

use crate::{bounds, paths};

/// As the daemon has it.
const MESSAGE_BYTES: usize = 4 << 20;
/// Some clients accept no more headers than this.
const HEADER_BYTES: usize = 8 << 10;

/// One rpc: the name of its request, and what is done with bytes that are to be one.
pub struct Rpc {
    /// The message's name in the contract.
    pub request: &'static str,
    /// Reads, parses and judges.
    pub run: fn(&[u8]),
}

macro_rules! rpcs {
    (changes: $($change:ident)*; looks: $($look:ident => $parse:expr),*; empty: $($empty:ident)*;
     later: $($later:ident => $judge:expr),*;) => {
        /// Every rpc. The corpus tells them by their places here: new ones come last.
        pub const RPCS: &[Rpc] = &[
            $(Rpc { request: stringify!($change), run: change::<proto::$change> },)*
            $(Rpc { request: stringify!($look), run: |bytes| look::<proto::$look, _>(bytes, $parse) },)*
            $(Rpc { request: stringify!($empty), run: |bytes| look::<proto::$empty, _>(bytes, |_| Ok(())) },)*
            $(Rpc { request: stringify!($later), run: |bytes| look::<proto::$later, _>(bytes, $judge) },)*
        ];
    };
}

rpcs! {
    changes: CreateSagaRequest BatchCreateSagasRequest DispatchRequest ClaimRequest ClaimNextRequest HeartbeatRequest
        KeepAliveRequest ReleaseRequest RegisterCompensationRequest CompleteRequest FailRequest
        RecordCompensationRequest WaiveCompensationRequest CompensateRequest QuarantineRequest RecoverRequest
        RequestCancelRequest AnnotateRequest PauseQueueRequest ResumeQueueRequest;
    looks: GetSagaRequest => |m| queries::get_saga(&m).map(drop),
        ListSagasRequest => |m| queries::list_sagas(m).map(|listing| bounds::listing(&listing)),
        ListEventsRequest => |m| queries::list_events(m).map(|history| bounds::history(&history)),
        WatchStaleRequest => |m| queries::watch_stale(&m).map(|watch| bounds::watch(&watch)),
        WatchEventsRequest => |m| queries::watch_events(&m).map(|watch| bounds::watch(&watch)),
        ListQueuesRequest => |m| queries::list_queues(m).map(|wanted| bounds::queues(&wanted)),
        PurgeSagasRequest => |m| unleased_operations::purge(&m).map(|purge| bounds::purge(&purge));
    empty: GetStatsRequest GetServerInfoRequest GetVitalsRequest BackupRequest;
    later: RevokePrincipalRequest => |m| unleased_operations::revoke_principal(&m).map(|wanted| bounds::revocation(&wanted)),
        SessionRequest => |m| session::item(m).map(|item| bounds::item(&item));
}

/// Ends the run if an rpc of the contract is not fuzzed.
pub fn assert_complete() {
    let fuzzed: BTreeSet<String> = RPCS.iter().map(|rpc| rpc.request.to_owned()).collect();
    assert_eq!(fuzzed, paths::requests(), "every request of the contract is fuzzed");
}

fn change<M: ChangeRequest + Name + Default + Clone + PartialEq + Debug + 'static>(bytes: &[u8]) {
    let Some(message) = decoded::<M>(bytes) else { return };
    match parse::request(message.clone()) {
        Ok(Request { command, key, by: _ }) => {
            bounds::command(&command);
            let again = decoded::<M>(&message.encode_to_vec()).expect("what was read can be written and read");
            assert_eq!(again, message);
            let again = parse::request(again).expect("what was accepted once is accepted again");
            assert_eq!(again.key, key, "a repeat is recognized");
        }
        Err(violations) => judge(M::NAME, violations),
    }
}

fn look<M: Message + Name + Default + 'static, T>(bytes: &[u8], parse: impl Fn(M) -> Result<T, Violations>) {
    if let Some(message) = decoded::<M>(bytes)
        && let Err(violations) = parse(message)
    {
        judge(M::NAME, violations);
    }
}

/// The message, as the daemon's codec reads it from a connection.
fn decoded<M: Message + Name + Default + 'static>(bytes: &[u8]) -> Option<M> {
    let length = u32::try_from(bytes.len()).expect("a fuzzer's input is short");
    let frame: Bytes = [&[0][..], &length.to_be_bytes(), bytes].concat().into();
    let decoder = BoundedCodec::<M, M>::default().decoder();
    let mut stream = Streaming::new_request(decoder, Full::new(frame), None, Some(MESSAGE_BYTES));
    match futures::executor::block_on(stream.message()) {
        Ok(message) => Some(message.expect("one frame, one message")),
        Err(status) => {
            let fields = fields(&transport_errors::complete_status(&status));
            for field in fields {
                // Bytes that don't even name a field can't be told by one.
                let nameless = field.is_empty() && !status.message().contains(&format!("{}.", M::NAME));
                assert!(nameless || paths::has_field(M::NAME, &field), "{}: {field:?}: {status:?}", M::NAME);
            }
            None
        }
    }
}

fn judge(message: &str, violations: Violations) {
    let problem = Problem::from(violations);
    for (field, wrong) in &problem.violations {
        assert!(!wrong.is_empty(), "{message}: {field}");
        let rest_is_counted = field.is_empty() && wrong.ends_with("more violations");
        assert!(rest_is_counted || paths::has_field(message, field), "{message}: {field}: {wrong}");
    }
    fields(&problem.into());
}

/// The fields that an error names, which has to be one of a bad request and fit into a header.
fn fields(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!(details.error_info().map(|info| info.reason.as_str()), Some("INVALID_ARGUMENT"), "{status:?}");
    let header = status.details().len().div_ceil(3) * 4 + 3 * status.message().len();
    assert!(header < HEADER_BYTES, "{header} bytes: {status:?}");
    let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
    assert!(!violations.is_empty(), "{status:?}");
    violations.into_iter().map(|violation| violation.field).collect()
}
