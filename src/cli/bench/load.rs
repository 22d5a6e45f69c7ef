//! [`Load`]: the measured load: threads with a current-thread runtime each, connections distributed over the threads,
//! and clients over the connections. A multi-threaded runtime would measure itself rather than the daemon.

use std::{sync::Arc, thread, time::Duration};

use futures::future;
use parking_lot::Mutex;
use tokio::{
    runtime::Builder,
    sync::oneshot,
    task::{JoinHandle, JoinSet},
};
use uuid::Uuid;

use super::{
    args::{Mode, Plan},
    ids::Stock,
    record::Tally,
    session, streams, turns,
    window::Window,
};
use crate::{
    cli::errors::CliError,
    client::{Client, ClientOptions},
};

/// How long calls in flight at the end may take.
const LAST_ANSWERS: Duration = Duration::from_secs(10);

/// The state shared by the threads of a run.
pub struct Shared {
    /// What to measure.
    pub plan: Plan,
    /// Where.
    pub options: ClientOptions,
    /// The sagas for the load.
    pub stock: Stock,
    /// When it is measured.
    pub window: Window,
}

/// One client of the load: its connection, which it may share, and its totals.
#[derive(Clone)]
pub struct Lane {
    /// Its number in the run.
    pub number: u32,
    /// Its connection.
    pub client: Client,
    /// The totals of its thread.
    pub tally: Arc<Mutex<Tally>>,
    /// What all share.
    pub shared: Arc<Shared>,
}

impl Lane {
    /// Its owner id.
    pub fn owner(&self) -> String {
        format!("bench-{}", self.number)
    }

    /// The `request_id` for a change: a new one, or empty if none were asked for.
    pub fn request_id(&self) -> String {
        if self.shared.plan.request_ids { Uuid::new_v4().to_string() } else { String::new() }
    }
}

/// The running load.
pub struct Load {
    ended: Vec<oneshot::Receiver<Result<Tally, CliError>>>,
}

impl Load {
    /// Starts the threads. They end with the window.
    pub fn start(shared: &Arc<Shared>) -> Result<Self, CliError> {
        let threads = shared.plan.threads;
        let start = |thread| on_a_thread(format!("bench-load-{thread}"), clients(shared.clone(), thread));
        Ok(Load { ended: (0..threads).map(start).collect::<Result<_, _>>()? })
    }

    /// How many clients report that they are ready.
    pub fn parties(plan: &Plan) -> u32 {
        if matches!(plan.mode, Mode::Keepalive | Mode::Session) { plan.connections } else { plan.clients }
    }

    /// The totals of all threads, once they have ended.
    pub async fn end(self) -> Result<Tally, CliError> {
        let mut all = Tally::new()?;
        for tally in future::try_join_all(self.ended.into_iter().map(ended)).await? {
            all.add(&tally)?;
        }
        Ok(all)
    }
}

/// Runs a future on a new thread with its own runtime.
pub fn on_a_thread<T: Send + 'static>(
    name: String,
    work: impl Future<Output = Result<T, CliError>> + Send + 'static,
) -> Result<oneshot::Receiver<Result<T, CliError>>, CliError> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (done, ended) = oneshot::channel();
    thread::Builder::new().name(name).spawn(move || {
        let result = runtime.block_on(work);
        // The caller may have given up.
        done.send(result).ok();
    })?;
    Ok(ended)
}

/// The result of such a thread.
pub async fn ended<T>(thread: oneshot::Receiver<Result<T, CliError>>) -> Result<T, CliError> {
    let gone = |_| CliError::Failed("a thread of the load ended early".to_owned());
    thread.await.map_err(gone)?
}

/// Runs the clients of one thread.
async fn clients(shared: Arc<Shared>, thread: u32) -> Result<Tally, CliError> {
    let plan = &shared.plan;
    let tally = Arc::new(Mutex::new(Tally::new()?));
    let mut tasks: JoinSet<Result<(), CliError>> = JoinSet::new();
    let mut creators = Vec::new();
    for connection in (thread..plan.connections).step_by(plan.threads as usize) {
        let client = Client::connect(&shared.options).map_err(|e| CliError::Usage(e.to_string()))?;
        let lane = |number| Lane { number, client: client.clone(), tally: tally.clone(), shared: shared.clone() };
        let numbers = || (connection..plan.clients).step_by(plan.connections as usize);
        match plan.mode {
            Mode::Keepalive => {
                let in_flight = numbers().count();
                tasks.spawn(streams::keep_alive(lane(connection), in_flight));
            }
            Mode::Session => {
                let in_flight = numbers().count();
                tasks.spawn(session::cycles(lane(connection), in_flight));
            }
            Mode::Watch => {
                numbers().for_each(|number| drop(tasks.spawn(streams::watch(lane(number)))));
                creators.push(Ender(tokio::spawn(streams::create(lane(connection)))));
            }
            Mode::Cycle | Mode::Create | Mode::Claim | Mode::ClaimNext | Mode::Heartbeat | Mode::Echo => {
                numbers().for_each(|number| drop(tasks.spawn(turns::run(lane(number)))))
            }
        }
    }
    let all = async {
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(|error| CliError::Failed(format!("a client of the load ended early: {error}")))??;
        }
        Ok::<_, CliError>(())
    };
    let late = async {
        shared.window.over.cancelled().await;
        tokio::time::sleep(LAST_ANSWERS).await;
    };
    tokio::select! {
        result = all => result?,
        () = late => tally.lock().failure(|| "calls were not answered within 10 s of the end".to_owned()),
    }
    drop(creators);
    let mut seen = tally.lock();
    Ok(std::mem::replace(&mut *seen, Tally::new()?))
}

/// Aborts a task when dropped.
struct Ender(JoinHandle<()>);

impl Drop for Ender {
    fn drop(&mut self) {
        self.0.abort();
    }
}
