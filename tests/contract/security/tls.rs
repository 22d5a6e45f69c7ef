//! TLS: which clients get a connection, as which principal, and for how long.

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

use crate::support::{
    Daemon, Problem,
    daemon::Launch,
    eventually, now,
    pki::{Ca, CertAndKey, connect},
    principals::{TokenClient, entry, token},
};

/// A daemon with a server certificate of a CA.
struct TlsSetup {
    daemon: Daemon,
    directory: TempDir,
}

impl TlsSetup {
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
        TlsSetup { daemon, directory }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn address(&self) -> SocketAddr {
        self.daemon.address()
    }
}

async fn info(channel: Channel) -> Result<(), Status> {
    TokenClient::new(channel, None).admin.get_server_info(GetServerInfoRequest {}).await.map(drop)
}

/// True if a call over a new connection succeeds.
async fn works(address: SocketAddr, ca: &Ca, own: Option<&CertAndKey>) -> bool {
    match connect(address, ca, own).await {
        Ok(channel) => info(channel).await.is_ok(),
        Err(_) => false,
    }
}

#[tokio::test]
async fn only_a_client_that_trusts_the_ca_connects() {
    let ca = Ca::new();
    let setup = TlsSetup::start(&ca, &[]);
    assert!(works(setup.address(), &ca, None).await);
    assert!(!works(setup.address(), &Ca::new(), None).await, "the client does not know this CA");
    // Plain HTTP/2 on a port with TLS.
    let plain = tonic::transport::Endpoint::from_shared(format!("http://{}", setup.address())).unwrap();
    let answered = match plain.timeout(Duration::from_secs(10)).connect().await {
        Ok(channel) => info(channel).await.is_ok(),
        Err(_) => false,
    };
    assert!(!answered);
    // And TLS on a port without.
    let daemon = Daemon::start();
    assert!(!works(daemon.address(), &ca, None).await);
    assert!(works(setup.address(), &ca, None).await, "other clients are served meanwhile");
}

/// Sends bytes and reads until the daemon closes the connection; returns what it sent and how long it took.
fn send_and_read(address: SocketAddr, bytes: &[u8]) -> (Vec<u8>, Duration) {
    let begun = now();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    // A reset also ends the connection.
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert!(error.kind() != std::io::ErrorKind::WouldBlock, "it was left open");
    }
    (answer, begun.elapsed())
}

/// A ClientHello of this version with all that 1.2 needs: ECDHE with ECDSA and AES, P-256, SHA-256.
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
async fn old_tls_versions_and_silent_peers_are_closed() {
    let ca = Ca::new();
    let setup = TlsSetup::start(&ca, &["--preface-timeout=2s", "--max-connections=4"]);
    let address = setup.address();
    for version in [1, 2] {
        let (answer, _) = tokio::task::spawn_blocking(move || send_and_read(address, &hello(version))).await.unwrap();
        // An alert: fatal, protocol_version.
        assert!(answer.len() >= 7 && answer[0] == 0x15 && answer[5..7] == [2, 70], "TLS 1.{}: {answer:?}", version - 1);
    }
    let (answer, _) = tokio::task::spawn_blocking(move || send_and_read(address, &hello(3))).await.unwrap();
    assert_eq!(answer[0], 0x16, "the same hello of TLS 1.2 is answered: {answer:?}");
    // As many connections as are allowed, silent before or during the handshake: each is closed after the timeout.
    let half = &hello(3)[..20];
    let silent: Vec<_> = (0..4)
        .map(|n| {
            let bytes = if n % 2 == 0 { Vec::new() } else { half.to_vec() };
            tokio::task::spawn_blocking(move || send_and_read(address, &bytes))
        })
        .collect();
    for one in silent {
        let (answer, after) = one.await.unwrap();
        assert!(answer.is_empty() && after >= Duration::from_secs(2), "{after:?}");
    }
    assert!(works(setup.address(), &ca, None).await);
}

#[tokio::test]
async fn a_client_without_the_required_certificate_is_refused() {
    let (ca, clients) = (Ca::new(), Ca::new());
    let site_dir = tempfile::tempdir().unwrap();
    let file = site_dir.path().join("clients.crt");
    fs::write(&file, clients.pem()).unwrap();
    let setup = TlsSetup::start(&ca, &[&format!("--tls-client-ca={}", file.display())]);
    assert!(works(setup.address(), &ca, Some(&clients.client("c", ""))).await);
    assert!(!works(setup.address(), &ca, Some(&Ca::new().client("c", ""))).await, "another CA's");
    assert!(!works(setup.address(), &ca, None).await, "none");
}

#[tokio::test]
async fn a_certificate_names_a_principal_and_a_token_takes_precedence() {
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
    let setup = TlsSetup::start(&ca, &[&format!("--tls-client-ca={cas}"), &format!("--principals={principals}")]);
    let channel = async |own: &CertAndKey| connect(setup.address(), &ca, Some(own)).await.unwrap();
    let robot = channel(&clients.client("robot.example", "")).await;
    let stats = async |channel: &Channel, token: Option<&str>| {
        TokenClient::new(channel.clone(), token).sagas.get_stats(GetStatsRequest {}).await
    };
    stats(&robot, None).await.unwrap();
    let purge = PurgeSagasRequest { older_than: crate::support::secs(1), ..Default::default() };
    let denied = TokenClient::new(robot.clone(), None).admin.purge_sagas(purge.clone()).await.unwrap_err();
    assert_eq!(Problem::of(&denied).fact("principal"), "robot");
    let spiffe = channel(&clients.client("other", "spiffe://x/admin")).await;
    TokenClient::new(spiffe.clone(), None).admin.purge_sagas(purge).await.unwrap();
    // With both, the token decides, even if it is invalid.
    let denied = stats(&spiffe, Some(&token("w"))).await.unwrap_err();
    assert_eq!(Problem::of(&denied).fact("principal"), "w");
    assert_eq!(stats(&spiffe, Some("wrong")).await.unwrap_err().code(), Code::Unauthenticated);
    // A certificate of the right CA without a principal, and one that matches two.
    let nobody = channel(&clients.client("nobody", "")).await;
    assert_eq!(stats(&nobody, None).await.unwrap_err().code(), Code::Unauthenticated);
    let two = channel(&clients.client_with("two", &["robot.example"], "spiffe://x/admin")).await;
    assert_eq!(stats(&two, None).await.unwrap_err().code(), Code::Unauthenticated);
}

/// A name matches only names of its kind: a common name that looks like a URI, or one beside alternative names, matches no
/// principal.
#[tokio::test]
async fn certificate_names_match_only_their_own_kind() {
    let (ca, clients) = (Ca::new(), Ca::new());
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        fs::write(directory.path().join(name), text).unwrap();
        directory.path().join(name).display().to_string()
    };
    let named = |name: &str, certificate: &str| {
        format!("[[principal]]\nname = '{name}'\nroles = ['reader']\ncertificate = '{certificate}'\n")
    };
    let all = [named("uri", "spiffe://x/a"), named("host", "robot.example"), named("urn", "urn:x:b")].concat();
    let (principals, cas) = (file("principals.toml", &all), file("clients.crt", clients.pem()));
    let setup = TlsSetup::start(&ca, &[&format!("--tls-client-ca={cas}"), &format!("--principals={principals}")]);
    for (cn, hosts, uri, is) in [
        ("x", &[][..], "spiffe://x/a", Some("uri")),
        ("spiffe://x/a", &[], "", None),
        ("spiffe://x/a", &["other.example"], "", None),
        ("x", &["robot.example"], "", Some("host")),
        ("robot.example", &[], "", Some("host")),
        ("robot.example", &["other.example"], "", None),
        ("robot.example", &[], "spiffe://x/other", None),
        ("robot.example", &[], "spiffe://x/a", Some("uri")),
        ("x", &[], "urn:x:b", Some("urn")),
        ("urn:x:b", &[], "", None),
    ] {
        let channel = connect(setup.address(), &ca, Some(&clients.client_with(cn, hosts, uri))).await.unwrap();
        // The refusal of a call that readers may not make names the principal.
        let purge = PurgeSagasRequest { older_than: crate::support::secs(1), ..Default::default() };
        let denied = TokenClient::new(channel, None).admin.purge_sagas(purge).await.unwrap_err();
        let problem = Problem::of(&denied);
        match is {
            Some(name) => assert_eq!(problem.fact("principal"), name, "{cn} {hosts:?} {uri}"),
            None => assert_eq!(problem.reason, "UNAUTHENTICATED", "{cn} {hosts:?} {uri}"),
        }
    }
}

/// A daemon that requires client certificates of this CA.
fn mutual(ca: &Ca, clients: &Ca, principals: &str, args: &[&str]) -> (TlsSetup, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        fs::write(directory.path().join(name), text).unwrap();
        directory.path().join(name).display().to_string()
    };
    let mut all = vec![format!("--tls-client-ca={}", file("clients.crt", clients.pem()))];
    if !principals.is_empty() {
        all.push(format!("--principals={}", file("principals.toml", principals)));
    }
    all.extend(args.iter().map(|arg| arg.replace("HERE", &directory.path().display().to_string())));
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    (TlsSetup::start(ca, &all), directory)
}

const BY_NAME: &str = "[[principal]]\nname = 'a'\nroles = ['reader']\ncertificate = 'a'\n";

/// The error that ends an idle stream.
async fn end_of(stream: &mut tonic::Streaming<WatchStaleResponse>) -> Status {
    let end = async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended without an error"),
                Err(status) => return status,
            }
        }
    };
    tokio::time::timeout(crate::support::WAIT_MAX, end).await.expect("it ends soon")
}

async fn watch(channel: &Channel, token: Option<&str>) -> tonic::Streaming<WatchStaleResponse> {
    TokenClient::new(channel.clone(), token).sagas.watch_stale(WatchStaleRequest::default()).await.unwrap().into_inner()
}

#[tokio::test]
async fn a_connection_ends_when_its_certificate_expires() {
    let (ca, clients) = (Ca::new(), Ca::new());
    for principals in ["", &[BY_NAME, &entry("t", "['reader']", "")].concat()] {
        let (setup, _files) = mutual(&ca, &clients, principals, &[]);
        let own = clients.client_for("a", Duration::from_secs(4));
        let channel = connect(setup.address(), &ca, Some(&own)).await.unwrap();
        let mut streams = vec![watch(&channel, None).await];
        if !principals.is_empty() {
            streams.push(watch(&channel, Some(&token("t"))).await);
        }
        let calls = tokio::spawn({
            let channel = channel.clone();
            let token = (!principals.is_empty()).then(|| token("t"));
            async move {
                let mut client = TokenClient::new(channel, token.as_deref());
                loop {
                    if let Err(status) = client.sagas.get_stats(GetStatsRequest {}).await {
                        return status;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        });
        for mut stream in streams {
            let status = end_of(&mut stream).await;
            assert_eq!(Problem::of(&status).reason, "UNAUTHENTICATED");
            assert!(status.message().contains("the client certificate of this connection has run out"), "{status:?}");
        }
        // A call with a token also needs a valid certificate.
        let refused = calls.await.unwrap();
        assert_eq!(Problem::of(&refused).reason, "UNAUTHENTICATED", "{refused:?}");
        assert!(!works(setup.address(), &ca, Some(&own)).await, "a new connection is refused, resumed or not");
        assert!(works(setup.address(), &ca, Some(&clients.client("a", ""))).await);
    }
}

#[tokio::test]
async fn tls_sessions_with_client_certificates_are_not_resumed() {
    use tokio_rustls::{
        TlsConnector,
        rustls::{self, HandshakeKind, pki_types::*},
    };
    let (ca, clients) = (Ca::new(), Ca::new());
    let (mutual, _files) = mutual(&ca, &clients, "", &[]);
    let one_sided = TlsSetup::start(&ca, &[]);
    let own = clients.client("a", "");
    for (setup, resumes) in [(&one_sided, true), (&mutual, false)] {
        for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(pem::PemObject::from_pem_slice(ca.pem().as_bytes()).unwrap()).unwrap();
            let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
            let config =
                rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
            let cert: CertificateDer<'static> = pem::PemObject::from_pem_slice(own.cert.as_bytes()).unwrap();
            let key: PrivateKeyDer<'static> = pem::PemObject::from_pem_slice(own.key.as_bytes()).unwrap();
            let mut config = config.with_root_certificates(roots).with_client_auth_cert(vec![cert], key).unwrap();
            config.alpn_protocols = vec![b"h2".to_vec()];
            let connector = TlsConnector::from(std::sync::Arc::new(config));
            let mut kinds = Vec::new();
            for _ in 0..2 {
                use tokio::io::{AsyncReadExt, AsyncWriteExt};
                let stream = tokio::net::TcpStream::connect(setup.address()).await.unwrap();
                let mut stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
                kinds.push(stream.get_ref().1.handshake_kind().unwrap());
                // Tickets are sent after the handshake, before the server's first frame.
                stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
                stream.read_exact(&mut [0; 9]).await.unwrap();
            }
            assert_eq!(kinds[1] == HandshakeKind::Resumed, resumes, "{version:?}: {kinds:?}");
        }
    }
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_and_its_connections_end() {
    let (ca, clients) = (Ca::new(), Ca::new());
    let (a, b) = (clients.client("a", ""), clients.client("b", ""));
    let principals = [BY_NAME, &BY_NAME.replace("'a'", "'b'")].concat();
    for principals in ["", &principals] {
        let lists = tempfile::tempdir().unwrap();
        let list = lists.path().join("clients.crl");
        let write = |text: &str| {
            let new = lists.path().join("new");
            fs::write(&new, text).unwrap();
            fs::rename(new, &list).unwrap();
        };
        write(&clients.revokes(&[], 2090));
        let (setup, _files) = mutual(&ca, &clients, principals, &[&format!("--tls-client-crl={}", list.display())]);
        let (mine, others) = (
            connect(setup.address(), &ca, Some(&a)).await.unwrap(),
            connect(setup.address(), &ca, Some(&b)).await.unwrap(),
        );
        let (mut stays, mut ends) = (watch(&mine, None).await, watch(&others, None).await);
        stays.message().await.unwrap();
        // An unreadable list is reported, and the previous one stays in force.
        let forged = Ca::new().revokes(&[], 2090);
        for broken in ["nothing", "-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n", &forged] {
            let before = setup.daemon.log().matches("tls_client_crl: ").count();
            write(broken);
            eventually("it is logged", || async {
                (setup.daemon.log().matches("tls_client_crl: ").count() > before).then_some(())
            })
            .await;
        }
        assert!(works(setup.address(), &ca, Some(&b)).await);
        // Of two lists the newer one counts, even if it is out of date, and in whatever order they come.
        write(&[clients.revokes(&[], 2090), clients.numbered_list(2, &[&b], 2025)].concat());
        let status = end_of(&mut ends).await;
        assert_eq!(Problem::of(&status).reason, "UNAUTHENTICATED");
        assert!(status.message().contains("was revoked"), "{status:?}");
        assert!(!works(setup.address(), &ca, Some(&b)).await, "a new connection");
        assert!(works(setup.address(), &ca, Some(&a)).await);
        assert!(
            tokio::time::timeout(Duration::from_millis(300), stays.message()).await.is_err(),
            "other connections stay open"
        );
        let log = setup.daemon.log();
        assert!(log.contains("is out of date, a newer one was due at 2025-01-01T00:00:00"), "{log}");
        // Certificates of a CA without a list are refused.
        write(&Ca::named("another CA").revokes(&[], 2090));
        assert_eq!(Problem::of(&end_of(&mut stays).await).reason, "UNAUTHENTICATED");
        assert!(!works(setup.address(), &ca, Some(&a)).await);
        eventually("it is logged", || async {
            setup.daemon.log().contains("holds no list of the CA CN=a CA of a test").then_some(())
        })
        .await;
    }
}

/// An unreadable file keeps its previous content; changes of the other files take effect.
#[tokio::test]
async fn an_unreadable_file_does_not_delay_the_other_tls_files() {
    let (ca, first, second) = (Ca::new(), Ca::named("the first"), Ca::named("the second"));
    let (a, b, c) = (first.client("a", ""), first.client("b", ""), second.client("c", ""));
    let lists = tempfile::tempdir().unwrap();
    let crl = lists.path().join("clients.crl");
    let write = |file: &Path, text: &str| {
        let new = lists.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, file).unwrap();
    };
    write(&crl, &first.revokes(&[], 2090));
    let (setup, files) = mutual(&ca, &first, "", &[&format!("--tls-client-crl={}", crl.display())]);
    let (key, client_ca) = (setup.path().join("server.key"), files.path().join("clients.crt"));
    let good_key = fs::read_to_string(&key).unwrap();
    let channel = connect(setup.address(), &ca, Some(&b)).await.unwrap();
    let mut ends = watch(&channel, None).await;
    let told =
        |what: &str| setup.daemon.log().lines().filter(|line| line.contains("ERROR") && line.contains(what)).count();
    let is_told = async |what: &str| eventually(what, || async { (told(what) > 0).then_some(()) }).await;

    write(&key, "nothing");
    is_told("tls_key: ").await;
    // A new list takes effect beside an unreadable key, on open connections, too.
    write(&crl, &first.numbered_list(2, &[&b], 2090));
    assert_eq!(Problem::of(&end_of(&mut ends).await).reason, "UNAUTHENTICATED");
    assert!(!works(setup.address(), &ca, Some(&b)).await);
    assert!(works(setup.address(), &ca, Some(&a)).await, "with the previous certificate");
    // A new CA takes effect beside an unreadable list, and then has no list.
    write(&crl, "nothing");
    is_told("tls_client_crl: ").await;
    write(&client_ca, second.pem());
    eventually("the old CA is gone", || async { (!works(setup.address(), &ca, Some(&a)).await).then_some(()) }).await;
    assert!(!works(setup.address(), &ca, Some(&c)).await, "its revocations are unknown");
    // A list takes effect beside an unreadable CA.
    write(&client_ca, "nothing");
    is_told("tls_client_ca: ").await;
    write(&crl, &second.revokes(&[], 2090));
    eventually("the new CA has a list", || async { works(setup.address(), &ca, Some(&c)).await.then_some(()) }).await;
    // A missing file is treated as an unreadable one.
    fs::remove_file(&key).unwrap();
    is_told("server.key can't be read").await;
    write(&crl, &second.numbered_list(2, &[&c], 2090));
    eventually("it is revoked", || async { (!works(setup.address(), &ca, Some(&c)).await).then_some(()) }).await;
    // Once all are readable again, each is reported.
    write(&client_ca, &[first.pem(), second.pem()].concat());
    write(&crl, &[first.revokes(&[], 2090), second.revokes(&[], 2090)].concat());
    write(&key, &good_key);
    eventually("all is right", || async {
        let works = works(setup.address(), &ca, Some(&a)).await && works(setup.address(), &ca, Some(&c)).await;
        let log = setup.daemon.log();
        let told = ["tls_key", "tls_client_ca", "tls_client_crl"].map(|key| format!("{key}: it can be used again"));
        (works && told.iter().all(|told| log.contains(told))).then_some(())
    })
    .await;
}

#[tokio::test]
async fn new_connections_get_the_new_certificate_and_open_ones_stay_open() {
    let (old, new) = (Ca::new(), Ca::new());
    let setup = TlsSetup::start(&old, &[]);
    let kept = connect(setup.address(), &old, None).await.unwrap();
    let mut watch = TokenClient::new(kept.clone(), None)
        .sagas
        .watch_stale(WatchStaleRequest::default())
        .await
        .unwrap()
        .into_inner();
    watch.message().await.unwrap();
    // With a key of another certificate, or an invalid one, the previous certificate stays in use.
    let good = new.server();
    let key = fs::read(setup.path().join("server.key")).unwrap();
    for (broken, about) in
        [(good.key.as_str(), "is not the key of the certificate"), ("nothing", "holds no private key")]
    {
        fs::write(setup.path().join("server.key"), broken).unwrap();
        eventually(about, || async { setup.daemon.log().contains(about).then_some(()) }).await;
        assert!(setup.daemon.log().contains("server.key"), "the log names the file");
        assert!(works(setup.address(), &old, None).await);
        fs::write(setup.path().join("server.key"), &key).unwrap();
    }
    good.write(setup.path(), "server");
    eventually("the new one is there", || async { works(setup.address(), &new, None).await.then_some(()) }).await;
    assert!(!works(setup.address(), &old, None).await);
    info(kept.clone()).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(200), watch.message()).await.is_err(), "the stream stays open");
}

#[tokio::test]
async fn unusable_tls_files_are_refused_at_startup() {
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
        (
            "one.crt",
            "one.key",
            format!("--tls-client-ca={0}\n--tls-client-crl={0}", path("one.crt")),
            "tls_client_crl: ",
        ),
        (
            "one.crt",
            "one.key",
            format!("--tls-client-ca={}", path("one.crt")),
            "holds a certificate that is none of a CA",
        ),
        ("one.crt", "one.key", format!("--principals={}", path("principals")), "principal `x`: roles: is missing"),
    ] {
        let data = directory.path().join("data");
        let flags = [format!("--tls-cert={}", path(cert)), format!("--tls-key={}", path(key)), more];
        let flags: Vec<&str> = flags.iter().flat_map(|flag| flag.lines()).collect();
        let (status, log) = Launch::on(&data).args(&flags).spawn().end().await;
        assert_eq!(status.code(), Some(2), "{log}");
        assert!(log.contains(about), "{about}: {log}");
        assert!(!log.contains("PRIVATE"), "{log}");
    }
    // A key that others can read is reported.
    fs::set_permissions(path("one.key"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let flags = [format!("--tls-cert={}", path("one.crt")), format!("--tls-key={}", path("one.key"))];
    let mut daemon = Launch::on(&directory.path().join("data")).args(&[&flags[0], &flags[1]]).start();
    assert!(daemon.terminate().await.contains("everyone on this machine can read"));
    // So is each file that decides who may connect, if others can write it.
    fs::write(path("ca.crt"), ca.pem()).unwrap();
    fs::write(path("ca.crl"), ca.revokes(&[], 2090)).unwrap();
    fs::write(path("all"), entry("w", "['reader']", "")).unwrap();
    let files =
        [("tls_cert", "one.crt"), ("tls_client_ca", "ca.crt"), ("tls_client_crl", "ca.crl"), ("principals", "all")];
    let mut flags = vec![format!("--tls-key={}", path("one.key"))];
    for (key, name) in files {
        fs::set_permissions(path(name), std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        flags.push(format!("--{}={}", key.replace('_', "-"), path(name)));
    }
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut daemon = Launch::on(&directory.path().join("data")).args(&flags).start();
    let log = daemon.terminate().await;
    for (key, name) in files {
        assert!(log.contains(&format!("{key}: everyone on this machine can change {}", path(name))), "{key}: {log}");
    }
}
