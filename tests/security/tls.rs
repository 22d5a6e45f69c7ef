//! Handshakes: who gets a connection, who doesn't, and how long it may take.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use sagad::proto::*;
use tempfile::TempDir;
use tonic::{Code, Status, transport::Channel};

use crate::{
    people::{Client, entry, token},
    pki::{Ca, Pair, connect},
    support::{Daemon, Problem, daemon::Launch, eventually, now},
};

/// A daemon with a certificate of this CA.
struct Site {
    daemon: Daemon,
    directory: TempDir,
}

impl Site {
    fn start(ca: &Ca, args: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        ca.server().write(directory.path(), "server");
        fs::write(directory.path().join("ca.crt"), ca.pem()).unwrap();
        let file = |name: &str| directory.path().join(name).display().to_string();
        let (cert, key) = (format!("--tls-cert={}", file("server.crt")), format!("--tls-key={}", file("server.key")));
        let args: Vec<String> =
            args.iter().map(|arg| arg.replace("DIR", &directory.path().display().to_string())).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let daemon = Launch::on(&directory.path().join("data")).args(&[&cert, &key]).args(&args).start();
        Site { daemon, directory }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn address(&self) -> SocketAddr {
        self.daemon.address()
    }
}

async fn info(channel: Channel) -> Result<(), Status> {
    Client::new(channel, None).admin.get_server_info(GetServerInfoRequest {}).await.map(drop)
}

/// A call over a connection of its own: none if there is no connection.
async fn works(address: SocketAddr, ca: &Ca, own: Option<&Pair>) -> bool {
    match connect(address, ca, own).await {
        Ok(channel) => info(channel).await.is_ok(),
        Err(_) => false,
    }
}

#[tokio::test]
async fn who_trusts_the_ca_connects_and_nobody_else() {
    let ca = Ca::new();
    let site = Site::start(&ca, &[]);
    assert!(works(site.address(), &ca, None).await);
    assert!(!works(site.address(), &Ca::new(), None).await, "the client does not know this CA");
    // Plain HTTP/2 on a port with TLS.
    let plain = tonic::transport::Endpoint::from_shared(format!("http://{}", site.address())).unwrap();
    let answered = match plain.timeout(Duration::from_secs(10)).connect().await {
        Ok(channel) => info(channel).await.is_ok(),
        Err(_) => false,
    };
    assert!(!answered);
    // And TLS on a port without.
    let daemon = Daemon::start();
    assert!(!works(daemon.address(), &ca, None).await);
    assert!(works(site.address(), &ca, None).await, "others are served all the while");
}

/// Says something and reads until the daemon closes; returns what came and after how long.
fn says(address: SocketAddr, bytes: &[u8]) -> (Vec<u8>, Duration) {
    let begun = now();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    // A reset is an end, too.
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert!(error.kind() != std::io::ErrorKind::WouldBlock, "it was left open");
    }
    (answer, begun.elapsed())
}

/// A ClientHello of this version that lacks nothing which version 1.2 needs: ECDHE with ECDSA and AES, P-256, SHA-256.
fn hello(version: u8) -> Vec<u8> {
    let mut body = vec![3, version];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    let extensions = [0, 13, 0, 4, 0, 2, 4, 3, 0, 10, 0, 4, 0, 2, 0, 23, 0, 11, 0, 2, 1, 0];
    body.extend([0, extensions.len() as u8]);
    body.extend(extensions);
    let length = body.len() as u8;
    [&[0x16, 3, 1, 0, length + 4, 1, 0, 0, length][..], &body].concat()
}

#[tokio::test]
async fn old_versions_and_silent_peers_are_closed() {
    let ca = Ca::new();
    let site = Site::start(&ca, &["--preface-timeout=2s", "--max-connections=4"]);
    let address = site.address();
    for version in [1, 2] {
        let (answer, _) = tokio::task::spawn_blocking(move || says(address, &hello(version))).await.unwrap();
        // An alert: fatal, protocol_version.
        assert!(answer.len() >= 7 && answer[0] == 0x15 && answer[5..7] == [2, 70], "TLS 1.{}: {answer:?}", version - 1);
    }
    let (answer, _) = tokio::task::spawn_blocking(move || says(address, &hello(3))).await.unwrap();
    assert_eq!(answer[0], 0x16, "the same of TLS 1.2 is answered: {answer:?}");
    // As many as there are places, silent before and in the middle of the handshake: each gives its place back.
    let half = &hello(3)[..20];
    let silent: Vec<_> = (0..8)
        .map(|n| {
            let bytes = if n % 2 == 0 { Vec::new() } else { half.to_vec() };
            tokio::task::spawn_blocking(move || says(address, &bytes))
        })
        .collect();
    for one in silent {
        let (answer, after) = one.await.unwrap();
        assert!(answer.is_empty() && after >= Duration::from_secs(2), "{after:?}");
    }
    assert!(works(site.address(), &ca, None).await);
}

#[tokio::test]
async fn a_client_needs_a_certificate_where_one_is_asked_for() {
    let (ca, clients) = (Ca::new(), Ca::new());
    let site_dir = tempfile::tempdir().unwrap();
    let file = site_dir.path().join("clients.crt");
    fs::write(&file, clients.pem()).unwrap();
    let site = Site::start(&ca, &[&format!("--tls-client-ca={}", file.display())]);
    assert!(works(site.address(), &ca, Some(&clients.client("c", ""))).await);
    assert!(!works(site.address(), &ca, Some(&Ca::new().client("c", ""))).await, "another CA's");
    assert!(!works(site.address(), &ca, None).await, "none");
}

#[tokio::test]
async fn a_certificate_is_a_principal_and_a_token_decides() {
    let (ca, clients) = (Ca::new(), Ca::new());
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        fs::write(directory.path().join(name), text).unwrap();
        directory.path().join(name).display().to_string()
    };
    let by_name = "[[principal]]\nname = 'robot'\nroles = ['reader']\ncertificate = 'robot.example'\n";
    let by_uri = "[[principal]]\nname = 'spiffe'\nroles = ['admin']\ncertificate = 'spiffe://x/admin'\n";
    let principals = file("principals.toml", &[by_name, by_uri, &entry("w", "['worker']", "'*'")].concat());
    let cas = file("clients.crt", clients.pem());
    let site = Site::start(&ca, &[&format!("--tls-client-ca={cas}"), &format!("--principals={principals}")]);
    let channel = async |own: &Pair| connect(site.address(), &ca, Some(own)).await.unwrap();
    let robot = channel(&clients.client("robot.example", "")).await;
    let stats = async |channel: &Channel, token: Option<&str>| {
        Client::new(channel.clone(), token).sagas.get_stats(GetStatsRequest {}).await
    };
    stats(&robot, None).await.unwrap();
    let purge = PurgeSagasRequest { older_than: crate::support::secs(1), ..Default::default() };
    let denied = Client::new(robot.clone(), None).admin.purge_sagas(purge.clone()).await.unwrap_err();
    assert_eq!(Problem::of(&denied).fact("principal"), "robot");
    let spiffe = channel(&clients.client("other", "spiffe://x/admin")).await;
    Client::new(spiffe.clone(), None).admin.purge_sagas(purge).await.unwrap();
    // Both: the token decides, for better or worse.
    let denied = stats(&spiffe, Some(&token("w"))).await.unwrap_err();
    assert_eq!(Problem::of(&denied).fact("principal"), "w");
    assert_eq!(stats(&spiffe, Some("wrong")).await.unwrap_err().code(), Code::Unauthenticated);
    // A certificate of the right CA that stands for nobody, and one that stands for two.
    let nobody = channel(&clients.client("nobody", "")).await;
    assert_eq!(stats(&nobody, None).await.unwrap_err().code(), Code::Unauthenticated);
    let two = channel(&clients.client("robot.example", "spiffe://x/admin")).await;
    assert_eq!(stats(&two, None).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn new_connections_get_the_new_certificate_and_old_ones_live_on() {
    let (old, new) = (Ca::new(), Ca::new());
    let site = Site::start(&old, &[]);
    let kept = connect(site.address(), &old, None).await.unwrap();
    let mut watch =
        Client::new(kept.clone(), None).sagas.watch_stale(WatchStaleRequest::default()).await.unwrap().into_inner();
    watch.message().await.unwrap();
    // A key that is not the certificate's, and something that is none: what was there stays.
    let good = new.server();
    let key = fs::read(site.path().join("server.key")).unwrap();
    for (broken, about) in
        [(good.key.as_str(), "is not the key of the certificate"), ("nothing", "holds no private key")]
    {
        fs::write(site.path().join("server.key"), broken).unwrap();
        eventually(about, || async { site.daemon.log().contains(about).then_some(()) }).await;
        assert!(site.daemon.log().contains("server.key"), "it names the file");
        assert!(works(site.address(), &old, None).await);
        fs::write(site.path().join("server.key"), &key).unwrap();
    }
    good.write(site.path(), "server");
    eventually("the new one is there", || async { works(site.address(), &new, None).await.then_some(()) }).await;
    assert!(!works(site.address(), &old, None).await);
    info(kept.clone()).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(200), watch.message()).await.is_err(), "the stream goes on");
}

#[tokio::test]
async fn what_cannot_be_used_is_refused_at_the_start() {
    let ca = Ca::new();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    ca.server().write(directory.path(), "one");
    ca.server().write(directory.path(), "two");
    fs::write(path("none"), "nothing").unwrap();
    fs::write(path("principals"), "[[principal]]\nname = 'x'\n").unwrap();
    for (cert, key, more, about) in [
        ("one.crt", "two.key", String::new(), "two.key is not the key of the certificate"),
        ("none", "one.key", String::new(), "tls_cert: "),
        ("one.crt", "none", String::new(), "tls_key: "),
        ("gone", "one.key", String::new(), "gone can't be read"),
        ("one.crt", "one.key", format!("--tls-client-ca={}", path("none")), "tls_client_ca: "),
        ("one.crt", "one.key", format!("--principals={}", path("principals")), "principal `x`: roles: is missing"),
    ] {
        let data = directory.path().join("data");
        let flags = [format!("--tls-cert={}", path(cert)), format!("--tls-key={}", path(key)), more];
        let flags: Vec<&str> = flags.iter().map(String::as_str).filter(|flag| !flag.is_empty()).collect();
        let (status, log) = Launch::on(&data).args(&flags).spawn().end().await;
        assert_eq!(status.code(), Some(2), "{log}");
        assert!(log.contains(about), "{about}: {log}");
        assert!(!log.contains("PRIVATE"), "{log}");
    }
    // A key that others can read is told.
    fs::set_permissions(path("one.key"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let flags = [format!("--tls-cert={}", path("one.crt")), format!("--tls-key={}", path("one.key"))];
    let mut daemon = Launch::on(&directory.path().join("data")).args(&[&flags[0], &flags[1]]).start();
    assert!(daemon.terminate().await.contains("everyone on this machine can read"));
}
