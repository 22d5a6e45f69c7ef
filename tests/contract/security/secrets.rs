//! No log line contains a secret, at any level and after any error.

use std::fs;

use rustix::process::Signal;
use sagad::proto::*;

use super::raw_rpc;
use crate::support::{
    daemon::Launch,
    eventually,
    pki::{Ca, connect},
    principals::{TokenClient, entry, token},
};

#[tokio::test]
async fn no_secret_is_logged_at_any_level() {
    const PASTED: &str = "sagad~x~ThisOneWasPastedSomewhere01234567890123456";
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let ca = Ca::new();
    let server = ca.server();
    server.write(directory.path(), "server");
    fs::write(path("ca.crt"), ca.pem()).unwrap();
    fs::write(path("principals"), entry("w", "['worker']", "['q']")).unwrap();
    let flags = [
        format!("--tls-cert={}", path("server.crt")),
        format!("--tls-key={}", path("server.key")),
        format!("--principals={}", path("principals")),
        "--log=trace".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut daemon = Launch::on(&directory.path().join("data")).args(&flags).start();
    let channel = connect(daemon.address(), &ca, None).await.unwrap();
    let mut client = TokenClient::new(channel.clone(), Some(&token("w")));
    let request = CreateSagaRequest { queue: "q".into(), ..Default::default() };
    client.sagas.create_saga(request).await.unwrap();
    client.sagas.get_stats(GetStatsRequest {}).await.unwrap_err();
    let mut stream = client.sagas.watch_stale(WatchStaleRequest::default()).await.unwrap().into_inner();
    stream.message().await.unwrap();
    const INFO: &str = "/sagad.v1.AdminService/GetServerInfo";
    for header in [format!("Bearer {PASTED}"), format!("Basic {PASTED}"), PASTED.to_owned()] {
        raw_rpc::call(&channel, INFO, false, Vec::new(), &[&header]).await.unwrap_err();
    }
    let wrong = format!("{}{}", token("w"), "more");
    raw_rpc::call(&channel, INFO, false, Vec::new(), &[&format!("Bearer {wrong}")]).await.unwrap_err();
    for broken in [
        format!("'{PASTED}' = 1"),
        format!("[[principal]]\nname = '{PASTED}'"),
        format!("[[principal]]\nname = 'p'\nroles = ['{PASTED}']"),
        format!("[[principal]]\nname = 'p'\nroles = ['reader']\ntokens = ['{PASTED}']"),
        format!("[[principal]]\nname = 'p'\nroles = ['reader']\ntokens = [{PASTED}]"),
        format!("[[principal]]\nname = 'p'\nroles = ['reader']\ncertificate = '{PASTED}\u{7f}'"),
    ] {
        let before = daemon.log().matches("stays in force").count();
        fs::write(path("principals"), broken).unwrap();
        daemon.process().signal(Signal::HUP);
        eventually("it is logged", || async {
            (daemon.log().matches("stays in force").count() > before).then_some(())
        })
        .await;
    }
    // The key file given as the certificate.
    fs::write(path("server.crt"), &server.key).unwrap();
    eventually("it is logged", || async { daemon.log().contains("tls_cert").then_some(()) }).await;
    drop(stream);
    let log = daemon.terminate().await;
    assert!(log.contains("TRACE") && log.contains("unauthenticated"), "the log has lines of every level");
    let key_line = server.key.lines().nth(1).unwrap();
    for secret in [token("w"), "not-so-random-".to_owned(), "ThisOneWasPasted".to_owned(), key_line.to_owned()] {
        let place = log.find(&secret).map(|place| &log[place.saturating_sub(300)..place + 40]);
        assert_eq!(place, None, "{secret}");
    }
}
