//! [`Proxy`]: loses and delays answers between the daemon and a program. Requests always arrive.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp},
    sync::{mpsc, watch},
};

use crate::support::now;

#[derive(Default)]
struct AnswerPath {
    drops_answers: AtomicBool,
    delay_ms: AtomicU64,
}

/// A listener that forwards connections to the daemon.
pub struct Proxy {
    address: SocketAddr,
    ways: Arc<AnswerPath>,
    /// Each change closes all connections.
    cut: watch::Sender<u64>,
}

impl Proxy {
    /// Starts a proxy for this address.
    pub async fn to(daemon: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, cuts) = watch::channel(0);
        let ways = Arc::new(AnswerPath::default());
        let shared = ways.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(daemon).await else { continue };
                tokio::spawn(pass(client, server, shared.clone(), cuts.clone()));
            }
        });
        Proxy { address, ways, cut }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Drops all answers from now on.
    pub fn drop_answers(&self) {
        self.ways.drops_answers.store(true, Ordering::SeqCst);
    }

    /// Closes all connections and lets answers through on new ones.
    pub fn close_connections(&self) {
        self.cut.send_modify(|cuts| *cuts += 1);
        self.ways.drops_answers.store(false, Ordering::SeqCst);
    }

    /// Delays each answer by this time from now on.
    pub fn delay(&self, delay: Duration) {
        self.ways.delay_ms.store(u64::try_from(delay.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

async fn pass(client: TcpStream, server: TcpStream, ways: Arc<AnswerPath>, mut cuts: watch::Receiver<u64>) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    cuts.mark_unchanged();
    let ((mut asked, client), (answered, mut server)) = (client.into_split(), server.into_split());
    tokio::select! {
        _ = tokio::io::copy(&mut asked, &mut server) => {}
        () = answers(answered, client, ways) => {}
        _ = cuts.changed() => {}
    }
}

async fn answers(mut from: tcp::OwnedReadHalf, mut to: tcp::OwnedWriteHalf, ways: Arc<AnswerPath>) {
    let (sender, mut held) = mpsc::unbounded_channel();
    let delays = ways.clone();
    let reading = async move {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            let due = now() + Duration::from_millis(delays.delay_ms.load(Ordering::SeqCst));
            if sender.send((due, buffer[..read].to_vec())).is_err() {
                break;
            }
        }
    };
    let writing = async move {
        while let Some((due, bytes)) = held.recv().await {
            tokio::time::sleep_until(due.into()).await;
            if ways.drops_answers.load(Ordering::SeqCst) {
                // Waits until the connection is closed, which ends this task.
                std::future::pending::<()>().await;
            }
            if to.write_all(&bytes).await.is_err() {
                break;
            }
        }
    };
    tokio::join!(reading, writing);
}
