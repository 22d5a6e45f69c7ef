//! The supervisor: starts the daemon, kills it, and compares the store with the clients' records.

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
    torture_client::TortureClient,
    verify::{verify, verify_contents},
    watcher::{TailRecord, Watcher},
};
use crate::support::{self, Daemon, Launch, Sagas};

/// The number of clients.
const CLIENTS: usize = 8;

/// The settings for one store.
pub struct TorturePlan {
    pub seed: u64,
    pub kills: u64,
    pub args: Vec<String>,
}

/// What was done, in numbers.
#[derive(Default)]
pub struct TortureCounts {
    kills: u64,
    /// Kills before the daemon served.
    early: u64,
    pub acknowledged: u64,
    refused: u64,
    happened: u64,
    not_happened: u64,
    events: u64,
    resumed: u64,
    calls: BTreeMap<&'static str, u64>,
}

impl TortureCounts {
    pub fn add(&mut self, other: TortureCounts) {
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

impl fmt::Display for TortureCounts {
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

/// Runs all kills with one store.
pub async fn run(plan: TorturePlan) -> TortureCounts {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut launch = Launch::on(&data).arg("--restart-grace=200ms").arg("--log=warn");
    launch.args.extend(plan.args);
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let highest = Arc::new(AtomicI64::new(0));
    let mut clients: Vec<_> =
        (0..CLIENTS).map(|number| TortureClient::new(plan.seed, number, highest.clone())).collect();
    let (told, addresses) = watch::channel(None);
    let watcher = Watcher::follow(addresses);
    let mut tally = TortureCounts::default();
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

/// Starts a daemon and kills it before it serves or just afterwards.
async fn kill_early(rng: &mut StdRng, launch: &Launch, tally: &mut TortureCounts) {
    let mut daemon = launch.spawn();
    let served = daemon.address_within(Duration::from_micros(rng.random_range(0..25_000))).is_some();
    daemon.kill().await;
    tally.kills += 1;
    tally.early += u64::from(!served);
}

async fn compare(sagas: &mut Sagas, clients: &mut [TortureClient], tally: &mut TortureCounts) {
    let (happened, not) = verify(sagas, clients).await;
    tally.happened += happened;
    tally.not_happened += not;
}

/// Lets all clients work, kills the daemon meanwhile, and returns the clients with their records.
async fn work_and_kill(
    rng: &mut StdRng,
    daemon: &mut Daemon,
    address: SocketAddr,
    clients: Vec<TortureClient>,
) -> Vec<TortureClient> {
    let working: Vec<_> = clients.into_iter().map(|client| tokio::spawn(client.work(address))).collect();
    let most = if rng.random_bool(0.3) { 100_000 } else { 1_200_000 };
    tokio::time::sleep(Duration::from_micros(rng.random_range(0..most))).await;
    assert!(daemon.has_ended().is_none(), "the daemon ended by itself:\n{}", daemon.log());
    daemon.kill().await;
    let mut back = Vec::new();
    for client in working {
        back.push(client.await.expect("a client runs until the daemon has ended"));
    }
    back
}

/// Runs `sagad check` after a kill: sometimes in place, sometimes on a copy, so that the next start finds the store as it was
/// left.
fn verify_at_rest(rng: &mut StdRng, data: &Path, beside: &Path) {
    let there = data.join("sagad.db").metadata().is_ok_and(|metadata| metadata.len() > 0);
    // A daemon that was killed before it created its store has left none.
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

/// True if there is a store, and not only an empty file.
fn has_tables(data: &Path) -> bool {
    let copy = tempfile::tempdir().unwrap();
    support::copy_data(data, copy.path());
    let connection = Connection::open(copy.path().join("sagad.db")).unwrap();
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0)).unwrap() > 0
}

/// Asserts that the watcher's record equals the history.
fn compare_history(record: &TailRecord, data: &Path) {
    let connection = Connection::open(data.join("sagad.db")).unwrap();
    let sql = "SELECT e.revision, s.task_id, e.to_state FROM event e JOIN saga s ON s.id = e.saga ORDER BY e.revision";
    let mut statement = connection.prepare(sql).unwrap();
    let stored = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
    let stored: Vec<(i64, String, i32)> = stored.unwrap().map(Result::unwrap).collect();
    let seen = record.events.iter().map(|event| (event.revision, event.task_id.clone(), event.to_state));
    let seen: Vec<_> = seen.collect();
    assert_eq!(seen.len(), stored.len(), "the watcher received another number of events than are stored");
    for (seen, stored) in seen.iter().zip(&stored) {
        assert_eq!(seen, stored, "the watcher received another event than is stored");
    }
}
