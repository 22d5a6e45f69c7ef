//! Load on a peer of sagad: `peers-driver PEER load PORT FIRST TASKS` stores tasks, and `peers-driver PEER run PORT FIRST CLIENTS
//! SECONDS` has so many clients claim, heartbeat and complete them, and prints the operations a second, three for each cycle.
//!
//! The clients are as those of `sagad bench`: dealt among current-thread runtimes, one for each core, each with a
//! connection of its own where that is the peer's custom. Two seconds pass before it measures.

mod beanstalkd;
mod etcd;
mod redis;
mod temporal;

use std::{
    env,
    error::Error,
    future::Future,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::task::JoinSet;

/// Any failure ends the run.
pub type Res<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// How long a lease lasts, in seconds; as in `sagad bench`.
pub const TTL: u32 = 30;
/// Connections of all threads together, where clients share them: as many as `sagad bench` has.
pub const CONNECTIONS: usize = 16;
const WARMUP: Duration = Duration::from_secs(2);

/// One client of a peer.
pub trait Peer: Sized + Send + 'static {
    /// What the clients of one thread share, such as connections.
    type Lane: Clone + Send;

    /// Prepares a thread for so many clients. `next` is the next task, where a peer has no queue of them.
    fn lane(port: u16, next: Arc<AtomicU64>, clients: usize) -> impl Future<Output = Res<Self::Lane>> + Send;
    /// The client with this number.
    fn connect(lane: Self::Lane, number: usize) -> impl Future<Output = Res<Self>> + Send;
    /// Claims a task, extends its lease once, completes it; calls `done` after each. An error if no task is left.
    fn cycle(&mut self, done: impl Fn() + Send) -> impl Future<Output = Res<()>> + Send;
    /// Stores so many tasks, of which the first has this number.
    fn load(port: u16, first: u64, tasks: u64) -> impl Future<Output = Res<()>> + Send;
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let outcome = match arguments.first().map(String::as_str) {
        Some("beanstalkd") => start::<beanstalkd::Client>(&arguments[1..]),
        Some("etcd") => start::<etcd::Client>(&arguments[1..]),
        Some("redis") => start::<redis::Client>(&arguments[1..]),
        Some("redis-pipelined") => start::<redis::Pipelined>(&arguments[1..]),
        Some("temporal") => start::<temporal::Client>(&arguments[1..]),
        _ => Err("usage: peers-driver beanstalkd|etcd|redis|redis-pipelined|temporal load|run PORT FIRST (TASKS | CLIENTS SECONDS)".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers-driver: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start<P: Peer>(arguments: &[String]) -> Res<()> {
    let numbers = |from: usize| arguments.iter().skip(from).map(|text| text.parse::<u64>());
    let numbers: Vec<u64> = numbers(1).collect::<Result<_, _>>()?;
    match (arguments.first().map(String::as_str), numbers.as_slice()) {
        (Some("load"), [port, first, tasks]) => {
            let load = P::load(u16::try_from(*port)?, *first, *tasks);
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(load)
        }
        (Some("run"), [port, first, clients, seconds]) => {
            let ops =
                run::<P>(u16::try_from(*port)?, *first, usize::try_from(*clients)?, Duration::from_secs(*seconds))?;
            println!("{ops:.0}");
            Ok(())
        }
        _ => Err("load PORT FIRST TASKS, or run PORT FIRST CLIENTS SECONDS".into()),
    }
}

/// Operations a second.
fn run<P: Peer>(port: u16, first: u64, clients: usize, length: Duration) -> Res<f64> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(clients);
    let (ready, wait) = std::sync::mpsc::channel();
    // One counter for each thread: one for all would be what is measured.
    let counters: Vec<_> = (0..threads).map(|_| Arc::new(AtomicU64::new(0))).collect();
    let next = Arc::new(AtomicU64::new(first));
    for (number, counter) in counters.iter().enumerate() {
        let (counter, ready, next) = (counter.clone(), ready.clone(), next.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::spawn(move || {
            let outcome = runtime.block_on(async {
                let mine = (number..clients).step_by(threads);
                let lane = P::lane(port, next, mine.len()).await?;
                let mut all = Vec::new();
                for client in mine {
                    all.push(P::connect(lane.clone(), client).await?);
                }
                ready.send(Ok(()))?;
                let mut tasks: JoinSet<Res<()>> = JoinSet::new();
                for mut client in all {
                    let counter = counter.clone();
                    tasks.spawn(async move {
                        loop {
                            let done = || {
                                counter.fetch_add(1, Ordering::Relaxed);
                            };
                            client.cycle(done).await?;
                        }
                    });
                }
                tasks.join_next().await.map_or(Ok(()), |ended| ended?)
            });
            // Only an error ends it.
            ready.send(outcome).ok();
        });
    }
    for _ in 0..threads {
        wait.recv()??;
    }
    let sum = || counters.iter().map(|counter| counter.load(Ordering::Relaxed)).sum::<u64>();
    // An error while it warms up or measures is the outcome.
    let pass = |length| match wait.recv_timeout(length) {
        Ok(outcome) => outcome,
        Err(_) => Ok(()),
    };
    pass(WARMUP)?;
    let (begun, before) = (std::time::Instant::now(), sum());
    pass(length)?;
    Ok((sum() - before) as f64 / begun.elapsed().as_secs_f64())
}
