//! Who starts, kills and compares.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::Path,
    sync::{Arc, atomic::AtomicI64},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use rusqlite::Connection;
use sagad::proto::GetStatsRequest;
use tokio::sync::watch;

use super::{
    client::Client,
    verify::{verify, verify_contents},
    watcher::{Record, Watcher},
};
use crate::support::{self, Daemon, Launch, Sagas};

/// Clients that work at a time.
const CLIENTS: usize = 8;

/// What is to be done to one store.
pub struct Plan {
    pub seed: u64,
    pub kills: u64,
    pub args: Vec<String>,
}

/// What was done.
#[derive(Default)]
pub struct Tally {
    kills: u64,
    /// Of those, before the daemon said that it serves.
    early: u64,
    pub acknowledged: u64,
    refused: u64,
    happened: u64,
    not_happened: u64,
    events: u64,
    resumed: u64,
    calls: BTreeMap<&'static str, u64>,
}

impl Tally {
    pub fn add(&mut self, other: Tally) {
        self.kills += other.kills;
        self.early += other.early;
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.happened += other.happened;
        self.not_happened += other.not_happened;
        self.events += other.events;
        self.resumed += other.resumed;
        for (call, count) in other.calls {
            *self.calls.entry(call).or_default() += count;
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} kills ({} during the start), {} changes acknowledged, {} refused, {} cut off (of which {} had happened), \
             {} events watched over {} resumptions; {:?}",
            self.kills,
            self.early,
            self.acknowledged,
            self.refused,
            self.happened + self.not_happened,
            self.happened,
            self.events,
            self.resumed,
            self.calls
        )
    }
}

/// A number that whoever runs the test has chosen.
pub fn number_from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

/// Tortures one store.
pub async fn run(plan: Plan) -> Tally {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut launch = Launch::on(&data).arg("--restart-grace=200ms").arg("--log=warn");
    launch.args.extend(plan.args);
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let highest = Arc::new(AtomicI64::new(0));
    let mut clients: Vec<_> = (0..CLIENTS).map(|number| Client::new(plan.seed, number, highest.clone())).collect();
    let (told, addresses) = watch::channel(None);
    let watcher = Watcher::follow(addresses);
    let mut tally = Tally::default();
    while tally.kills < plan.kills {
        if rng.random_bool(0.25) {
            kill_early(&mut rng, &launch, &mut tally).await;
            verify_at_rest(&mut rng, &data, directory.path());
        }
        let mut daemon = launch.start();
        let address = daemon.address();
        let mut sagas = support::sagas(address).await;
        compare(&mut sagas, &mut clients, &mut tally).await;
        told.send_replace(Some(address));
        clients = work_and_kill(&mut rng, &mut daemon, address, clients).await;
        tally.kills += 1;
        told.send_replace(None);
        verify_at_rest(&mut rng, &data, directory.path());
    }
    let mut daemon = launch.start();
    let address = daemon.address();
    let mut sagas = support::sagas(address).await;
    told.send_replace(Some(address));
    compare(&mut sagas, &mut clients, &mut tally).await;
    verify_contents(&mut sagas, &clients).await;
    let head = sagas.get_stats(GetStatsRequest {}).await.unwrap().into_inner().revision;
    let record = watcher.through(head).await;
    daemon.terminate().await;
    support::check(&data);
    compare_history(&record, &data);
    tally.events = record.events.len() as u64;
    tally.resumed = record.resumed;
    for client in clients {
        tally.acknowledged += client.acknowledged.values().sum::<u64>();
        tally.refused += client.refused.values().sum::<u64>();
        for (call, count) in client.acknowledged {
            *tally.calls.entry(call).or_default() += count;
        }
    }
    tally
}

/// Kills a daemon that has just been started: on its way to serving, or right behind it.
async fn kill_early(rng: &mut StdRng, launch: &Launch, tally: &mut Tally) {
    let mut daemon = launch.spawn();
    let served = daemon.address_within(Duration::from_micros(rng.random_range(0..25_000))).is_some();
    daemon.kill().await;
    tally.kills += 1;
    tally.early += u64::from(!served);
}

async fn compare(sagas: &mut Sagas, clients: &mut [Client], tally: &mut Tally) {
    let (happened, not) = verify(sagas, clients).await;
    tally.happened += happened;
    tally.not_happened += not;
}

/// Lets all clients work, kills the daemon amid it, and returns the clients with their ledgers.
async fn work_and_kill(
    rng: &mut StdRng,
    daemon: &mut Daemon,
    address: SocketAddr,
    clients: Vec<Client>,
) -> Vec<Client> {
    let working: Vec<_> = clients.into_iter().map(|client| tokio::spawn(client.work(address))).collect();
    let most = if rng.random_bool(0.3) { 100_000 } else { 1_200_000 };
    tokio::time::sleep(Duration::from_micros(rng.random_range(0..most))).await;
    assert!(daemon.has_ended().is_none(), "the daemon ended by itself:\n{}", daemon.log());
    daemon.kill().await;
    let mut back = Vec::new();
    for client in working {
        back.push(client.await.expect("a client goes on until the daemon is gone"));
    }
    back
}

/// `sagad check` on what the kill has left: now there, now on a copy, so that the next start finds it as it was left.
fn verify_at_rest(rng: &mut StdRng, data: &Path, beside: &Path) {
    let there = data.join("sagad.db").metadata().is_ok_and(|metadata| metadata.len() > 0);
    // A daemon that was killed before it had made its store has left none.
    if !there || !has_tables(data) {
        return;
    }
    if rng.random_bool(0.2) {
        support::check(data);
        return;
    }
    let copy = beside.join("copy");
    support::copy_data(data, &copy);
    support::check(&copy);
    std::fs::remove_dir_all(&copy).unwrap();
}

/// Whether there is a store, and not only the file for one.
fn has_tables(data: &Path) -> bool {
    let copy = tempfile::tempdir().unwrap();
    support::copy_data(data, copy.path());
    let connection = Connection::open(copy.path().join("sagad.db")).unwrap();
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0)).unwrap() > 0
}

/// What the watcher saw is the history, event by event.
fn compare_history(record: &Record, data: &Path) {
    let connection = Connection::open(data.join("sagad.db")).unwrap();
    let sql = "SELECT e.revision, s.task_id, e.to_state FROM event e JOIN saga s ON s.id = e.saga ORDER BY e.revision";
    let mut statement = connection.prepare(sql).unwrap();
    let stored = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
    let stored: Vec<(i64, String, i32)> = stored.unwrap().map(Result::unwrap).collect();
    let seen = record.events.iter().map(|event| (event.revision, event.task_id.clone(), event.to_state));
    let seen: Vec<_> = seen.collect();
    assert_eq!(seen.len(), stored.len(), "the watcher saw another number of events than there are");
    for (seen, stored) in seen.iter().zip(&stored) {
        assert_eq!(seen, stored, "the watcher saw another event than there is");
    }
}
