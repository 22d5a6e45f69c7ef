//! Redis: a Lua script for each operation. The list `ready` has the ids, the hash `task:ID` what is known of a task, the sorted
//! set `leases` which lease ends when. Each operation compares owner, token and expiry as sagad does.
//!
//! [`Client`] waits for each answer before it sends the next command; [`Pipelined`] keeps [`DEPTH`] commands in flight on its
//! connection, as a session of sagad does.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::AtomicU64},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use crate::{Peer, Res, TTL};

/// Owner and length → id and token.
const CLAIM: &str = "local id = redis.call('LPOP', 'ready')
if not id then return redis.error_reply('none is left') end
local t = redis.call('TIME')
local expires = t[1] * 1000 + math.floor(t[2] / 1000) + ARGV[2] * 1000
local token = redis.call('INCR', 'token')
redis.call('HSET', 'task:' .. id, 'state', 'running', 'owner', ARGV[1], 'token', token, 'expires', expires)
redis.call('ZADD', 'leases', expires, id)
return {id, tostring(token)}";

/// Id, owner, token and length.
const HEARTBEAT: &str = "local key = 'task:' .. ARGV[1]
local held = redis.call('HMGET', key, 'owner', 'token', 'expires')
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
if held[1] ~= ARGV[2] or held[2] ~= ARGV[3] or tonumber(held[3]) <= now then
  return redis.error_reply('not held')
end
local expires = now + ARGV[4] * 1000
redis.call('HSET', key, 'expires', expires)
redis.call('ZADD', 'leases', expires, ARGV[1])
return {}";

/// Id, owner and token.
const COMPLETE: &str = "local key = 'task:' .. ARGV[1]
local held = redis.call('HMGET', key, 'state', 'owner', 'token')
if held[1] ~= 'running' or held[2] ~= ARGV[2] or held[3] ~= ARGV[3] then
  return redis.error_reply('not held')
end
redis.call('HSET', key, 'state', 'completed')
redis.call('ZREM', 'leases', ARGV[1])
return {}";

/// From and to.
const STORE: &str = "for id = ARGV[1], ARGV[2] do
  redis.call('HSET', 'task:' .. id, 'state', 'planned')
  redis.call('RPUSH', 'ready', id)
end
return {}";

const STORED_AT_ONCE: u64 = 10_000;
/// Cycles in flight on a pipelined connection.
pub const DEPTH: usize = 16;

/// A connection.
pub struct Client {
    stream: BufReader<TcpStream>,
    owner: String,
    /// The digests of claim, heartbeat and complete.
    scripts: [String; 3],
}

impl Client {
    async fn open(port: u16, owner: String) -> Res<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(Client { stream: BufReader::new(stream), owner, scripts: Default::default() })
    }

    /// One command; its answer's strings, one after the other.
    async fn call(&mut self, words: &[&str]) -> Res<Vec<String>> {
        self.stream.get_mut().write_all(command(words).as_bytes()).await?;
        self.answer().await
    }

    /// The next answer.
    async fn answer(&mut self) -> Res<Vec<String>> {
        let mut strings = Vec::new();
        let mut awaited = 1;
        let mut line = String::new();
        while awaited > 0 {
            awaited -= 1;
            line.clear();
            self.stream.read_line(&mut line).await?;
            let (kind, rest) = line.trim_end().split_at_checked(1).ok_or("the connection was closed")?;
            match kind {
                "+" | ":" => strings.push(rest.to_owned()),
                "*" => awaited += rest.parse::<usize>()?,
                "$" => {
                    let mut bytes = vec![0; rest.parse::<usize>()? + 2];
                    self.stream.read_exact(&mut bytes).await?;
                    bytes.truncate(bytes.len() - 2);
                    strings.push(String::from_utf8(bytes)?);
                }
                _ => return Err(rest.into()),
            }
        }
        Ok(strings)
    }
}

/// A command as it is sent.
fn command(words: &[&str]) -> String {
    let mut command = format!("*{}\r\n", words.len());
    for word in words {
        command.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    command
}

impl Peer for Client {
    type Lane = u16;

    async fn lane(port: u16, _: Arc<AtomicU64>, _: usize) -> Res<u16> {
        Ok(port)
    }

    async fn connect(port: u16, number: usize) -> Res<Self> {
        let mut client = Client::open(port, format!("worker-{number}")).await?;
        for (place, script) in [CLAIM, HEARTBEAT, COMPLETE].into_iter().enumerate() {
            client.scripts[place] = client.call(&["SCRIPT", "LOAD", script]).await?.concat();
        }
        Ok(client)
    }

    async fn cycle(&mut self, done: impl Fn() + Send) -> Res<()> {
        let (owner, [claim, heartbeat, complete]) = (self.owner.clone(), self.scripts.clone());
        let ttl = TTL.to_string();
        let claimed = self.call(&["EVALSHA", &claim, "0", &owner, &ttl]).await?;
        done();
        let [id, token] = claimed.as_slice() else { return Err("a claim without id and token".into()) };
        self.call(&["EVALSHA", &heartbeat, "0", id, &owner, token, &ttl]).await?;
        done();
        self.call(&["EVALSHA", &complete, "0", id, &owner, token]).await?;
        done();
        Ok(())
    }

    async fn load(port: u16, first: u64, tasks: u64) -> Res<()> {
        let mut client = Client::open(port, String::new()).await?;
        let end = first + tasks;
        let mut from = first;
        while from < end {
            let to = (from + STORED_AT_ONCE).min(end);
            client.call(&["EVAL", STORE, "0", &from.to_string(), &(to - 1).to_string()]).await?;
            from = to;
        }
        Ok(())
    }
}

/// What is next for a cycle of a pipelined connection, once its present command is answered.
#[derive(Clone)]
enum Stage {
    Claimed,
    Extended { id: String, token: String },
    Completed,
}

/// A connection with [`DEPTH`] cycles in flight. Redis answers in the order of the commands, which tells the cycles apart.
pub struct Pipelined {
    client: Client,
    in_flight: VecDeque<Stage>,
    /// Commands that are sent with the next write.
    unsent: String,
}

impl Pipelined {
    fn send(&mut self, script: usize, arguments: &[&str], stage: Stage) {
        let mut words = vec!["EVALSHA", &self.client.scripts[script], "0"];
        words.extend(arguments);
        self.unsent.push_str(&command(&words));
        self.in_flight.push_back(stage);
    }

    fn claim(&mut self) {
        let (owner, ttl) = (self.client.owner.clone(), TTL.to_string());
        self.send(0, &[&owner, &ttl], Stage::Claimed);
    }
}

impl Peer for Pipelined {
    type Lane = u16;

    async fn lane(port: u16, _: Arc<AtomicU64>, _: usize) -> Res<u16> {
        Ok(port)
    }

    async fn connect(port: u16, number: usize) -> Res<Self> {
        let client = <Client as Peer>::connect(port, number).await?;
        let mut pipelined = Pipelined { client, in_flight: VecDeque::new(), unsent: String::new() };
        (0..DEPTH).for_each(|_| pipelined.claim());
        Ok(pipelined)
    }

    /// Sends what is to be sent and takes the answers that have come, at least one.
    async fn cycle(&mut self, done: impl Fn() + Send) -> Res<()> {
        self.client.stream.get_mut().write_all(self.unsent.as_bytes()).await?;
        self.unsent.clear();
        loop {
            let answer = self.client.answer().await?;
            done();
            let owner = self.client.owner.clone();
            match self.in_flight.pop_front().ok_or("an answer that nobody asked for")? {
                Stage::Claimed => {
                    let [id, token] = answer.try_into().map_err(|_| "a claim without id and token")?;
                    self.send(
                        1,
                        &[&id, &owner, &token, &TTL.to_string()],
                        Stage::Extended { id: id.clone(), token: token.clone() },
                    );
                }
                Stage::Extended { id, token } => self.send(2, &[&id, &owner, &token], Stage::Completed),
                Stage::Completed => self.claim(),
            }
            if self.client.stream.buffer().is_empty() {
                return Ok(());
            }
        }
    }

    async fn load(port: u16, first: u64, tasks: u64) -> Res<()> {
        <Client as Peer>::load(port, first, tasks).await
    }
}
