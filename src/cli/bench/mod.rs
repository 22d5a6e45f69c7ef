//! `sagad bench`: puts load on its own or another daemon, and reports the figures.
//!
//! Two runs can be compared: all parameters are fixed, down to the client's threads, and only calls that lie completely within
//! the measured window count.
//!
//! # The phases of a run
//!
//! ```text
//! BenchArgs ─► Plan ─► own daemon: temporary directory, times of fdatasync, start      (daemon, disk)
//!                  └─► or another daemon: one health check
//!              ─► the empty call alone                                                 (Plan::echo)
//!              ─► sagas and leases that must be there                                  (preload, sagas_ahead, due_at_once)
//!              ─► the load and the background load: ready, warm-up, window, end        (measure)
//!              ─► CPU, memory, write-ahead log, restart of the own daemon              (usage, daemon)
//!              ─► BenchReport: JSON or tables
//! ```
//!
//! # The measurement
//!
//! ```text
//! RunState: Plan, SagaPool, Window, shared by all threads
//!
//!  Load: threads with a runtime each          BackgroundLoad: one thread
//!    connections, clients on them               readers, watchers, leases that expire, claimers
//!      │ the mode's calls                         │
//!      ▼                                          ▼
//!  BenchTotals: times by rpc, one per thread  BackgroundResults
//!      └────────────── added up ────────────────┴─────────► BenchReport
//! ```
//!
//! Every client calls [`Window::ready`]. When all are ready, the warm-up begins; then [`Window::open`] starts the measured
//! period. A client stops at its end, or when [`SagaPool::next`] has no saga left, which closes the window.
//!
//! | file | subject |
//! |---|---|
//! | `args` | the arguments, and the [`Plan`] with all defaults filled in |
//! | `load`, `load_client` | the threads of the load; what one client has |
//! | `unary_client`, `keep_alive`, `session`, `watch` | the clients of the modes |
//! | `background_load` | what goes on beside the load |
//! | `saga_pool`, `claim_next`, `preload`, `sagas_ahead`, `due_at_once` | ids of sagas, in the order of their claims; requests and sagas that are made before |
//! | `window` | the measured period |
//! | `totals`, `report` | times and failures; the report |
//! | `daemon`, `disk`, `usage` | the bench's own daemon, its disk, and what it uses |
//! | `progress` | bars on a terminal |
//!
//! # Bounds
//!
//! By default it creates at most 2,000,000 sagas. A saga takes no memory here: its id is computed from its number. Times are
//! counted in histograms with three digits, up to a minute. Calls in flight at the end have 10 s. However the run ends, the
//! daemon and its directory go: both are dropped.

mod args;
mod background_load;
mod claim_next;
mod daemon;
mod disk;
mod due_at_once;
mod keep_alive;
mod load;
mod load_client;
mod preload;
mod progress;
mod report;
mod saga_pool;
mod sagas_ahead;
mod session;
mod totals;
mod unary_client;
mod usage;
mod watch;
mod window;

use std::{path::Path, process, sync::Arc, time::Duration};

use tempfile::TempDir;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::spawn_blocking,
};
use tonic_health::pb::HealthCheckRequest;

pub use args::BenchArgs;
use args::{Ids, Plan};
use background_load::{BackgroundLoad, BackgroundQueues};
use daemon::Daemon;
use due_at_once::DueAtOnce;
use load::Load;
use load_client::RunState;
use progress::Progress;
use report::{BenchReport, DaemonUsage};
use saga_pool::SagaPool;
use totals::{BenchTotals, Times};
use window::{CloseOnDrop, Window};

use super::{
    errors::CliError,
    global_args::GlobalArgs,
    output::{Output, notice},
};
use crate::{
    client::{Client, ClientOptions, connect::DEFAULT_TIMEOUT},
    proto::CreateSagaRequest,
};

/// How long the empty call is measured without other load.
const ECHO: Duration = Duration::from_millis(500);
/// From how many sagas on the bench's own store is filled directly.
const DIRECTLY_FROM: u64 = 100_000;

/// Measures the daemon that `--server` names, or its own one.
///
/// # Errors
/// Wrong usage; no daemon answers or starts; no call succeeded within the window; interrupted.
pub async fn run(global: &GlobalArgs, output: &Output, args: BenchArgs) -> Result<(), CliError> {
    let server = global.named_server();
    let plan = Plan::of(args, server.is_none())?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    // Dropping the future ends what it started: the daemon, its directory, the load.
    tokio::select! {
        report = bench(plan, server) => report?.show(output),
        _ = terminate.recv() => Err(CliError::Failed("interrupted".to_owned())),
        _ = interrupt.recv() => Err(CliError::Failed("interrupted".to_owned())),
    }
}

/// The measured daemon.
struct LoadTarget {
    options: ClientOptions,
    daemon: Option<Daemon>,
    facts: DaemonUsage,
    fdatasync: Option<Times>,
}

async fn bench(plan: Plan, server: Option<ClientOptions>) -> Result<BenchReport, CliError> {
    let is_own = server.is_none();
    let mut target = match server {
        Some(options) => another(options, plan.args.dir.as_deref()).await?,
        None => own(plan.args.dir.as_deref()).await?,
    };
    let progress = Progress::new();
    let PreparedRun { run, empty, queues, due, client } = prepare(&plan, &mut target, &progress).await?;

    let pid = target.daemon.as_ref().map(Daemon::pid);
    let cpu = || (pid.and_then(usage::cpu_seconds), usage::cpu_seconds(process::id()));
    if let Some(due) = &due {
        due.begin(&plan).await;
    }
    let ((totals, background_load), [before, after]) = measure(&run, Some(queues), &progress, cpu).await?;
    let due = match due {
        Some(due) => Some(due.done(&client).await?),
        None => None,
    };
    let seconds = run.window.length().as_secs_f64();
    let overall = totals.overall();
    if overall.count() == 0 {
        let why = totals.first_error.unwrap_or_else(|| {
            "all sagas were used up before the measurement began: try a larger --preload".to_owned()
        });
        return Err(CliError::Failed(format!("no call was measured: {why}")));
    }
    let spent = |before: Option<f64>, after: Option<f64>| Some(after? - before?);
    if let Some(daemon) = target.daemon.take() {
        let facts = &mut target.facts;
        facts.cpu_seconds = spent(before.0, after.0);
        facts.cpu_cores = facts.cpu_seconds.map(|cpu| cpu / seconds);
        facts.rss_bytes = usage::rss_bytes(daemon.pid());
        facts.wal_bytes = daemon.wal().bytes();
        facts.wal_bytes_max = daemon.wal().bytes_max();
        if plan.args.restart {
            let (daemon, took) = daemon.again().await?;
            facts.restart_ms = Some(took.as_secs_f64() * 1e3);
            facts.restart_rss_bytes = usage::rss_bytes(daemon.pid());
        }
    }
    let client_cores = spent(before.1, after.1).map(|cpu| cpu / seconds);
    let server = is_own.then_some(target.facts);
    let fdatasync = target.fdatasync;
    Ok(BenchReport { plan, seconds, totals, overall, empty, fdatasync, server, client_cores, background_load, due })
}

/// What is prepared before the measurement.
struct PreparedRun {
    run: Arc<RunState>,
    /// Times of empty calls without other load.
    empty: Times,
    queues: BackgroundQueues,
    due: Option<DueAtOnce>,
    client: Client,
}

/// Creates what the plan needs in the store, and measures the empty call.
async fn prepare(plan: &Plan, target: &mut LoadTarget, progress: &Progress) -> Result<PreparedRun, CliError> {
    let pool = SagaPool::new(rand::random(), plan.args.ids, plan.preload);
    let is_special = plan.args.undo || plan.args.ahead > 0;
    let is_direct = target.daemon.is_some() && !is_special && plan.preload >= DIRECTLY_FROM;
    if let Some(daemon) = target.daemon.take_if(|_| is_direct) {
        let daemon = daemon.filled(&pool, progress).await?;
        target.options = daemon.options();
        target.daemon = Some(daemon);
    }
    let client = Client::connect(&target.options).map_err(|error| CliError::Usage(error.to_string()))?;
    let shared = |plan: &Plan, pool| {
        Arc::new(RunState { plan: plan.clone(), options: target.options.clone(), pool, window: Window::new() })
    };
    let echo = shared(&plan.echo(ECHO), SagaPool::new(0, Ids::Ordered, 0));
    let (empty, _) = measure(&echo, None, &Progress::new(), || ()).await?;
    let empty = empty.0.overall();

    let run = shared(plan, pool);
    let plain = CreateSagaRequest::default();
    if is_special {
        sagas_ahead::create(&client, plan, &run.pool, progress).await?;
    } else if !is_direct {
        preload::create(&client, &run.pool, &plain, progress).await?;
    }
    let held = SagaPool::new(rand::random(), Ids::Ordered, plan.args.leases.into());
    preload::create(&client, &held, &plain, progress).await?;
    preload::lease(&client, &held.queue(), held.total(), progress).await?;
    let ending = SagaPool::new(rand::random(), Ids::Ordered, BackgroundLoad::ending(plan));
    preload::create(&client, &ending, &plain, progress).await?;
    let due = DueAtOnce::prepare(&client, plan, progress).await?;
    let queues =
        BackgroundQueues { ending: ending.queue(), due: due.as_ref().map(DueAtOnce::queues).unwrap_or_default() };
    Ok(PreparedRun { run, empty, queues, due, client })
}

/// Starts the bench's own daemon in a directory whose syncs were timed.
async fn own(dir: Option<&Path>) -> Result<LoadTarget, CliError> {
    let dir = daemon::temporary(dir)?;
    if disk::in_memory(dir.path()) {
        notice("the directory is in memory, where nothing is synced: choose one on a disk with --dir");
    }
    let (dir, fdatasync) = syncs(dir).await?;
    let (daemon, took) = Daemon::start(dir).await?;
    let start_ms = took.as_secs_f64() * 1e3;
    let facts = DaemonUsage { start_ms, rss_idle_bytes: usage::rss_bytes(daemon.pid()), ..DaemonUsage::default() };
    Ok(LoadTarget { options: daemon.options(), daemon: Some(daemon), facts, fdatasync: Some(fdatasync) })
}

/// Uses a running daemon, if it answers. Its disk is taken to be that of `dir`, if given.
async fn another(options: ClientOptions, dir: Option<&Path>) -> Result<LoadTarget, CliError> {
    let options = ClientOptions { timeout: DEFAULT_TIMEOUT, ..options };
    let client = Client::connect(&options).map_err(|error| CliError::Usage(error.to_string()))?;
    client.health().check(client.unary(HealthCheckRequest::default())).await?;
    let fdatasync = match dir {
        Some(dir) => Some(syncs(daemon::temporary(Some(dir))?).await?.1),
        None => None,
    };
    Ok(LoadTarget { options, daemon: None, facts: DaemonUsage::default(), fdatasync })
}

async fn syncs(dir: TempDir) -> Result<(TempDir, Times), CliError> {
    let timed = spawn_blocking(move || disk::syncs(dir.path()).map(|times| (dir, times)));
    timed.await.map_err(|error| CliError::Failed(error.to_string()))?
}

/// Runs the load, and the background load if there are `queues` for it, through the window. `look` is called at the start and the
/// end of the window.
async fn measure<T>(
    shared: &Arc<RunState>,
    queues: Option<BackgroundQueues>,
    progress: &Progress,
    look: impl Fn() -> T,
) -> Result<((BenchTotals, Option<background_load::BackgroundResults>), [T; 2]), CliError> {
    let (plan, window) = (&shared.plan, &shared.window);
    let closing = CloseOnDrop(window);
    let beside = if queues.is_some() { BackgroundLoad::parties(plan) } else { 0 };
    let queues = queues.filter(|_| beside > 0);
    let background_load = queues.map(|queues| BackgroundLoad::start(shared, queues)).transpose()?;
    let load = Load::start(shared)?;
    let through = async {
        let begun = async {
            window.all_ready(Load::parties(plan) + beside).await;
            progress.sleep(plan.args.warmup, "warming up").await;
        };
        tokio::select! {
            () = begun => {}
            () = window.over.cancelled() => {}
        }
        let before = look();
        window.open(plan.args.duration);
        tokio::select! {
            () = progress.sleep(plan.args.duration, "measuring") => {}
            () = window.over.cancelled() => {}
        }
        let after = look();
        drop(closing);
        [before, after]
    };
    let ended = async {
        match background_load {
            Some(background_load) => {
                tokio::try_join!(load.end(), background_load.end()).map(|(totals, seen)| (totals, Some(seen)))
            }
            None => load.end().await.map(|totals| (totals, None)),
        }
    };
    // The load ends early with an error, or when nothing is left to do, which closes the window.
    let (looks, seen) = tokio::join!(through, async {
        let seen = ended.await;
        if seen.is_err() {
            window.close();
        }
        seen
    });
    Ok((seen?, looks))
}
