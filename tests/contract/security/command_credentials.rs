//! The commands' options for credentials.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    Daemon, SAGAD,
    binary::{self, CommandOutput},
    daemon::Launch,
    eventually,
    pki::Ca,
    principals::{entry, token},
};

/// Runs `sagad` with these arguments and this standard input, without the settings of whoever runs the tests.
fn sagad_with(words: &[&str], input: &str) -> CommandOutput {
    let mut command = binary::sagad();
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SAGAD_")) {
        command.env_remove(name);
    }
    let mut child =
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    output.into()
}

fn sagad(words: &[&str]) -> CommandOutput {
    sagad_with(words, "")
}

/// A daemon with TLS, client certificates and principals, and the files of its clients.
struct MutualTlsSetup {
    daemon: Daemon,
    directory: TempDir,
    ca: Ca,
}

impl MutualTlsSetup {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ca = Ca::new();
        ca.server().write(directory.path(), "server");
        ca.client("robot", "").write(directory.path(), "robot");
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        write("ca.crt", ca.pem());
        let robot = "[[principal]]\nname = 'robot'\nroles = ['reader']\ncertificate = 'robot'\n";
        let principals = [entry("w", "['worker']", "['q']"), entry("op", "['operator']", ""), robot.to_owned()];
        write("principals", &principals.concat());
        for name in ["w", "op"] {
            write(name, &token(name));
            fs::set_permissions(directory.path().join(name), fs::Permissions::from_mode(0o600)).unwrap();
        }
        let path = |name: &str| directory.path().join(name).display().to_string();
        let flags = [
            format!("--tls-cert={}", path("server.crt")),
            format!("--tls-key={}", path("server.key")),
            format!("--tls-client-ca={}", path("ca.crt")),
            format!("--principals={}", path("principals")),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let daemon = Launch::on(&directory.path().join("data")).args(&flags).start();
        MutualTlsSetup { daemon, directory, ca }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// Runs a command with a client certificate and, if `who` is not empty, that principal's token.
    fn run(&self, who: &str, words: &[&str]) -> CommandOutput {
        let server = format!("https://{}", self.daemon.address());
        let mut all = vec!["--server".to_owned(), server, "--ca".to_owned(), self.path("ca.crt")];
        all.extend(["--cert".to_owned(), self.path("robot.crt"), "--key".to_owned(), self.path("robot.key")]);
        if !who.is_empty() {
            all.extend(["--token-file".to_owned(), self.path(who)]);
        }
        let all: Vec<&str> = all.iter().map(String::as_str).chain(words.iter().copied()).collect();
        sagad(&all)
    }
}

#[test]
fn commands_call_with_certificates_and_tokens() {
    let setup = MutualTlsSetup::start();
    let ok = |who: &str, words: &[&str]| {
        let ran = setup.run(who, words);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{who} {words:?}: {}", ran.out);
        ran.out
    };
    ok("", &["health"]);
    ok("", &["stats"]);
    ok("op", &["health"]);
    ok("w", &["create", "--task-id", "t", "--queue", "q"]);
    let denied = setup.run("", &["create", "--task-id", "u"]);
    assert_eq!(denied.code, 3);
    assert!(
        denied.err.contains("robot may not call CreateSaga") && denied.err.contains("file of principals"),
        "{}",
        denied.err
    );
    // A worker passes its credentials to its command, which calls the daemon.
    let seen = setup.path("seen");
    let script = format!("env | grep ^SAGAD_ > {seen}; {SAGAD} heartbeat >> {seen} 2>&1");
    let ran = setup.run("w", &["work", "--queue", "q", "--drain", "--", "sh", "-c", &script]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let seen = fs::read_to_string(seen).unwrap();
    for variable in
        ["SAGAD_CA=/", "SAGAD_CERT=/", "SAGAD_KEY=/", "SAGAD_TOKEN_FILE=/", "SAGAD_OWNER=w/", "SAGAD_SERVER=https:"]
    {
        assert!(seen.contains(variable), "{variable}: {seen}");
    }
    assert!(!seen.contains("sagad:"), "the command's heartbeat is accepted: {seen}");
    let get = ok("w", &["get", "t", "-o", "json"]);
    let saga: Value = serde_json::from_str(&get).unwrap();
    assert_eq!(saga["state"], "SAGA_STATE_COMPLETED", "{get}");
    assert!(saga["lease"]["ownerId"].as_str().unwrap().starts_with("w/"), "{get}");
}

#[test]
fn missing_or_wrong_credentials_are_reported() {
    let setup = MutualTlsSetup::start();
    let server = format!("https://{}", setup.daemon.address());
    let (ca, cert, key) = (setup.path("ca.crt"), setup.path("robot.crt"), setup.path("robot.key"));
    let wrong = setup.path("wrong");
    fs::write(&wrong, "sagad~w~wrong").unwrap();
    fs::set_permissions(&wrong, fs::Permissions::from_mode(0o644)).unwrap();
    let base = ["--server", &server, "--ca", &ca, "--cert", &cert, "--key", &key];
    let ran = sagad(&[&base[..], &["--token-file", &wrong, "stats"]].concat());
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(ran.err.contains("UNAUTHENTICATED") && ran.err.contains("does not know the token in"), "{}", ran.err);
    assert!(ran.err.contains("everyone on this machine can read the token"), "{}", ran.err);
    for (words, code, about) in [
        (vec!["--server", &server, "--cert", &cert, "--key", &key, "health"], 5, "no answer"),
        (vec!["--server", &server, "--ca", &ca, "health"], 5, "no answer"),
        (vec!["--server", &server, "--ca", &ca, "--cert", &cert, "health"], 2, "--key"),
        (vec!["--server", &server, "--ca", "/nowhere", "health"], 2, "/nowhere can't be read"),
        (vec!["--ca", &ca, "health"], 2, "https://"),
        (vec!["--server", "http://192.0.2.1:1", "--token-file", &wrong, "health"], 2, "--insecure-token"),
        (vec!["--token-file", &ca, "--insecure-token", "health"], 2, "holds no token"),
    ] {
        let ran = sagad(&words);
        assert_eq!(ran.code, code, "{words:?}: {}", ran.err);
        assert!(ran.err.contains(about) && !ran.err.contains("PRIVATE"), "{words:?}: {}", ran.err);
    }
}

#[tokio::test]
async fn a_changed_token_file_is_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("principals"), entry("w", "['worker']", "['q']")).unwrap();
    fs::write(path("token"), "sagad~w~not-yet").unwrap();
    let named = format!("--principals={}", path("principals").display());
    let daemon = Launch::on(&path("data")).args(&[&named]).start();
    let options = sagad::client::ClientOptions {
        server: format!("http://{}", daemon.address()),
        token_file: Some(path("token")),
        ..Default::default()
    };
    let client = sagad::client::Client::connect(&options).unwrap();
    let info = async || client.admin().get_server_info(sagad::proto::GetServerInfoRequest {}).await;
    assert_eq!(info().await.unwrap_err().code(), tonic::Code::Unauthenticated);
    fs::write(path("token"), token("w")).unwrap();
    eventually("the new token is sent", || async { info().await.ok() }).await;
    // While the file is missing, the last token is used.
    fs::remove_file(path("token")).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
    info().await.unwrap();
}

#[tokio::test]
async fn a_changed_certificate_is_read_again() {
    let setup = MutualTlsSetup::start();
    let directory = setup.directory.path();
    let file = |name: &str| directory.join(name);
    let put = |from: &str, to: &str| {
        // Both files are replaced at once, as certificate renewal does.
        fs::copy(file(from), file("next")).unwrap();
        fs::rename(file("next"), file(to)).unwrap();
    };
    setup.ca.client("unknown", "").write(directory, "own");
    let options = sagad::client::ClientOptions {
        server: format!("https://{}", setup.daemon.address()),
        ca: Some(file("ca.crt")),
        cert: Some(file("own.crt")),
        key: Some(file("own.key")),
        ..Default::default()
    };
    let client = sagad::client::Client::connect(&options).unwrap();
    let stats = async || client.sagas().get_stats(sagad::proto::GetStatsRequest {}).await;
    assert_eq!(stats().await.unwrap_err().code(), tonic::Code::Unauthenticated);
    // A new certificate with the old key does not match: the old pair is used.
    put("robot.crt", "own.crt");
    tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
    for _ in 0..3 {
        assert_eq!(stats().await.unwrap_err().code(), tonic::Code::Unauthenticated);
    }
    put("robot.key", "own.key");
    eventually("the new certificate is shown", || async { stats().await.ok() }).await;
    // While the files are missing, the last pair is used.
    fs::remove_file(file("own.crt")).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
    stats().await.unwrap();
}

#[test]
fn the_token_command_creates_and_hashes_tokens() {
    let ran = sagad(&["token", "ci/build", "--role", "worker", "--role", "reader", "--queue", "a,b"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let made = ran.out.trim();
    assert!(made.starts_with("sagad~ci/build~") && made.len() == "sagad~ci/build~".len() + 43, "{made}");
    let hash = crate::support::principals::hash(made);
    let entry = format!(
        "[[principal]]\nname = \"ci/build\"\nroles = [\"worker\", \"reader\"]\nqueues = [\"a\", \"b\"]\ntokens = [\"{hash}\"]\n"
    );
    assert_eq!(ran.err, entry);
    assert_eq!(sagad_with(&["token", "hash"], &ran.out).out.trim(), hash);
    assert_ne!(sagad(&["token", "ci/build"]).out, ran.out, "each token differs");
    let json: Value = serde_json::from_str(&sagad(&["token", "x", "-o", "json"]).out).unwrap();
    assert_eq!(json["hash"], crate::support::principals::hash(json["token"].as_str().unwrap()));
    assert!(json["entry"].as_str().unwrap().contains("roles = [\"reader\"]"));
    let directory = tempfile::tempdir().unwrap();
    let file: PathBuf = directory.path().join("token");
    let out = file.display().to_string();
    let ran = sagad(&["token", "x", "--out", &out]);
    assert_eq!((ran.code, ran.out.as_str()), (0, ""));
    let written = fs::read_to_string(&file).unwrap();
    assert!(ran.err.contains(&crate::support::principals::hash(written.trim())));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let again = sagad(&["token", "x", "--out", &out]);
    assert_eq!(again.code, 1, "{}", again.err);
    assert_eq!(fs::read_to_string(&file).unwrap(), written, "it is not overwritten");
    for (words, input) in [
        (&["token", "a b"][..], ""),
        (&["token"], ""),
        (&["token", "x", "--role", "worker"], ""),
        (&["token", "x", "--queue", "q"], ""),
        (&["token", "x", "--role", "root"], ""),
        (&["token", "hash"], "two words"),
        (&["token", "hash"], ""),
    ] {
        let ran = sagad_with(words, input);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{words:?}: {}", ran.err);
    }
}

#[test]
fn config_check_reports_problems_of_certificates_and_principals() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let ca = Ca::new();
    ca.server().write(directory.path(), "good");
    ca.server_until(2020).write(directory.path(), "old");
    ca.server().write(directory.path(), "other");
    fs::write(path("fine"), entry("w", "['worker']", "['q']")).unwrap();
    fs::write(path("over"), format!("{}not_after = 2020-01-01T00:00:00Z\n", entry("w", "['reader']", ""))).unwrap();
    fs::write(path("broken"), "[[principal]]\nname = 'w'\nroles = ['root']\n").unwrap();
    let check = |cert: &str, key: &str, principals: &str| {
        let flags = [path(cert), path(key), path(principals)];
        let words = ["config", "check", "--tls-cert", &flags[0], "--tls-key", &flags[1], "--principals", &flags[2]];
        sagad(&words)
    };
    let ran = check("good.crt", "good.key", "fine");
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let ran = check("good.crt", "good.key", "over");
    assert!(ran.code == 0 && ran.err.contains("the not_after of `w` has passed"), "{}", ran.err);
    for (cert, key, principals, about) in [
        ("good.crt", "other.key", "fine", "is not the key of"),
        ("old.crt", "old.key", "fine", "ran out at 2020-"),
        ("gone", "good.key", "fine", "can't be read"),
        ("good.crt", "good.key", "broken", "line 3: principal `w`: roles"),
    ] {
        let ran = check(cert, key, principals);
        assert_eq!(ran.code, 2, "{about}");
        assert!(ran.err.contains(about), "{about}: {}", ran.err);
    }
    fs::set_permissions(path("good.key"), fs::Permissions::from_mode(0o604)).unwrap();
    assert!(check("good.crt", "good.key", "fine").err.contains("can read"));
    let soon = ca.server_for_days(10);
    soon.write(directory.path(), "soon");
    assert!(check("soon.crt", "soon.key", "fine").err.contains("runs out at"));
}

#[test]
fn a_public_address_needs_tls_and_principals() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    Ca::new().server().write(directory.path(), "s");
    fs::write(path("p"), entry("w", "['reader']", "")).unwrap();
    let (cert, key, principals) = (path("s.crt"), path("s.key"), path("p"));
    let tls = ["--tls-cert", &cert, "--tls-key", &key];
    let data = path("data");
    let serve = |more: &[&str]| sagad(&[&["serve", "--listen", "0.0.0.0:0", "--data", &data][..], more].concat());
    for (more, missing) in [
        (&[][..], "both are missing"),
        (&tls[..], "principals are missing"),
        (&["--principals", &principals], "TLS is missing"),
    ] {
        let ran = serve(more);
        assert_eq!(ran.code, 2, "{}", ran.err);
        assert!(ran.err.contains(missing) && ran.err.contains("--insecure"), "{}", ran.err);
    }
    // It serves with both, and with --insecure, which logs a warning.
    for (more, warned) in [
        ([&tls[..], &["--principals", &principals]].concat(), false),
        (vec!["--insecure", "--principals", &principals], true),
    ] {
        let mut launch = Launch::on(directory.path()).args(&more);
        launch.listen = "0.0.0.0:0".to_owned();
        let daemon = launch.start();
        assert_eq!(daemon.log().contains("in plain text"), warned);
    }
}

/// The advice for each combination of scheme, kind of port, CA and token.
#[test]
fn each_pair_of_scheme_port_ca_and_token_has_its_own_advice() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let ca = Ca::new();
    ca.server().write(directory.path(), "server");
    let write = |name: &str, text: &str| {
        fs::write(path(name), text).unwrap();
        fs::set_permissions(path(name), fs::Permissions::from_mode(0o600)).unwrap();
    };
    write("ca.crt", ca.pem());
    write("other.crt", Ca::new().pem());
    write("principals", &entry("r", "['reader']", ""));
    write("right", &token("r"));
    write("wrong", "sagad~r~wrong");
    let named = format!("--principals={}", path("principals"));
    let tls = [format!("--tls-cert={}", path("server.crt")), format!("--tls-key={}", path("server.key"))];
    let plain = Launch::on(&directory.path().join("plain")).args(&[&named]).start();
    let secure = Launch::on(&directory.path().join("secure")).args(&[&named, &tls[0], &tls[1]]).start();
    let mut seen = std::collections::BTreeSet::new();
    for (port, daemon) in [("plain", &plain), ("TLS", &secure)] {
        for scheme in ["http", "https"] {
            for ca in ["", "ca.crt", "other.crt"] {
                for token in ["", "right", "wrong"] {
                    let address = daemon.address();
                    let (server, ca_file, token_file) = (format!("{scheme}://{address}"), path(ca), path(token));
                    let mut words = vec!["--server", &server];
                    if !ca.is_empty() {
                        words.extend(["--ca", &ca_file]);
                    }
                    if !token.is_empty() {
                        words.extend(["--token-file", &token_file]);
                    }
                    let ran = sagad(&[&words[..], &["stats"]].concat());
                    let (code, advice) = match (scheme, port, ca, token) {
                        ("http", _, "ca.crt" | "other.crt", _) => {
                            (2, "a CA is given, but the address is no https:// address".to_owned())
                        }
                        ("http", "TLS", _, _) => (
                            5,
                            format!(
                                "{address} serves with TLS: name it as https://{address}, and the file with its CA with --ca \
                                 or SAGAD_CA, unless this machine trusts it anyway"
                            ),
                        ),
                        ("https", "plain", _, _) => {
                            (5, format!("{address} serves without TLS: name it as http://{address}"))
                        }
                        ("https", "TLS", "", _) => (
                            5,
                            "the coordinator's certificate is signed by no CA that this machine trusts: name the file with its \
                             CA with --ca or SAGAD_CA"
                                .to_owned(),
                        ),
                        ("https", "TLS", "other.crt", _) => (
                            5,
                            format!(
                                "the coordinator's certificate is not signed by the CA in {ca_file}: name the right file with \
                                 --ca or SAGAD_CA"
                            ),
                        ),
                        (_, _, _, "wrong") => (
                            1,
                            format!(
                                "the coordinator does not know the token in {token_file}, or no longer: ask its operator for a \
                                 new one"
                            ),
                        ),
                        (_, _, _, "") => (
                            1,
                            "name a file with a token by --token-file or SAGAD_TOKEN_FILE, or a certificate by --cert and --key"
                                .to_owned(),
                        ),
                        _ => (0, String::new()),
                    };
                    let asked = format!("{scheme} to a {port} port, CA {ca:?}, token {token:?}");
                    assert_eq!(ran.code, code, "{asked}: {}", ran.err);
                    let last = ran.err.lines().last().unwrap_or_default().trim();
                    match code {
                        0 => assert_eq!(ran.err, "", "{asked}"),
                        2 => assert!(ran.err.contains(&advice), "{asked}: {}", ran.err),
                        _ => assert_eq!(last, advice, "{asked}: {}", ran.err),
                    }
                    seen.insert(advice.replace(&address.to_string(), "ADDRESS"));
                }
            }
        }
    }
    assert_eq!(seen.len(), 8, "{seen:#?}");
}

/// Further errors of certificates and addresses.
#[test]
fn a_wrong_certificate_or_address_is_explained() {
    let setup = MutualTlsSetup::start();
    let server = format!("https://{}", setup.daemon.address());
    let ca = setup.path("ca.crt");
    // The command sees the TLS alert, or only a closed connection.
    let ran = sagad(&["--server", &server, "--ca", &ca, "stats"]);
    assert!(ran.code == 5 && ran.err.contains("asks for a certificate"), "{}", ran.err);
    assert!(ran.err.contains("name yours with --cert and --key"), "{}", ran.err);
    let other = Ca::new();
    other.client("robot", "").write(setup.directory.path(), "unknown");
    let (cert, key) = (setup.path("unknown.crt"), setup.path("unknown.key"));
    let ran = sagad(&["--server", &server, "--ca", &ca, "--cert", &cert, "--key", &key, "stats"]);
    assert!(ran.code == 5 && ran.err.contains("not accept the certificate in"), "{}", ran.err);
    // An address without a listener, and a server that is not sagad.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ran = sagad(&["--server", &format!("http://{free}"), "stats"]);
    assert!(ran.code == 5 && ran.err.contains("start it with `sagad serve`"), "{}", ran.err);
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in other.incoming().flatten() {
            let _ = std::io::Write::write_all(&mut stream, b"220 mail.example ESMTP\r\n");
        }
    });
    let ran = sagad(&["--server", &format!("http://{address}"), "stats"]);
    assert!(ran.code == 5 && ran.err.contains("does not answer as a coordinator does"), "{}", ran.err);
}
