//! The metrics: their values, their page, and the bound of their number.

use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
};

use sagad::proto::{session_request::Call, *};

use super::{
    sample_load::some_of_everything,
    watched_daemon::{WatchedDaemon, get},
};
use crate::support::{
    claim, create, eventually, key, needs, secs,
    session::{Session, saga_of},
};

const DOCS: &str = include_str!("../../../docs/reference/metrics.md");

#[tokio::test(flavor = "multi_thread")]
async fn each_metric_has_the_expected_value() {
    let watched = WatchedDaemon::start(&["--restart-grace", "0s"]).await;
    let load = some_of_everything(&watched).await;
    let metrics = eventually("the counts of sagas are new", || async {
        let metrics = watched.metrics();
        metrics.value("sagad_sagas{queue=\"builds\",state=\"planned\"}").map(|_| metrics)
    })
    .await;
    let sagas = "sagad.v1.SagaService";
    for (series, value) in [
        ("sagad_ready".to_owned(), 1.0),
        (format!("sagad_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION")), 1.0),
        ("sagad_sagas{queue=\"builds\",state=\"planned\"}".into(), 1.0),
        ("sagad_sagas{queue=\"builds\",state=\"running\"}".into(), 1.0),
        ("sagad_sagas{queue=\"builds\",state=\"completed\"}".into(), 1.0),
        ("sagad_sagas{queue=\"default\",state=\"quarantined\"}".into(), 1.0),
        ("sagad_sagas_ready{queue=\"builds\"}".into(), 1.0),
        ("sagad_sagas_stale{queue=\"builds\"}".into(), 1.0),
        ("sagad_sagas_stale{queue=\"undo\"}".into(), 1.0),
        ("sagad_lease_expirations_total{queue=\"builds\",purpose=\"execute\"}".into(), 1.0),
        ("sagad_lease_expirations_total{queue=\"builds\",purpose=\"compensate\"}".into(), 0.0),
        ("sagad_lease_expirations_total{queue=\"undo\",purpose=\"compensate\"}".into(), 1.0),
        ("sagad_quarantines_total{queue=\"default\"}".into(), 1.0),
        ("sagad_events_total{type=\"created\"}".into(), 5.0),
        ("sagad_events_total{type=\"lease_expired\"}".into(), 2.0),
        ("sagad_claims_waiting".into(), 1.0),
        ("sagad_watches_open{kind=\"stale\"}".into(), 1.0),
        ("sagad_watches_open{kind=\"events\"}".into(), 1.0),
        ("sagad_stale_watches{queue=\"builds\"}".into(), 1.0),
        ("sagad_stale_watches{queue=\"undo\"}".into(), 0.0),
        ("sagad_streams_open{rpc_method=\"sagad.v1.SagaService/WatchStale\"}".into(), 1.0),
        ("sagad_calls_in_flight{rpc_method=\"sagad.v1.SagaService/ClaimNext\"}".into(), 1.0),
        ("sagad_connections_open".into(), 2.0),
        ("sagad_connections_accepted_total".into(), 2.0),
        ("sagad_wal_limit_bytes".into(), 67_108_864.0),
        ("sagad_clock_steps_total".into(), 0.0),
        ("sagad_requests_turned_away_total{reason=\"queue_full\"}".into(), 0.0),
    ] {
        assert_eq!(metrics.value(&series), Some(value), "{series} in\n{}", metrics.0);
    }
    let calls = |rpc: &str, code: &str| {
        let labels =
            format!("rpc_system_name=\"grpc\",rpc_method=\"{sagas}/{rpc}\",rpc_response_status_code=\"{code}\"");
        metrics.value(&format!("rpc_server_call_duration_seconds_count{{{labels}}}"))
    };
    assert_eq!((calls("CreateSaga", "OK"), calls("CreateSaga", "ALREADY_EXISTS")), (Some(5.0), Some(1.0)));
    assert_eq!((calls("Complete", "OK"), calls("Complete", "INTERNAL")), (Some(1.0), None));
    let of_streams =
        metrics.series().keys().filter(|name| name.starts_with("sagad_stream_duration_seconds_count")).count();
    assert!(
        of_streams >= 1
            && !metrics.0.contains(
                "rpc_method=\"sagad.v1.SagaService/WatchStale\",rpc_response_status_code=\"OK\",le=\"0.00025\""
            )
    );
    for positive in [
        "sagad_writer_batch_size_count",
        "sagad_writer_batch_duration_seconds_sum",
        "sagad_store_commit_duration_seconds_sum",
        "sagad_writer_changes_total",
        "sagad_wal_bytes",
        "sagad_wal_file_bytes",
        "sagad_database_size_bytes",
        "sagad_disk_free_bytes",
        "sagad_oldest_ready_age_seconds{queue=\"builds\"}",
        "sagad_compensation_asked_time_seconds{queue=\"undo\"}",
        "sagad_restart_grace_end_time_seconds",
        "sagad_revision",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
        "process_open_fds",
    ] {
        assert!(metrics.value(positive).is_some_and(|value| value > 0.0), "{positive} in\n{}", metrics.0);
    }
    assert!(!metrics.0.contains("secret"), "an id is in the metrics:\n{}", metrics.0);
    drop(load);
}

#[tokio::test(flavor = "multi_thread")]
async fn session_items_are_counted_as_calls() {
    let watched = WatchedDaemon::start(&[]).await;
    let api = watched.daemon.api().await;
    api.create_saga(create("t")).await.unwrap();
    let mut session = Session::open(&api).await;
    let call = Call::Claim(claim("t", "w", 60_000));
    let lease = key(&saga_of(session.call(call.clone()).await.unwrap()));
    session.call(call).await.unwrap_err();
    for _ in 0..7 {
        session.call(Call::Heartbeat(lease.heartbeat())).await.unwrap();
    }
    let next =
        ClaimNextRequest { queues: vec!["q".into()], owner_id: "w".into(), wait: secs(60), ..Default::default() };
    for _ in 0..3 {
        session.send(Call::ClaimNext(next.clone())).await;
    }
    let sagas = "sagad.v1.SagaService";
    let gauge = |name: &str, rpc: &str| watched.metrics().value(&format!("{name}{{rpc_method=\"{sagas}/{rpc}\"}}"));
    eventually("three calls are in flight", || async {
        (gauge("sagad_calls_in_flight", "ClaimNext") == Some(3.0)).then_some(())
    })
    .await;
    assert_eq!(gauge("sagad_streams_open", "Session"), Some(1.0));
    let calls = |rpc: &str, code: &str| {
        let labels =
            format!("rpc_system_name=\"grpc\",rpc_method=\"{sagas}/{rpc}\",rpc_response_status_code=\"{code}\"");
        watched.metrics().value(&format!("rpc_server_call_duration_seconds_count{{{labels}}}"))
    };
    assert_eq!((calls("Claim", "OK"), calls("Claim", "FAILED_PRECONDITION")), (Some(1.0), Some(1.0)));
    assert_eq!((calls("Heartbeat", "OK"), calls("ClaimNext", "OK")), (Some(7.0), None));
    // A disconnecting client cancels its held call.
    drop(session);
    eventually("none is in flight", || async {
        (gauge("sagad_calls_in_flight", "ClaimNext") == Some(0.0)).then_some(())
    })
    .await;
    assert_eq!(calls("ClaimNext", "CANCELLED"), Some(3.0));
    assert_eq!(gauge("sagad_streams_open", "Session"), Some(0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_page_describes_every_metric() {
    let watched = WatchedDaemon::start(&[]).await;
    let load = some_of_everything(&watched).await;
    let metrics = watched.metrics();
    let rows = DOCS.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let (name, kind, labels) = (cells.next()?.trim_end_matches('`'), cells.next()?, cells.next()?);
        let labels: Vec<_> = labels.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        Some((name.to_owned(), (kind.to_owned(), labels, cells.next()?.trim_end_matches(" |").to_owned())))
    });
    let told: BTreeMap<_, _> = rows.collect();
    let help = |name: &str| {
        let name = name.trim_end_matches("_total");
        metrics.0.lines().find_map(|line| line.strip_prefix(&format!("# HELP {name} ")))
    };
    let served = metrics.types().into_iter().map(|(name, kind)| {
        let help = help(&name).unwrap_or_else(|| panic!("{name} has no help"));
        (name.clone(), (kind.to_owned(), metrics.labels(&name), help.to_owned()))
    });
    assert_eq!(told, served.collect());
    drop(load);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_openmetrics_whatever_the_client_accepts() {
    let watched = WatchedDaemon::start(&[]).await;
    for accept in ["", "Accept: text/plain\r\n", "Accept: application/openmetrics-text;version=1.0.0;q=0.5\r\n"] {
        let page = get(watched.ops, "/metrics", accept);
        assert_eq!(page.kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
        assert!(page.text.ends_with("# EOF\n") && page.text.contains("# UNIT sagad_wal_bytes bytes\n"));
    }
}

/// A Prometheus server.
struct Prometheus(Child, SocketAddr);

impl Prometheus {
    /// Starts one that reads the metrics every second, with its data in `directory`.
    fn reading(ops: SocketAddr, directory: &Path) -> Self {
        let config = directory.join("prometheus.yml");
        let job = format!("{{job_name: sagad, static_configs: [{{targets: ['{ops}']}}]}}");
        fs::write(&config, format!("global: {{scrape_interval: 1s}}\nscrape_configs: [{job}]\n")).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", directory.join("data").display()));
        command.arg(format!("--web.listen-address={address}")).stderr(Stdio::null());
        Prometheus(command.spawn().unwrap(), address)
    }

    /// The answer to a request; none while it does not serve yet.
    fn get(&self, path: &str) -> Option<String> {
        TcpStream::connect(self.1).ok().map(|_| get(self.1, path, "").text)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_reads_the_metrics() {
    needs!("prometheus");
    let watched = WatchedDaemon::start(&[]).await;
    let load = some_of_everything(&watched).await;
    let directory = tempfile::tempdir().unwrap();
    let prometheus = Prometheus::reading(watched.ops, directory.path());
    let seen = |path: &'static str, wanted: &'static str| {
        let prometheus = &prometheus;
        eventually("Prometheus has read them", move || async move {
            prometheus.get(path).filter(|text| text.contains(wanted))
        })
    };
    seen("/api/v1/targets", "\"lastError\":\"\",\"lastScrape\":\"2").await;
    seen("/api/v1/query?query=sagad_events_total%7Btype=%22created%22%7D", ",\"5\"]").await;
    seen("/api/v1/query?query=sagad_writer_batch_size_bucket%7Ble=%22%2BInf%22%7D", "\"success\"").await;
    let kinds = seen("/api/v1/metadata?metric=sagad_events", "\"counter\"").await;
    assert!(kinds.contains("Events of the history"), "{kinds}");
    drop(load);
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_metrics_name_at_most_two_hundred_queues() {
    let watched = WatchedDaemon::start(&[]).await;
    let api = watched.daemon.api().await;
    let requests = (0..1000).map(|n| CreateSagaRequest { queue: format!("q{n}"), ..create(&format!("secret-{n}")) });
    let largest = CreateSagaRequest { queue: "z-largest".into(), ..create("secret-l") };
    api.create_saga(largest.clone()).await.unwrap();
    api.create_saga(CreateSagaRequest { task_id: "secret-m".into(), ..largest }).await.unwrap();
    let batch = BatchCreateSagasRequest { requests: requests.collect(), ..Default::default() };
    api.batch_create_sagas(batch).await.unwrap();
    let metrics = watched.metrics();
    let of = |metric: &str| {
        let series = metrics.series();
        series
            .into_iter()
            .filter(|(name, _)| name.starts_with(metric))
            .map(|(n, v)| (n.to_owned(), v))
            .collect::<Vec<_>>()
    };
    let ready = of("sagad_sagas_ready{");
    assert_eq!(ready.len(), 201);
    assert_eq!(ready.iter().map(|(_, value)| value).sum::<f64>(), 1002.0, "none is lost");
    assert_eq!(metrics.value("sagad_sagas_ready{queue=\"_other\"}"), Some(801.0));
    assert_eq!(metrics.value("sagad_sagas_ready{queue=\"z-largest\"}"), Some(2.0));
    assert!(metrics.series().len() < 3000, "{} series", metrics.series().len());
    assert!(!metrics.0.contains("secret"));
}
