//! beanstalkd: reserve, touch, delete. Only the delete is written to its log.

use std::sync::{Arc, atomic::AtomicU64};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use crate::{Peer, Res, TTL};

const STORED_AT_ONCE: u64 = 1_000;

/// A connection.
pub struct Client {
    stream: BufReader<TcpStream>,
    line: String,
}

impl Client {
    async fn open(port: u16) -> Res<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(Client { stream: BufReader::new(stream), line: String::new() })
    }

    /// The next line, which has to begin with this word; the word behind it.
    async fn expect(&mut self, word: &str) -> Res<String> {
        self.line.clear();
        self.stream.read_line(&mut self.line).await?;
        let mut words = self.line.split_whitespace();
        if words.next() != Some(word) {
            return Err(format!("{:?} instead of {word}", self.line).into());
        }
        Ok(words.next().unwrap_or_default().to_owned())
    }

    async fn call(&mut self, command: &str, word: &str) -> Res<String> {
        self.stream.get_mut().write_all(command.as_bytes()).await?;
        self.expect(word).await
    }
}

impl Peer for Client {
    type Lane = u16;

    async fn lane(port: u16, _: Arc<AtomicU64>, _: usize) -> Res<u16> {
        Ok(port)
    }

    async fn connect(port: u16, _: usize) -> Res<Self> {
        Client::open(port).await
    }

    async fn cycle(&mut self, done: impl Fn() + Send) -> Res<()> {
        let id = self.call("reserve-with-timeout 0\r\n", "RESERVED").await?;
        // The body: a line, as it is stored by `load`.
        self.line.clear();
        self.stream.read_line(&mut self.line).await?;
        done();
        self.call(&format!("touch {id}\r\n"), "TOUCHED").await?;
        done();
        self.call(&format!("delete {id}\r\n"), "DELETED").await?;
        done();
        Ok(())
    }

    async fn load(port: u16, first: u64, tasks: u64) -> Res<()> {
        let mut client = Client::open(port).await?;
        let end = first + tasks;
        let mut from = first;
        while from < end {
            let to = (from + STORED_AT_ONCE).min(end);
            let puts: String = (from..to).map(|id| format!("put 0 0 {TTL} 15\r\ntask-{id:010}\r\n")).collect();
            client.stream.get_mut().write_all(puts.as_bytes()).await?;
            for _ in from..to {
                client.expect("INSERTED").await?;
            }
            from = to;
        }
        Ok(())
    }
}
