//! etcd: a lease and a key that is bound to it claim a task, a keep-alive extends the lease, a transaction and the lease's
//! revocation complete it. etcd has no queue: each client takes the next number, so that nobody loses a race.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Streaming,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use crate::{CONNECTIONS, Peer, Res, TTL};

const STORED_AT_ONCE: u64 = 100;

const TXN: &str = "/etcdserverpb.KV/Txn";
const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
const REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";
const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";

/// `LeaseGrantRequest`, `LeaseRevokeRequest` and `LeaseKeepAliveRequest` have one number each, the first.
#[derive(Clone, Copy, PartialEq, Message)]
struct Number {
    #[prost(int64, tag = "1")]
    value: i64,
}

/// `LeaseGrantResponse` and `LeaseKeepAliveResponse`.
#[derive(Clone, Copy, PartialEq, Message)]
struct Lease {
    #[prost(int64, tag = "2")]
    id: i64,
    #[prost(int64, tag = "3")]
    ttl: i64,
}

/// `LeaseRevokeResponse`, of which nothing is of interest.
#[derive(Clone, Copy, PartialEq, Message)]
struct Nothing {}

/// `Compare`. Its `oneof` is written as optional fields, which are the same bytes.
#[derive(Clone, PartialEq, Message)]
struct Compare {
    /// 1: the revision of creation, 3: the value. What is compared is equality, which is 0.
    #[prost(int32, tag = "2")]
    target: i32,
    #[prost(bytes, tag = "3")]
    key: Vec<u8>,
    #[prost(int64, optional, tag = "5")]
    create_revision: Option<i64>,
    #[prost(bytes, optional, tag = "7")]
    value: Option<Vec<u8>>,
}

/// `PutRequest`; without value and lease a `DeleteRangeRequest` of one key.
#[derive(Clone, PartialEq, Message)]
struct Put {
    #[prost(bytes, tag = "1")]
    key: Vec<u8>,
    #[prost(bytes, tag = "2")]
    value: Vec<u8>,
    #[prost(int64, tag = "3")]
    lease: i64,
}

/// `RequestOp`.
#[derive(Clone, PartialEq, Message)]
struct Op {
    #[prost(message, optional, tag = "2")]
    put: Option<Put>,
    #[prost(message, optional, tag = "3")]
    delete: Option<Put>,
}

/// `TxnRequest`.
#[derive(Clone, PartialEq, Message)]
struct Txn {
    #[prost(message, repeated, tag = "1")]
    compare: Vec<Compare>,
    #[prost(message, repeated, tag = "2")]
    success: Vec<Op>,
}

/// `TxnResponse`.
#[derive(Clone, Copy, PartialEq, Message)]
struct Outcome {
    #[prost(bool, tag = "2")]
    succeeded: bool,
}

fn put(key: String, value: &str, lease: i64) -> Op {
    Op { put: Some(Put { key: key.into(), value: value.into(), lease }), delete: None }
}

/// A client, on a connection that it shares, with a stream of keep-alives of its own.
pub struct Client {
    calls: Grpc<Channel>,
    next: Arc<AtomicU64>,
    owner: String,
    beats: mpsc::Sender<Number>,
    beaten: Streaming<Lease>,
}

async fn call<Q, A>(calls: &mut Grpc<Channel>, path: &'static str, message: Q) -> Res<A>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    calls.ready().await?;
    let codec = ProstCodec::<Q, A>::default();
    Ok(calls.unary(Request::new(message), PathAndQuery::from_static(path), codec).await?.into_inner())
}

async fn txn(calls: &mut Grpc<Channel>, compare: Vec<Compare>, success: Vec<Op>) -> Res<()> {
    let outcome: Outcome = call(calls, TXN, Txn { compare, success }).await?;
    if outcome.succeeded { Ok(()) } else { Err("a transaction was refused".into()) }
}

async fn open(port: u16) -> Res<Grpc<Channel>> {
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?.tcp_nodelay(true);
    Ok(Grpc::new(endpoint.connect().await?))
}

impl Peer for Client {
    type Lane = (Vec<Grpc<Channel>>, Arc<AtomicU64>);

    async fn lane(port: u16, next: Arc<AtomicU64>, clients: usize) -> Res<Self::Lane> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut connections = Vec::new();
        for _ in 0..(CONNECTIONS / threads).clamp(1, clients) {
            connections.push(open(port).await?);
        }
        Ok((connections, next))
    }

    async fn connect((connections, next): Self::Lane, number: usize) -> Res<Self> {
        // Clients of one thread are its number and steps of as many threads as there are: any spreads them.
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut calls = connections[number / threads % connections.len()].clone();
        let (beats, requests) = mpsc::channel(1);
        // The stream is only there once something was answered on it: this lease does not exist, which is an answer.
        beats.send(Number { value: 1 }).await?;
        calls.ready().await?;
        let codec = ProstCodec::<Number, Lease>::default();
        let path = PathAndQuery::from_static(KEEP_ALIVE);
        let answer = calls.streaming(Request::new(ReceiverStream::new(requests)), path, codec).await?;
        let mut beaten = answer.into_inner();
        beaten.message().await?;
        Ok(Client { calls, next, owner: format!("worker-{number}"), beats, beaten })
    }

    async fn cycle(&mut self, done: impl Fn() + Send) -> Res<()> {
        let task = self.next.fetch_add(1, Ordering::Relaxed);
        let key = format!("task/{task}/owner");
        let lease: Lease = call(&mut self.calls, GRANT, Number { value: TTL.into() }).await?;
        let free = Compare { target: 1, key: key.clone().into(), create_revision: Some(0), value: None };
        txn(&mut self.calls, vec![free], vec![put(key.clone(), &self.owner, lease.id)]).await?;
        done();
        self.beats.send(Number { value: lease.id }).await?;
        let beaten = self.beaten.message().await?.ok_or("the keep-alives ended")?;
        if beaten.ttl <= 0 {
            return Err("the lease has ended".into());
        }
        done();
        let held = Compare {
            target: 3,
            key: key.clone().into(),
            create_revision: None,
            value: Some(self.owner.clone().into()),
        };
        let delete = Some(Put { key: key.into(), value: Vec::new(), lease: 0 });
        let ops = vec![put(format!("task/{task}"), "completed", 0), Op { put: None, delete }];
        txn(&mut self.calls, vec![held], ops).await?;
        let _: Nothing = call(&mut self.calls, REVOKE, Number { value: lease.id }).await?;
        done();
        Ok(())
    }

    async fn load(port: u16, first: u64, tasks: u64) -> Res<()> {
        let mut calls = open(port).await?;
        let end = first + tasks;
        let mut from = first;
        while from < end {
            let to = (from + STORED_AT_ONCE).min(end);
            let puts = (from..to).map(|task| put(format!("task/{task}"), "planned", 0)).collect();
            txn(&mut calls, Vec::new(), puts).await?;
            from = to;
        }
        Ok(())
    }
}
