//! [`UnaryFastPath`]: frequent unary calls, read and answered without the generated code.
//!
//! The generated code boxes each request's body and copies it into a buffer, makes the answer a stream that encodes itself,
//! and puts the handler's future into three boxes. Workers make such calls all the time. So those that are not compressed
//! are read and answered here, by the same handlers and with the same errors.

use std::{future::poll_fn, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body::Body as HttpBody;
use prost::{Message, Name};
use tonic::{Code, Status, codegen::Service, metadata::MetadataMap};

use super::{
    SagaHandlers,
    framed_stream::{PREFIX_BYTES, put_framed},
    handler_body::HandlerBody,
    services::{GrpcService, ResponseFuture},
    settings::GZIP,
};
use crate::proto::{
    codec::{self, MESSAGE_BUFFER},
    saga_service_server::{SagaService, SagaServiceServer},
};

/// The header with a request's compression.
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// A handler of the generated trait.
type Handler<M, A> =
    for<'a> fn(&'a SagaHandlers, tonic::Request<M>) -> BoxFuture<'a, Result<tonic::Response<A>, Status>>;

/// The SagaService, with a fast path for frequent calls.
#[derive(Clone)]
pub(super) struct UnaryFastPath {
    sagas: Arc<SagaHandlers>,
    /// For all other calls.
    generated: SagaServiceServer<SagaHandlers>,
    max_message_bytes: usize,
}

impl UnaryFastPath {
    /// Larger messages are refused.
    pub(super) fn new(sagas: SagaHandlers, max_message_bytes: usize) -> Self {
        let sagas = Arc::new(sagas);
        let generated = SagaServiceServer::from_arc(sagas.clone())
            .max_decoding_message_size(max_message_bytes)
            .accept_compressed(GZIP);
        UnaryFastPath { sagas, generated, max_message_bytes }
    }

    fn answer<B, M, A>(&self, request: Request<B>, handler: Handler<M, A>) -> ResponseFuture
    where
        B: HttpBody<Data = Bytes, Error = Status> + Send + 'static,
        M: Message + Name + Default + 'static,
        A: Message + 'static,
    {
        let (sagas, max) = (self.sagas.clone(), self.max_message_bytes);
        ResponseFuture::from_future(async move {
            match answer(&sagas, request, max, handler).await {
                Ok(answer) => encode_response(&answer),
                Err(status) => status.into_http(),
            }
        })
    }
}

impl<B> GrpcService<B> for UnaryFastPath
where
    B: HttpBody<Data = Bytes, Error = Status> + Send + 'static,
{
    fn call(&self, request: Request<B>) -> ResponseFuture {
        if request.headers().contains_key(ENCODING) {
            return ResponseFuture::from_generated(self.generated.clone().call(request));
        }
        match request.uri().path() {
            "/sagad.v1.SagaService/Claim" => self.answer(request, |sagas, request| sagas.claim(request)),
            "/sagad.v1.SagaService/ClaimNext" => self.answer(request, |sagas, request| sagas.claim_next(request)),
            "/sagad.v1.SagaService/Heartbeat" => self.answer(request, |sagas, request| sagas.heartbeat(request)),
            "/sagad.v1.SagaService/Complete" => self.answer(request, |sagas, request| sagas.complete(request)),
            "/sagad.v1.SagaService/Fail" => self.answer(request, |sagas, request| sagas.fail(request)),
            "/sagad.v1.SagaService/Release" => self.answer(request, |sagas, request| sagas.release(request)),
            "/sagad.v1.SagaService/CreateSaga" => self.answer(request, |sagas, request| sagas.create_saga(request)),
            "/sagad.v1.SagaService/GetSaga" => self.answer(request, |sagas, request| sagas.get_saga(request)),
            _ => ResponseFuture::from_generated(self.generated.clone().call(request)),
        }
    }
}

async fn answer<B, M, A>(
    sagas: &SagaHandlers,
    request: Request<B>,
    max: usize,
    handler: Handler<M, A>,
) -> Result<A, Status>
where
    B: HttpBody<Data = Bytes, Error = Status> + Send + 'static,
    M: Message + Name + Default,
{
    let (head, body) = request.into_parts();
    let message = read_message(body, max).await?;
    let request = tonic::Request::from_parts(MetadataMap::from_headers(head.headers), head.extensions, message);
    // Our handlers set no headers of their own.
    handler(sagas, request).await.map(tonic::Response::into_inner)
}

/// The one message of a body, read until the client has ended it.
async fn read_message<B, M>(body: B, max: usize) -> Result<M, Status>
where
    B: HttpBody<Data = Bytes, Error = Status> + Send + 'static,
    M: Message + Name + Default,
{
    let mut body = std::pin::pin!(body);
    let (mut first, mut more) = (Bytes::new(), BytesMut::new());
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let data = match frame.map(http_body::Frame::into_data) {
            Ok(Ok(data)) => data,
            // Trailers; requests have none that matter.
            Ok(Err(_)) => continue,
            // The client ended the body within a message.
            Err(status) if status.code() == Code::Cancelled => break,
            Err(status) => return Err(status),
        };
        if first.is_empty() {
            first = data;
        } else {
            if more.is_empty() {
                more.extend_from_slice(&first);
            }
            more.extend_from_slice(&data);
        }
        check_prefix(if more.is_empty() { &first } else { &more }, max)?;
    }
    let whole: &[u8] = if more.is_empty() { &first } else { &more };
    match whole.split_first_chunk::<PREFIX_BYTES>() {
        None if whole.is_empty() => Err(Status::internal("Missing request message.")),
        Some((prefix, message)) if message.len() >= length(prefix) => codec::decode(&message[..length(prefix)]),
        Some(_) | None => Err(Status::internal("Unexpected EOF decoding stream.")),
    }
}

/// Refuses a message from its prefix on, with the same errors as `tonic`.
fn check_prefix(begun: &[u8], max: usize) -> Result<(), Status> {
    let Some(prefix) = begun.first_chunk::<PREFIX_BYTES>() else { return Ok(()) };
    let length = length(prefix);
    match prefix[0] {
        0 if length > max => Err(Status::out_of_range(format!(
            "Error, decoded message length too large: found {length} bytes, the limit is: {max} bytes"
        ))),
        0 => Ok(()),
        1 => Err(Status::internal(
            "protocol error: received message with compressed-flag but no grpc-encoding was specified",
        )),
        flag => Err(Status::internal(format!(
            "protocol error: received message with invalid compression flag: {flag} (valid flags are 0 and 1), while sending \
             request"
        ))),
    }
}

fn length(&[_, a, b, c, d]: &[u8; PREFIX_BYTES]) -> usize {
    u32::from_be_bytes([a, b, c, d]) as usize
}

fn encode_response(answer: &impl Message) -> Response<HandlerBody> {
    let mut message = BytesMut::with_capacity(MESSAGE_BUFFER);
    put_framed(&mut message, answer);
    let mut headers = HeaderMap::with_capacity(1);
    headers.insert(CONTENT_TYPE, GRPC);
    let mut response = Response::new(HandlerBody::Message(message.freeze()));
    *response.headers_mut() = headers;
    response
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::{executor::block_on, stream};
    use http_body::Frame;
    use http_body_util::{BodyExt, StreamBody};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        clock::ManualClock,
        domain::time::Span,
        grpc::{GrpcLimits, ServerSettings, StoreSlot, services},
        proto::{CreateSagaRequest, HeartbeatRequest},
    };

    const MAX: usize = 4096;

    /// What a caller gets: `grpc-status` and `grpc-message` from headers or trailers, and the body.
    type Received = (Option<String>, Option<String>, Vec<u8>);

    /// Sends heartbeats with this body in chunks of `size`: to the fast path, and to the generated code.
    fn both(body: &[u8], size: usize) -> [Received; 2] {
        let limits = GrpcLimits {
            max_watches: 1,
            max_worker_streams: 1,
            max_session_calls: 1,
            max_message_bytes: MAX,
            callers_known: false,
        };
        let facts = ServerSettings { restart_grace: Span::ZERO, backup_dir: "/none".into(), bounds: Vec::new() };
        let (clock, stop) = (Arc::new(ManualClock::default()), CancellationToken::new());
        let services = services(StoreSlot::new(), facts, limits, None, clock, stop);
        [None, Some("identity")].map(|encoding| {
            let pieces: Vec<_> =
                body.chunks(size).map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece)))).collect();
            let mut request = Request::new(StreamBody::new(stream::iter(pieces)));
            *request.uri_mut() = "/sagad.v1.SagaService/Heartbeat".parse().unwrap();
            if let Some(encoding) = encoding {
                request.headers_mut().insert(ENCODING, encoding.parse().unwrap());
            }
            let (head, body) = block_on(services.call(request)).into_parts();
            let body = block_on(body.collect()).unwrap();
            let status = body.trailers().cloned().unwrap_or(head.headers);
            let text = |name| status.get(name).map(|value| value.to_str().unwrap().to_owned());
            (text("grpc-status"), text("grpc-message"), body.to_bytes().to_vec())
        })
    }

    fn framed(message: &impl Message) -> Vec<u8> {
        let mut frame = BytesMut::new();
        put_framed(&mut frame, message);
        frame.to_vec()
    }

    #[test]
    fn p12_request_bodies_are_parsed_as_tonic_parses_them() {
        let heartbeat = HeartbeatRequest {
            task_id: "t".into(),
            owner_id: "o".into(),
            fencing_token: 1,
            progress: Some(Bytes::from_static(&[7; 99])),
            ..HeartbeatRequest::default()
        };
        let whole = framed(&heartbeat);
        let too_many = CreateSagaRequest { compensations: vec![Default::default(); MAX / 2 - 8], ..Default::default() };
        let bodies: [(&str, Vec<u8>); 10] = [
            ("14", whole.clone()),
            ("3", framed(&HeartbeatRequest::default())),
            ("3", Vec::new()),
            ("3", whole[..3].to_vec()),
            ("3", whole[..whole.len() - 1].to_vec()),
            ("3", [&[0, 0, 0, 0x10, 1][..], &[0; 9]].concat()),
            ("3", [&[1][..], &whole[1..]].concat()),
            ("3", [&[9][..], &whole[1..]].concat()),
            ("3", vec![0, 0, 0, 0, 3, 0x0a, 9, 0]),
            ("3", framed(&too_many)),
        ];
        for (code, body) in bodies {
            for size in [1, 5, 6, body.len().max(1)] {
                let [here, library] = both(&body, size);
                assert_eq!(here, library, "{code} {size}");
                assert_eq!(here.0.as_deref(), Some(code), "{here:?}");
            }
        }
    }

    #[test]
    fn an_answer_is_one_frame_and_its_status() {
        let answer = HeartbeatRequest { task_id: "t".repeat(1000), ..HeartbeatRequest::default() };
        let body = block_on(encode_response(&answer).into_body().collect()).unwrap();
        assert_eq!(body.trailers().unwrap().get("grpc-status").unwrap(), "0");
        let bytes = body.to_bytes();
        let read: Result<HeartbeatRequest, Status> =
            block_on(read_message(http_body_util::Full::new(bytes).map_err(|never: Infallible| match never {}), MAX));
        assert_eq!(read.unwrap(), answer);
    }
}
