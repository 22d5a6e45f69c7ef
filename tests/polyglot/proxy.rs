//! A network that loses and delays answers, between a program and the daemon: what is asked always arrives.

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
struct Ways {
    mute: AtomicBool,
    delay_ms: AtomicU64,
}

/// A listener that passes on to the daemon.
pub struct Proxy {
    address: SocketAddr,
    ways: Arc<Ways>,
    /// Each change cuts all connections there are.
    cut: watch::Sender<u64>,
}

impl Proxy {
    /// Listens, and passes on to the address.
    pub async fn to(daemon: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, cuts) = watch::channel(0);
        let ways = Arc::new(Ways::default());
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

    /// From now on no answer comes through.
    pub fn mute(&self) {
        self.ways.mute.store(true, Ordering::SeqCst);
    }

    /// Cuts the connections, and with them what was held back; new ones are as they should be.
    pub fn cut(&self) {
        self.cut.send_modify(|cuts| *cuts += 1);
        self.ways.mute.store(false, Ordering::SeqCst);
    }

    /// From now on each answer takes longer by this.
    pub fn delay(&self, delay: Duration) {
        self.ways.delay_ms.store(u64::try_from(delay.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

async fn pass(client: TcpStream, server: TcpStream, ways: Arc<Ways>, mut cuts: watch::Receiver<u64>) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    cuts.mark_unchanged();
    let ((mut asked, client), (answered, mut server)) = (client.into_split(), server.into_split());
    tokio::select! {
        _ = tokio::io::copy(&mut asked, &mut server) => {}
        () = answers(answered, client, ways) => {}
        _ = cuts.changed() => {}
    }
}

async fn answers(mut from: tcp::OwnedReadHalf, mut to: tcp::OwnedWriteHalf, ways: Arc<Ways>) {
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
            if ways.mute.load(Ordering::SeqCst) {
                // Until the connection is cut, and this with it.
                std::future::pending::<()>().await;
            }
            if to.write_all(&bytes).await.is_err() {
                break;
            }
        }
    };
    tokio::join!(reading, writing);
}
