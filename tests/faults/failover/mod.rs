//! Two coordinators on one PostgreSQL: one writes, the other takes over. P15: what a deposed coordinator does never commits, and
//! a change of writer takes no acknowledged change, no token and no event with it.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tempfile::TempDir;
use tonic::Code;

use super::support::{
    self, Api, Launch, WAIT_MAX, claim, create,
    daemon::Process,
    eventually, now,
    postgres::{self, Database},
};
use sagad::proto::{CompleteRequest, HeartbeatRequest, Saga};

/// How long it may take until another accepts changes: after a kill, a freeze, and SIGTERM.
const AFTER_KILL: Duration = Duration::from_secs(3);
const AFTER_FREEZE: Duration = Duration::from_secs(10);
const AFTER_TERM: Duration = Duration::from_secs(1);

/// Coordinators on a database of their own.
struct Cluster {
    database: Database,
    dir: TempDir,
}

impl Cluster {
    fn new() -> Self {
        Cluster { database: Database::new(), dir: tempfile::tempdir().unwrap() }
    }

    fn launch(&self) -> Launch {
        Launch::on(self.dir.path()).args(&["--store", &self.database.url(), "--restart-grace", "2s"])
    }

    /// One that writes, and one that waits.
    fn pair(&self) -> (Process, SocketAddr, Process) {
        let mut writer = self.launch().spawn();
        let address = writer.address().expect("the first one writes");
        let waiting = self.launch().spawn();
        let begun = now();
        while !waiting.log().contains("this one waits for its turn") {
            assert!(begun.elapsed() < WAIT_MAX, "{}", waiting.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        (writer, address, waiting)
    }
}

async fn api(address: SocketAddr) -> Api {
    Api::new(support::daemon::connect(address).await)
}

/// Sagas that were claimed and acknowledged, with the newest revision that was seen.
async fn work(api: &Api, prefix: &str) -> Vec<Saga> {
    let mut claimed = Vec::new();
    for n in 0..20 {
        let id = format!("{prefix}-{n}");
        api.create_saga(create(&id)).await.unwrap();
        claimed.push(api.claim(claim(&id, "w", 60_000)).await.unwrap());
    }
    claimed
}

/// The first accepted change, and how long after an instant it was.
async fn first_change(mut process: Process, since: Instant, id: &str) -> (Process, Api, Duration, Saga) {
    let address = tokio::task::spawn_blocking(move || {
        let address = process.address().expect("it takes over");
        (process, address)
    });
    let (process, address) = address.await.unwrap();
    let api = api(address).await;
    let saga = api.create_saga(create(id)).await.unwrap();
    (process, api, since.elapsed(), saga)
}

/// Everything that was acknowledged by the former writer is there, leases live on, and revisions have grown.
async fn nothing_is_lost(api: &Api, claimed: &[Saga], first: &Saga) {
    let newest = claimed.iter().map(|saga| saga.revision).max().unwrap();
    assert!(first.revision > newest, "{} after {newest}", first.revision);
    for saga in claimed {
        assert_eq!(api.get(&saga.task_id).await.lease, saga.lease, "{}", saga.task_id);
        let beat = HeartbeatRequest { ttl: None, progress: None, ..heartbeat_of(saga) };
        api.heartbeat(beat).await.unwrap();
        let history = api.history(&saga.task_id).await;
        assert_eq!(history.last().map(|event| event.revision), Some(saga.revision), "{}", saga.task_id);
    }
}

fn heartbeat_of(saga: &Saga) -> HeartbeatRequest {
    let lease = saga.lease.as_ref().unwrap();
    HeartbeatRequest {
        task_id: saga.task_id.clone(),
        owner_id: lease.owner_id.clone(),
        fencing_token: lease.fencing_token,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p15_a_killed_writer_is_replaced() {
    if !postgres::is_there() {
        return;
    }
    let cluster = Cluster::new();
    let (mut writer, address, waiting) = cluster.pair();
    let claimed = work(&api(address).await, "t").await;
    let begun = now();
    writer.signal(Signal::KILL);
    let (_second, api, after, first) = first_change(waiting, begun, "new").await;
    assert!(after < AFTER_KILL, "{after:?}");
    nothing_is_lost(&api, &claimed, &first).await;
    writer.wait();
}

#[tokio::test(flavor = "multi_thread")]
async fn p15_a_writer_that_is_told_to_end_hands_over() {
    if !postgres::is_there() {
        return;
    }
    let cluster = Cluster::new();
    let (mut writer, address, waiting) = cluster.pair();
    let claimed = work(&api(address).await, "t").await;
    let begun = now();
    writer.terminate().await;
    let ended = begun.elapsed();
    let (_second, api, after, first) = first_change(waiting, begun, "new").await;
    assert!(after < ended + AFTER_TERM, "{after:?}, ended after {ended:?}");
    nothing_is_lost(&api, &claimed, &first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p15_a_frozen_writer_is_replaced_and_changes_nothing_when_it_wakes() {
    if !postgres::is_there() {
        return;
    }
    let cluster = Cluster::new();
    let (mut writer, address, waiting) = cluster.pair();
    let former = api(address).await;
    let claimed = work(&former, "t").await;
    // Calls that are on their way when it freezes, and are executed when it wakes.
    let begun = now();
    writer.signal(Signal::STOP);
    let late: Vec<_> = claimed[..5]
        .iter()
        .map(|saga| {
            let (former, request) = (former.clone(), CompleteRequest { ..complete_of(saga) });
            tokio::spawn(async move { former.complete(request).await })
        })
        .collect();
    let (_second, api, after, first) = first_change(waiting, begun, "new").await;
    assert!(after < AFTER_FREEZE, "{after:?}");
    nothing_is_lost(&api, &claimed, &first).await;
    writer.signal(Signal::CONT);
    for call in late {
        let refused = call.await.unwrap().expect_err("it was deposed");
        assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    }
    let (status, log) = writer.end().await;
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("another coordinator has taken over"), "{log}");
    for saga in &claimed {
        assert_eq!(
            api.get(&saga.task_id).await.lease.unwrap().fencing_token,
            saga.lease.as_ref().unwrap().fencing_token
        );
    }
}

/// Even one whose session the database still serves: the lock is a hint, the epoch decides.
#[tokio::test(flavor = "multi_thread")]
async fn p15_a_writer_whose_epoch_is_over_changes_nothing() {
    if !postgres::is_there() {
        return;
    }
    let cluster = Cluster::new();
    let mut writer = cluster.launch().spawn();
    let api = api(writer.address().expect("it writes")).await;
    let claimed = work(&api, "t").await;
    cluster.database.execute("UPDATE sagad.writer SET epoch = epoch + 1");
    let events = "SELECT count(*) FROM sagad.event";
    let before = cluster.database.number(events);
    let refused = api.complete(complete_of(&claimed[0])).await.expect_err("it was deposed");
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    let (status, log) = writer.end().await;
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("another coordinator has taken over"), "{log}");
    assert_eq!(cluster.database.number(events), before);
}

fn complete_of(saga: &Saga) -> CompleteRequest {
    let HeartbeatRequest { task_id, owner_id, fencing_token, .. } = heartbeat_of(saga);
    CompleteRequest { task_id, owner_id, fencing_token, ..Default::default() }
}

/// Sessions are ended by an administrator, at any moment of a turn: what was acknowledged is there, once, and the writer goes
/// on.
#[tokio::test(flavor = "multi_thread")]
async fn p15_lost_connections_lose_nothing() {
    if !postgres::is_there() {
        return;
    }
    let cluster = Cluster::new();
    let mut writer = cluster.launch().spawn();
    let api = api(writer.address().expect("it writes")).await;
    let until = now() + Duration::from_secs(6);
    let creating = (0..8).map(|worker| {
        let api = api.clone();
        tokio::spawn(async move {
            let (mut acknowledged, mut refused, mut unknown) = (Vec::new(), Vec::new(), 0);
            for n in 0.. {
                if now() > until {
                    break;
                }
                let id = format!("w{worker}-{n}");
                match api.create_saga(create(&id)).await {
                    Ok(saga) => acknowledged.push(saga),
                    Err(error) if error.code() == Code::Unavailable => refused.push(id),
                    Err(error) => {
                        assert_eq!(error.code(), Code::Unknown, "{error:?}");
                        unknown += 1;
                    }
                }
            }
            (acknowledged, refused, unknown)
        })
    });
    let creating: Vec<_> = creating.collect();
    let mut ended = 0;
    while now() < until {
        tokio::time::sleep(Duration::from_millis(97)).await;
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'sagad' \
                   AND datname = current_database()";
        ended += tokio::task::block_in_place(|| cluster.database.number(end));
    }
    assert!(ended > 10, "{ended}");
    let (mut all, mut none) = (Vec::new(), Vec::new());
    for task in creating {
        let (acknowledged, refused, unknown) = task.await.unwrap();
        assert_eq!(unknown, 0, "the database was there all the time");
        all.extend(acknowledged);
        none.extend(refused);
    }
    assert!(all.len() > 100, "{}", all.len());
    eventually("it answers again", async || api.find("w0-0").await.ok()).await;
    let mut revisions: Vec<_> = all.iter().map(|saga| saga.revision).collect();
    revisions.sort_unstable();
    assert!(revisions.is_sorted_by(|a, b| a < b), "no revision is given twice");
    for saga in &all {
        assert_eq!(api.get(&saga.task_id).await.revision, saga.revision);
    }
    for id in &none {
        assert!(api.find(id).await.unwrap().is_none(), "{id} was refused, and did not happen");
    }
    writer.terminate().await;
}

/// What `docs/how-to/cluster.md` shows for making a database is enough.
#[test]
fn the_statements_of_the_page_make_a_database() {
    if !postgres::is_there() {
        return;
    }
    let page = include_str!("../../../docs/how-to/cluster.md");
    let block = page.split("```sql\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block of SQL");
    let cluster = Cluster::new();
    let server = cluster.database.server;
    for statement in block.lines() {
        server.execute("postgres", statement).unwrap();
    }
    let store = server.url("sagad", "sagad");
    let mut writer = Launch::on(cluster.dir.path()).args(&["--store", &store]).spawn();
    writer.address().expect("it serves");
}

#[test]
fn what_is_wrong_with_the_database_is_said_in_one_sentence() {
    if !postgres::is_there() {
        return;
    }
    let cluster = Cluster::new();
    let server = cluster.database.server;
    let refused = |url: &str| {
        let (status, log) = Launch::on(cluster.dir.path()).args(&["--store", url]).refused();
        assert_eq!(status.code(), Some(1), "{log}");
        log
    };
    let name = &cluster.database.name;
    assert!(refused("postgres://postgres@127.0.0.1:1x/db").contains("--store is no URL"));
    assert!(refused(&server.url("postgres", "nowhere")).contains("database \"nowhere\" does not exist; create it"));
    assert!(refused(&server.url("nobody", name)).contains("does not let sagad in"));
    cluster.database.execute("CREATE ROLE reader LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC");
    assert!(refused(&server.url("reader", name)).contains("the user reader may not do what sagad needs"));
    cluster.database.execute("DROP ROLE reader; CREATE SCHEMA sagad; CREATE TABLE sagad.other (n int)");
    assert!(refused(&cluster.database.url()).contains("the schema sagad in this database is not sagad's"));
    cluster.database.execute("DROP SCHEMA sagad CASCADE");
    let mut first = cluster.launch().spawn();
    first.address().expect("it makes its schema");
    first.signal(Signal::TERM);
    first.wait();
    cluster.database.execute("UPDATE sagad.writer SET schema_version = 99");
    assert!(refused(&cluster.database.url()).contains("written by a newer sagad (schema 99"));
    assert_eq!(cluster.database.number("SELECT schema_version::bigint FROM sagad.writer"), 99, "nothing was changed");
}
