//! The load: current-thread runtimes, each on a thread of its own, connections dealt among the threads and clients among the
//! connections. One multi-threaded runtime measures itself rather than the daemon.

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

/// How long calls that are in flight at the end may take to come back.
const LAST_ANSWERS: Duration = Duration::from_secs(10);

/// What the threads of a run share.
pub struct Shared {
    /// What is to be done.
    pub plan: Plan,
    /// Where.
    pub options: ClientOptions,
    /// The sagas that are there for it.
    pub stock: Stock,
    /// When it is measured.
    pub window: Window,
}

/// One of the clients: a connection, which it may share, and where it records.
#[derive(Clone)]
pub struct Lane {
    /// Its number in the run.
    pub number: u32,
    /// Its connection.
    pub client: Client,
    /// What its thread records.
    pub tally: Arc<Mutex<Tally>>,
    /// What all share.
    pub shared: Arc<Shared>,
}

impl Lane {
    /// Who claims.
    pub fn owner(&self) -> String {
        format!("bench-{}", self.number)
    }

    /// What is sent with a change as its `request_id`: a fresh one, or none if none were asked for.
    pub fn request_id(&self) -> String {
        if self.shared.plan.request_ids { Uuid::new_v4().to_string() } else { String::new() }
    }
}

/// The running load.
pub struct Load {
    ended: Vec<oneshot::Receiver<Result<Tally, CliError>>>,
}

impl Load {
    /// Starts the threads. The window says when they end.
    pub fn start(shared: &Arc<Shared>) -> Result<Self, CliError> {
        let threads = shared.plan.threads;
        let start = |thread| on_a_thread(format!("bench-load-{thread}"), clients(shared.clone(), thread));
        Ok(Load { ended: (0..threads).map(start).collect::<Result<_, _>>()? })
    }

    /// How many say that they are ready.
    pub fn parties(plan: &Plan) -> u32 {
        if matches!(plan.mode, Mode::Keepalive | Mode::Session) { plan.connections } else { plan.clients }
    }

    /// What all of them saw, once they have ended.
    pub async fn end(self) -> Result<Tally, CliError> {
        let mut all = Tally::new()?;
        for tally in future::try_join_all(self.ended.into_iter().map(ended)).await? {
            all.add(&tally)?;
        }
        Ok(all)
    }
}

/// Runs a future on a thread and a runtime of its own.
pub fn on_a_thread<T: Send + 'static>(
    name: String,
    work: impl Future<Output = Result<T, CliError>> + Send + 'static,
) -> Result<oneshot::Receiver<Result<T, CliError>>, CliError> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (done, ended) = oneshot::channel();
    thread::Builder::new().name(name).spawn(move || {
        let result = runtime.block_on(work);
        // Who started it may have given up.
        done.send(result).ok();
    })?;
    Ok(ended)
}

/// The result of such a thread.
pub async fn ended<T>(thread: oneshot::Receiver<Result<T, CliError>>) -> Result<T, CliError> {
    let gone = |_| CliError::Failed("a thread of the load ended early".to_owned());
    thread.await.map_err(gone)?
}

/// All that one thread does.
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

/// Ends a task that nobody waits for.
struct Ender(JoinHandle<()>);

impl Drop for Ender {
    fn drop(&mut self) {
        self.0.abort();
    }
}
