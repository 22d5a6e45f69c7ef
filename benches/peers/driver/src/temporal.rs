//! Temporal: a standalone activity is a task. A poll claims it, a heartbeat extends it, its completion ends it. All three are calls of
//! the workers' gRPC interface, without an SDK, which would hold heartbeats back.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use prost::Message;
use tokio::task::JoinSet;
use tonic::{
    Code, Request,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use crate::{CONNECTIONS, Peer, Res, TTL};

const START: &str = "/temporal.api.workflowservice.v1.WorkflowService/StartActivityExecution";
const POLL: &str = "/temporal.api.workflowservice.v1.WorkflowService/PollActivityTaskQueue";
const HEARTBEAT: &str = "/temporal.api.workflowservice.v1.WorkflowService/RecordActivityTaskHeartbeat";
const COMPLETE: &str = "/temporal.api.workflowservice.v1.WorkflowService/RespondActivityTaskCompleted";

const NAMESPACE: &str = "default";
const QUEUE: &str = "bench";
/// Activities that are started at a time.
const STORED_AT_ONCE: u64 = 64;
/// How long a call may take, and a new server until its namespace is known everywhere.
const PATIENCE: Duration = Duration::from_secs(60);

/// `TaskQueue` and `ActivityType`.
#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

/// `google.protobuf.Duration`.
#[derive(Clone, Copy, PartialEq, Message)]
struct Seconds {
    #[prost(int64, tag = "1")]
    seconds: i64,
}

/// `StartActivityExecutionRequest`, as far as it is used.
#[derive(Clone, PartialEq, Message)]
struct Start {
    #[prost(string, tag = "1")]
    namespace: String,
    #[prost(string, tag = "2")]
    identity: String,
    #[prost(string, tag = "3")]
    request_id: String,
    #[prost(string, tag = "4")]
    activity_id: String,
    #[prost(message, optional, tag = "5")]
    activity_type: Option<Named>,
    #[prost(message, optional, tag = "6")]
    task_queue: Option<Named>,
    #[prost(message, optional, tag = "9")]
    start_to_close: Option<Seconds>,
    #[prost(message, optional, tag = "10")]
    heartbeat: Option<Seconds>,
}

/// `PollActivityTaskQueueRequest`.
#[derive(Clone, PartialEq, Message)]
struct Poll {
    #[prost(string, tag = "1")]
    namespace: String,
    #[prost(message, optional, tag = "2")]
    task_queue: Option<Named>,
    #[prost(string, tag = "3")]
    identity: String,
}

/// `PollActivityTaskQueueResponse`: without a token there was no task.
#[derive(Clone, PartialEq, Message)]
struct Polled {
    #[prost(bytes = "vec", tag = "1")]
    token: Vec<u8>,
}

/// `RecordActivityTaskHeartbeatRequest` and `RespondActivityTaskCompletedRequest`, whose second field is not used.
#[derive(Clone, PartialEq, Message)]
struct Held {
    #[prost(bytes = "vec", tag = "1")]
    token: Vec<u8>,
    #[prost(string, tag = "3")]
    identity: String,
    #[prost(string, tag = "4")]
    namespace: String,
}

/// An answer of which nothing is of interest.
#[derive(Clone, Copy, PartialEq, Message)]
struct Nothing {}

/// `RecordActivityTaskHeartbeatResponse`.
#[derive(Clone, Copy, PartialEq, Message)]
struct Beaten {
    #[prost(bool, tag = "1")]
    cancel_requested: bool,
}

/// A client, on a connection that it shares.
pub struct Client {
    calls: Grpc<Channel>,
    identity: String,
}

async fn call<Q, A>(calls: &mut Grpc<Channel>, path: &'static str, message: Q) -> Result<A, tonic::Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    calls.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
    let codec = ProstCodec::<Q, A>::default();
    let mut request = Request::new(message);
    // A poll without a deadline is refused.
    request.set_timeout(PATIENCE);
    Ok(calls.unary(request, PathAndQuery::from_static(path), codec).await?.into_inner())
}

async fn open(port: u16) -> Res<Grpc<Channel>> {
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?.tcp_nodelay(true);
    Ok(Grpc::new(endpoint.connect().await?))
}

fn named(name: &str) -> Option<Named> {
    Some(Named { name: name.to_owned() })
}

async fn start(calls: &mut Grpc<Channel>, task: u64) -> Result<(), tonic::Status> {
    let request = Start {
        namespace: NAMESPACE.to_owned(),
        identity: "load".to_owned(),
        request_id: format!("load-{task}"),
        activity_id: format!("task-{task:010}"),
        activity_type: named("task"),
        task_queue: named(QUEUE),
        start_to_close: Some(Seconds { seconds: 3600 }),
        heartbeat: Some(Seconds { seconds: TTL.into() }),
    };
    call::<_, Nothing>(calls, START, request).await.map(drop)
}

impl Peer for Client {
    type Lane = Vec<Grpc<Channel>>;

    async fn lane(port: u16, _: Arc<AtomicU64>, clients: usize) -> Res<Self::Lane> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut connections = Vec::new();
        for _ in 0..(CONNECTIONS / threads).clamp(1, clients) {
            connections.push(open(port).await?);
        }
        Ok(connections)
    }

    async fn connect(connections: Self::Lane, number: usize) -> Res<Self> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let calls = connections[number / threads % connections.len()].clone();
        Ok(Client { calls, identity: format!("worker-{number}") })
    }

    async fn cycle(&mut self, done: impl Fn() + Send) -> Res<()> {
        let (namespace, identity) = (NAMESPACE.to_owned(), self.identity.clone());
        let poll = Poll { namespace: namespace.clone(), task_queue: named(QUEUE), identity: identity.clone() };
        // The poll waits on the server until a task has been read from the database.
        let Polled { token } = call(&mut self.calls, POLL, poll).await?;
        if token.is_empty() {
            return Err("no activity is left".into());
        }
        done();
        let held = Held { token, identity, namespace };
        let _: Beaten = call(&mut self.calls, HEARTBEAT, held.clone()).await?;
        done();
        let _: Nothing = call(&mut self.calls, COMPLETE, held).await?;
        done();
        Ok(())
    }

    async fn load(port: u16, first: u64, tasks: u64) -> Res<()> {
        let calls = open(port).await?;
        let begun = std::time::Instant::now();
        // The first one is repeated until the server is ready for it.
        while let Err(status) = start(&mut calls.clone(), first).await {
            if begun.elapsed() > PATIENCE || status.code() == Code::InvalidArgument {
                return Err(status.into());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let mut started: JoinSet<Result<(), tonic::Status>> = JoinSet::new();
        for lane in 0..STORED_AT_ONCE {
            let mut calls = calls.clone();
            started.spawn(async move {
                for task in (first + 1 + lane..first + tasks).step_by(STORED_AT_ONCE as usize) {
                    start(&mut calls, task).await?;
                }
                Ok(())
            });
        }
        while let Some(ended) = started.join_next().await {
            ended??;
        }
        Ok(())
    }
}
