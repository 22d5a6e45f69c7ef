//! Whoever has no credentials takes all connections, and opens new ones as soon as the daemon closes some. Those who have
//! credentials get in nevertheless, and those who are in stay in.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use sagad::proto::*;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};
use tonic::transport::Endpoint;

use super::sized;
use crate::support::{
    daemon::Launch,
    principals::{TokenClient, entry, token},
    pki::{self, Ca, CertAndKey},
    *,
};

/// Attacks take the whole machine.
pub static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Places of the daemon.
const PLACES: usize = 128;
/// How long a person may wait for a connection and the answer to a first call. It takes milliseconds; without the rules that
/// are tested here it takes for ever.
const SOON: Duration = Duration::from_secs(3);
/// Where the attack comes from.
const ATTACKER: [u8; 4] = [127, 0, 0, 66];

/// What the port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    Plain,
    Tls,
    /// With certificates of clients.
    Mutual,
}

pub struct Site {
    pub daemon: Daemon,
    port: Port,
    ca: Ca,
    own: CertAndKey,
    _directory: tempfile::TempDir,
}

impl Site {
    pub fn start(port: Port) -> Self {
        Site::logging(port, "warn")
    }

    pub fn logging(port: Port, filter: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name).display().to_string();
        let ca = Ca::new();
        ca.server().write(directory.path(), "server");
        std::fs::write(file("ca.crt"), ca.pem()).unwrap();
        let principals = [entry("operator", "['operator']", ""), entry("greedy", "['reader']", "")].concat();
        std::fs::write(file("principals.toml"), principals).unwrap();
        let mut args = vec![
            format!("--principals={}", file("principals.toml")),
            format!("--max-connections={PLACES}"),
            format!("--log={filter}"),
        ];
        if port != Port::Plain {
            args.extend([format!("--tls-cert={}", file("server.crt")), format!("--tls-key={}", file("server.key"))]);
        }
        if port == Port::Mutual {
            args.push(format!("--tls-client-ca={}", file("ca.crt")));
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let daemon = Launch::on(&directory.path().join("data")).args(&args).start();
        let own = ca.client("operator", "");
        Site { daemon, port, ca, own, _directory: directory }
    }

    /// A handshake without a certificate of one's own.
    pub fn tls(&self) -> TlsConnector {
        self.connector(|config| config.with_no_client_auth())
    }

    /// One with a certificate and those that are said to stand above it.
    pub fn tls_with(&self, own: &CertAndKey, others: &[String]) -> TlsConnector {
        let pems = std::iter::once(&own.cert).chain(others);
        let chain = pems.map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).collect();
        let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
        self.connector(|config| config.with_client_auth_cert(chain, key).unwrap())
    }

    fn connector(
        &self,
        finish: impl FnOnce(
            rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert>,
        ) -> rustls::ClientConfig,
    ) -> TlsConnector {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = finish(config.with_root_certificates(roots));
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config).into()
    }

    fn endpoint(&self, from: [u8; 4]) -> Endpoint {
        let address = self.daemon.address();
        let endpoint = match self.port {
            Port::Plain => Endpoint::from_shared(format!("http://{address}")).unwrap(),
            Port::Tls => pki::endpoint(address, &self.ca, None),
            Port::Mutual => pki::endpoint(address, &self.ca, Some(&self.own)),
        };
        endpoint.local_address(Some(IpAddr::V4(Ipv4Addr::from(from))))
    }

    /// A person's connection from an address, and a first call on it; how long both took. A connection that is lost before
    /// its first call is made anew, as every client does.
    pub async fn comes_in(&self, from: [u8; 4]) -> (TokenClient, Duration) {
        let begun = now();
        loop {
            let left = SOON.checked_sub(begun.elapsed()).expect("a person with credentials gets in");
            let comes = async {
                let client = TokenClient::new(self.endpoint(from).connect().await.ok()?, Some(&token("operator")));
                let answer = client.clone().sagas.get_stats(GetStatsRequest {}).await;
                answer.is_ok().then_some(client)
            };
            if let Ok(Some(client)) = timeout(left, comes).await {
                return (client, begun.elapsed());
            }
        }
    }
}

/// Connections that are kept and opened anew, without end, until this is dropped. How many were opened is counted.
struct Attack {
    _tasks: JoinSet<()>,
    opened: Arc<AtomicU64>,
}

impl Attack {
    /// `pause`: after each connection, once all places are taken.
    fn begin(site: &Site, pause: Duration) -> Self {
        let (opened, address, port) = (Arc::new(AtomicU64::new(0)), site.daemon.address(), site.port);
        let mut tasks = JoinSet::new();
        for task in 0..2_u64 {
            let (opened, tls) = (opened.clone(), site.tls());
            tasks.spawn(async move {
                let mut held: Vec<Held> = Vec::new();
                let mut number = task;
                loop {
                    if held.len() >= PLACES {
                        // It keeps what it has; what the daemon closes is opened anew.
                        tokio::time::sleep(pause).await;
                        held.retain(Held::is_open);
                        if held.len() >= PLACES {
                            tokio::time::sleep(Duration::from_millis(1)).await;
                            continue;
                        }
                    }
                    number += 1;
                    let one = match (port, number % 3) {
                        // Handshakes are done.
                        (Port::Plain, 0 | 1) => bare(address, GREETING).await,
                        (Port::Tls, 0 | 1) => whole(address, &tls).await,
                        // Nothing is ever said, or the beginning of a handshake.
                        (_, 2) => bare(address, &[]).await,
                        (_, _) => bare(address, &[0x16, 3, 1, 0, 200, 1, 0]).await,
                    };
                    held.extend(one);
                    opened.fetch_add(1, Relaxed);
                }
            });
        }
        Attack { _tasks: tasks, opened }
    }

    /// Waits until all places were taken for some time.
    async fn has_filled_it(&self) {
        let enough = || async { (self.opened.load(Relaxed) >= 2 * PLACES as u64).then_some(()) };
        eventually("the attack has taken all places", enough).await;
    }
}

/// What an attacker holds open.
pub enum Held {
    Whole(Box<TlsStream<TcpStream>>),
    Bare(TcpStream),
}

impl Held {
    fn is_open(&self) -> bool {
        let stream = match self {
            Held::Whole(stream) => stream.get_ref().0,
            Held::Bare(stream) => stream,
        };
        let mut buffer = [0; 1024];
        loop {
            match stream.try_read(&mut buffer) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
            }
        }
    }
}

/// The preface and empty SETTINGS.
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

async fn attackers_connection(address: SocketAddr) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().ok()?;
    socket.bind((Ipv4Addr::from(ATTACKER), 0).into()).ok()?;
    timeout(SOON, socket.connect(address)).await.ok()?.ok()
}

async fn bare(address: SocketAddr, begins: &[u8]) -> Option<Held> {
    let mut stream = attackers_connection(address).await?;
    stream.write_all(begins).await.ok()?;
    Some(Held::Bare(stream))
}

pub async fn whole(address: SocketAddr, tls: &TlsConnector) -> Option<Held> {
    let stream = attackers_connection(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = timeout(Duration::from_secs(1), tls.connect(name, stream)).await.ok()?.ok()?;
    stream.write_all(GREETING).await.ok()?;
    Some(Held::Whole(Box::new(stream)))
}

async fn nobody_is_kept_out(port: Port) {
    let _alone = ALONE.lock().await;
    let mut site = Site::start(port);
    let (mut stays, _) = site.comes_in([127, 0, 0, 1]).await;
    let mut watch = stays.sagas.watch_stale(WatchStaleRequest::default()).await.unwrap().into_inner();
    watch.message().await.unwrap();

    let attack = Attack::begin(&site, Duration::ZERO);
    attack.has_filled_it().await;
    let mut slowest = Duration::ZERO;
    for _ in 0..sized(10, 100) {
        let (_, took) = site.comes_in([127, 0, 0, 1]).await;
        slowest = slowest.max(took);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("{port:?}: {} connections of an attacker; slowest way in {slowest:?}", attack.opened.load(Relaxed));
    drop(attack);

    // From addresses of which no call came before, while the attack is not faster than a person is.
    let attack = Attack::begin(&site, Duration::from_millis(10));
    attack.has_filled_it().await;
    for number in 0..sized(5, 50) {
        let (_, took) = site.comes_in([127, 0, 1, number]).await;
        println!("{port:?}: a new address was in after {took:?}");
    }
    drop(attack);
    stays.sagas.get_stats(GetStatsRequest {}).await.expect("who is in stays in");
    assert!(timeout(Duration::from_millis(100), watch.message()).await.is_err(), "and so do streams");
    let log = site.daemon.terminate().await;
    let told = log.matches("too many connections on which no authenticated call was made").count();
    assert!((1..=5).contains(&told), "it is told, and not for each connection: {log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_without_credentials_nobody_is_kept_out() {
    nobody_is_kept_out(Port::Plain).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_nor_with_tls() {
    nobody_is_kept_out(Port::Tls).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_nor_with_certificates_of_clients() {
    nobody_is_kept_out(Port::Mutual).await;
}

/// Credentials are no way to keep others out, either: with a call running on each connection, and more that are opened without end.
async fn nobody_is_kept_out_by_a_principal(port: Port) {
    let _alone = ALONE.lock().await;
    let mut site = Site::start(port);
    let (stays, _) = site.comes_in([127, 0, 0, 1]).await;
    let endpoint = site.endpoint(ATTACKER);
    let mut attack = JoinSet::new();
    for _ in 0..2 {
        let endpoint = endpoint.clone();
        attack.spawn(async move {
            let mut held = std::collections::VecDeque::new();
            loop {
                let Ok(channel) = endpoint.connect().await else { continue };
                let mut client = TokenClient::new(channel, Some(&token("greedy")));
                if let Ok(watch) = client.sagas.watch_stale(WatchStaleRequest::default()).await {
                    held.push_back((client, watch));
                }
                if held.len() > PLACES {
                    held.pop_front();
                }
            }
        });
    }
    let full = || async { site.daemon.log().contains("greedy has most of them").then_some(()) };
    eventually("it has taken all places", full).await;
    let (mut slowest, mut others) = (Duration::ZERO, Vec::new());
    for number in 0..sized(20, 60) {
        let (client, took) = site.comes_in([127, 0, 1, number]).await;
        slowest = slowest.max(took);
        others.push(client);
    }
    println!("{port:?}: beside a principal that takes all places: slowest way in {slowest:?}");
    attack.shutdown().await;
    for client in others.iter().chain([&stays]) {
        client.clone().sagas.get_stats(GetStatsRequest {}).await.expect("who is in stays in");
    }
    drop((others, stays));
    site.daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_with_credentials_nobody_keeps_others_out() {
    for port in [Port::Plain, Port::Tls, Port::Mutual] {
        nobody_is_kept_out_by_a_principal(port).await;
    }
}
