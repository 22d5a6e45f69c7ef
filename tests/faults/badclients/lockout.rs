//! Attackers without credentials, or one principal, occupy all connections and open new ones as soon as the daemon closes some.
//! Other clients with credentials can still connect, and open connections stay open.

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
    pki::{self, Ca, CertAndKey},
    principals::{TokenClient, entry, token},
    *,
};

/// Attacks need the whole machine, so one test runs at a time.
pub static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The daemon's limit of connections.
const PLACES: usize = 128;
/// How long a connection and its first call may take. It takes milliseconds; without the rules that are tested here it never
/// succeeds.
const SOON: Duration = Duration::from_secs(3);
/// The attacker's address.
const ATTACKER: [u8; 4] = [127, 0, 0, 66];

/// How clients connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Plain,
    Tls,
    /// TLS with client certificates.
    Mutual,
}

pub struct AttackTarget {
    pub daemon: Daemon,
    port: Transport,
    ca: Ca,
    own: CertAndKey,
    _directory: tempfile::TempDir,
}

impl AttackTarget {
    pub fn start(port: Transport) -> Self {
        AttackTarget::logging(port, "warn")
    }

    pub fn logging(port: Transport, filter: &str) -> Self {
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
        if port != Transport::Plain {
            args.extend([format!("--tls-cert={}", file("server.crt")), format!("--tls-key={}", file("server.key"))]);
        }
        if port == Transport::Mutual {
            args.push(format!("--tls-client-ca={}", file("ca.crt")));
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let daemon = Launch::on(&directory.path().join("data")).args(&args).start();
        let own = ca.client("operator", "");
        AttackTarget { daemon, port, ca, own, _directory: directory }
    }

    /// A connector without a client certificate.
    pub fn tls(&self) -> TlsConnector {
        self.connector(|config| config.with_no_client_auth())
    }

    /// A connector with a client certificate and a chain of others.
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
            Transport::Plain => Endpoint::from_shared(format!("http://{address}")).unwrap(),
            Transport::Tls => pki::endpoint(address, &self.ca, None),
            Transport::Mutual => pki::endpoint(address, &self.ca, Some(&self.own)),
        };
        endpoint.local_address(Some(IpAddr::V4(Ipv4Addr::from(from))))
    }

    /// Connects from an address with credentials and makes a call; returns the time of both. Retries if the connection is
    /// lost before its first call, as every client does.
    pub async fn connect_and_call(&self, from: [u8; 4]) -> (TokenClient, Duration) {
        let begun = now();
        loop {
            let left = SOON.checked_sub(begun.elapsed()).expect("a client with credentials can connect");
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

/// Keeps all connections open and opens closed ones again until it is dropped. Counts the opened connections.
struct Attack {
    _tasks: JoinSet<()>,
    opened: Arc<AtomicU64>,
}

impl Attack {
    /// `pause`: after each connection, once all are occupied.
    fn begin(target: &AttackTarget, pause: Duration) -> Self {
        let (opened, address, port) = (Arc::new(AtomicU64::new(0)), target.daemon.address(), target.port);
        let mut tasks = JoinSet::new();
        for task in 0..2_u64 {
            let (opened, tls) = (opened.clone(), target.tls());
            tasks.spawn(async move {
                let mut held: Vec<AttackConnection> = Vec::new();
                let mut number = task;
                loop {
                    if held.len() >= PLACES {
                        // It keeps open connections and replaces closed ones.
                        tokio::time::sleep(pause).await;
                        held.retain(AttackConnection::is_open);
                        if held.len() >= PLACES {
                            tokio::time::sleep(Duration::from_millis(1)).await;
                            continue;
                        }
                    }
                    number += 1;
                    let one = match (port, number % 3) {
                        // With a complete handshake.
                        (Transport::Plain, 0 | 1) => bare(address, GREETING).await,
                        (Transport::Tls, 0 | 1) => whole(address, &tls).await,
                        // Silent, or with the begin of a handshake.
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

    /// Waits until all connections have been occupied for some time.
    async fn wait_until_full(&self) {
        let enough = || async { (self.opened.load(Relaxed) >= 2 * PLACES as u64).then_some(()) };
        eventually("the attack has occupied all connections", enough).await;
    }
}

/// A connection of the attacker.
pub enum AttackConnection {
    Whole(Box<TlsStream<TcpStream>>),
    Bare(TcpStream),
}

impl AttackConnection {
    fn is_open(&self) -> bool {
        let stream = match self {
            AttackConnection::Whole(stream) => stream.get_ref().0,
            AttackConnection::Bare(stream) => stream,
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

async fn bare(address: SocketAddr, begins: &[u8]) -> Option<AttackConnection> {
    let mut stream = attackers_connection(address).await?;
    stream.write_all(begins).await.ok()?;
    Some(AttackConnection::Bare(stream))
}

pub async fn whole(address: SocketAddr, tls: &TlsConnector) -> Option<AttackConnection> {
    let stream = attackers_connection(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = timeout(Duration::from_secs(1), tls.connect(name, stream)).await.ok()?.ok()?;
    stream.write_all(GREETING).await.ok()?;
    Some(AttackConnection::Whole(Box::new(stream)))
}

async fn others_can_connect(port: Transport) {
    let _alone = ALONE.lock().await;
    let mut target = AttackTarget::start(port);
    let (mut stays, _) = target.connect_and_call([127, 0, 0, 1]).await;
    let mut watch = stays.sagas.watch_stale(WatchStaleRequest::default()).await.unwrap().into_inner();
    watch.message().await.unwrap();

    let attack = Attack::begin(&target, Duration::ZERO);
    attack.wait_until_full().await;
    let mut slowest = Duration::ZERO;
    for _ in 0..sized(10, 100) {
        let (_, took) = target.connect_and_call([127, 0, 0, 1]).await;
        slowest = slowest.max(took);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("{port:?}: {} connections of an attacker; slowest connection {slowest:?}", attack.opened.load(Relaxed));
    drop(attack);

    // From addresses without an earlier call, against a slower attack.
    let attack = Attack::begin(&target, Duration::from_millis(10));
    attack.wait_until_full().await;
    for number in 0..sized(5, 50) {
        let (_, took) = target.connect_and_call([127, 0, 1, number]).await;
        println!("{port:?}: a new address connected after {took:?}");
    }
    drop(attack);
    stays.sagas.get_stats(GetStatsRequest {}).await.expect("open connections stay open");
    assert!(timeout(Duration::from_millis(100), watch.message()).await.is_err(), "open streams stay open");
    let log = target.daemon.terminate().await;
    let told = log.matches("too many connections on which no authenticated call was made").count();
    assert!((1..=5).contains(&told), "it is logged, but not for each connection: {log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_clients_without_credentials_do_not_lock_others_out() {
    others_can_connect(Transport::Plain).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_clients_without_credentials_do_not_lock_others_out_with_tls() {
    others_can_connect(Transport::Tls).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_clients_without_credentials_do_not_lock_others_out_with_client_certificates() {
    others_can_connect(Transport::Mutual).await;
}

/// The same with credentials: a principal has a running call on each connection, and opens more without end.
async fn others_can_connect_beside_a_principal(port: Transport) {
    let _alone = ALONE.lock().await;
    let mut target = AttackTarget::start(port);
    let (stays, _) = target.connect_and_call([127, 0, 0, 1]).await;
    let endpoint = target.endpoint(ATTACKER);
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
    let full = || async { target.daemon.log().contains("greedy has most of them").then_some(()) };
    eventually("it has taken all places", full).await;
    let (mut slowest, mut others) = (Duration::ZERO, Vec::new());
    for number in 0..sized(20, 60) {
        let (client, took) = target.connect_and_call([127, 0, 1, number]).await;
        slowest = slowest.max(took);
        others.push(client);
    }
    println!("{port:?}: beside a principal that occupies all connections: slowest connection {slowest:?}");
    attack.shutdown().await;
    for client in others.iter().chain([&stays]) {
        client.clone().sagas.get_stats(GetStatsRequest {}).await.expect("open connections stay open");
    }
    drop((others, stays));
    target.daemon.terminate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_one_principal_does_not_lock_others_out() {
    for port in [Transport::Plain, Transport::Tls, Transport::Mutual] {
        others_can_connect_beside_a_principal(port).await;
    }
}
