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

use super::{
    args::{Mode, Plan},
    keep_alive,
    load_client::{LoadClient, RunState},
    session,
    totals::BenchTotals,
    unary_client, watch,
};
use crate::{cli::errors::CliError, client::Client};

/// How long calls in flight at the end may take.
const LAST_ANSWERS: Duration = Duration::from_secs(10);

/// The running load.
pub struct Load {
    ended: Vec<oneshot::Receiver<Result<BenchTotals, CliError>>>,
}

impl Load {
    /// Starts the threads. They end with the window.
    pub fn start(shared: &Arc<RunState>) -> Result<Self, CliError> {
        let threads = shared.plan.threads;
        let start = |thread| on_a_thread(format!("bench-load-{thread}"), clients(shared.clone(), thread));
        Ok(Load { ended: (0..threads).map(start).collect::<Result<_, _>>()? })
    }

    /// How many clients report that they are ready.
    pub fn parties(plan: &Plan) -> u32 {
        if matches!(plan.args.mode, Mode::Keepalive | Mode::Session) { plan.connections } else { plan.clients }
    }

    /// The totals of all threads, once they have ended.
    pub async fn end(self) -> Result<BenchTotals, CliError> {
        let mut all = BenchTotals::default();
        future::try_join_all(self.ended.into_iter().map(ended)).await?.into_iter().for_each(|totals| all.add(totals));
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
async fn clients(shared: Arc<RunState>, thread: u32) -> Result<BenchTotals, CliError> {
    let plan = &shared.plan;
    let totals = Arc::<Mutex<BenchTotals>>::default();
    let mut tasks: JoinSet<Result<(), CliError>> = JoinSet::new();
    let mut creators = Vec::new();
    for connection in (thread..plan.connections).step_by(plan.threads as usize) {
        let client = Client::connect(&shared.options).map_err(|e| CliError::Usage(e.to_string()))?;
        let load_client =
            |number| LoadClient { number, client: client.clone(), totals: totals.clone(), shared: shared.clone() };
        let numbers = || (connection..plan.clients).step_by(plan.connections as usize);
        match plan.args.mode {
            Mode::Keepalive => {
                let in_flight = numbers().count();
                tasks.spawn(keep_alive::heartbeats(load_client(connection), in_flight));
            }
            Mode::Session => {
                let in_flight = numbers().count();
                tasks.spawn(session::cycles(load_client(connection), in_flight));
            }
            Mode::Watch => {
                numbers().for_each(|number| drop(tasks.spawn(watch::watch(load_client(number)))));
                creators.push(AbortOnDrop(tokio::spawn(watch::create(load_client(connection)))));
            }
            Mode::Cycle | Mode::Create | Mode::Claim | Mode::ClaimNext | Mode::Heartbeat | Mode::Echo => {
                numbers().for_each(|number| drop(tasks.spawn(unary_client::run(load_client(number)))))
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
        () = late => totals.lock().failure(|| "calls were not answered within 10 s of the end".to_owned()),
    }
    drop(creators);
    let totals = std::mem::take(&mut *totals.lock());
    Ok(totals)
}

/// Aborts a task when dropped.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
