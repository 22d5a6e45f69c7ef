//! A worker that writes reports into directories; `worker compensate` removes those of sagas that are undone.

use std::{
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sagad::client::{
    Client, HeartbeatOutcome, LeaseKeeper, LeaseLost, LeaseStatus, Note, Notes, ReportRpc as Call, Shutdown,
    WorkerError,
    recovery::{self, CompensationHandler, CompensationResult, CompensationRun, RecoveryOptions},
    time,
    worker::{self, Handler, Task, WorkOutcome, WorkerOptions},
};
use sagad::proto::CompensationSpec;
use sagad_example::{
    Outage, Settings, emit, emit_of,
    report::{self, Order, REMOVE_DIR, Report},
    shutdown,
};
use serde_json::json;
use tokio::task::block_in_place;
use tonic::Code;

/// One compensation is tried so often before a person has to look at it.
const UNDO_ATTEMPTS: i32 = 3;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let undoes = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["compensate"] => true,
        _ => {
            eprintln!("usage: worker [compensate]");
            return ExitCode::from(2);
        }
    };
    let settings = Settings::read();
    let shutdown = shutdown();
    if settings.connect(&shutdown).await {
        emit("ready", json!({}));
    }
    let done = if undoes { compensate(settings, shutdown).await } else { execute(settings, shutdown).await };
    match done {
        Ok(()) => {
            emit("drained", json!({}));
            ExitCode::SUCCESS
        }
        Err(WorkerError::Coordinator(status)) => {
            eprintln!("the coordinator refuses: {status}");
            ExitCode::FAILURE
        }
        Err(error @ WorkerError::CannotStart { .. }) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn execute(settings: Settings, shutdown: Shutdown) -> Result<(), WorkerError> {
    let Settings { client, outage, queues, owner_id, ttl, .. } = settings;
    let options = WorkerOptions { queues, owner_id, ttl, concurrency: 1, drain: false };
    let handler = Reports { client: client.clone(), outage: outage.clone() };
    worker::run(client, options, Arc::new(handler), shutdown, tell("EXECUTE", outage)).await
}

async fn compensate(settings: Settings, shutdown: Shutdown) -> Result<(), WorkerError> {
    let Settings { client, outage, queues, owner_id, ttl, .. } = settings;
    let kinds = vec![REMOVE_DIR.to_owned()];
    let attempts = UNDO_ATTEMPTS;
    let options =
        RecoveryOptions { queues, owner_id, ttl, concurrency: 1, stale: false, drain: false, kinds, attempts };
    recovery::run(client, options, Reports::undo(), shutdown, tell("COMPENSATE", outage)).await
}

/// How the work goes out of its way before its end.
enum Broken {
    /// The work itself failed; retryably, or for good.
    Failed(String, bool),
    /// Somebody asked for it to be cancelled.
    Cancelled(String),
    /// The lease is lost.
    Lost(LeaseLost),
    /// The worker has to end.
    Killed,
}

/// The work, for sagas that are executed.
struct Reports {
    client: Client,
    outage: Arc<Outage>,
}

impl Handler for Reports {
    async fn run(&self, task: &Task) -> WorkOutcome {
        let reporting = tell_of(&task.saga.task_id, &task.lease, self.outage.clone());
        let done = self.write(task).await;
        // From here on the report ends the lease: that is no news.
        reporting.store(true, Ordering::SeqCst);
        let stopped = || emit_of("stopped", &task.saga.task_id, json!({}));
        match done {
            Ok(digest) => WorkOutcome::Completed { result: digest.into(), reason: String::new() },
            Err(Broken::Failed(reason, retryable)) => {
                WorkOutcome::Failed { reason, retryable, compensations: Vec::new() }
            }
            Err(Broken::Cancelled(reason)) => {
                emit_of("cancelled", &task.saga.task_id, json!({"reason": reason}));
                stopped();
                let reason = format!("cancelled: {reason}");
                WorkOutcome::Failed { reason, retryable: false, compensations: Vec::new() }
            }
            // `lost` and `stopped` are told by the note.
            Err(Broken::Lost(lost)) => WorkOutcome::Abandoned(lost),
            Err(Broken::Killed) => WorkOutcome::Released { reason: "the worker was told to end".to_owned() },
        }
    }
}

impl Reports {
    async fn write(&self, task: &Task) -> Result<String, Broken> {
        let task_id = &task.saga.task_id;
        let order = Order::parse(&task.saga.payload).map_err(|why| Broken::Failed(why, false))?;
        self.register(task, &order.directory).await?;
        may_go_on(task)?;
        let mut report = Report::begin(&order.directory, task_id).map_err(|why| Broken::Failed(why, false))?;
        for line in &order.lines {
            pause(task, order.pause).await?;
            obey(line)?;
            // Right before the effect, after all that took time.
            may_go_on(task)?;
            let n = report.write(line).map_err(|error| Broken::Failed(error.to_string(), true))?;
            emit_of("line", task_id, json!({"n": n}));
            task.lease.set_progress(format!("{n}/{}", order.lines.len()).into());
        }
        Ok(report.digest())
    }

    async fn register(&self, task: &Task, directory: &Path) -> Result<(), Broken> {
        may_go_on(task)?;
        let target = directory.display().to_string();
        let reason = "report".to_owned();
        let compensation = CompensationSpec { kind: REMOVE_DIR.to_owned(), target: target.clone(), reason };
        match worker::register(&self.client, &task.lease, vec![compensation]).await {
            Ok(_) => {
                emit_of("registered", &task.saga.task_id, json!({"kind": REMOVE_DIR, "target": target}));
                Ok(())
            }
            Err(status) => {
                may_go_on(task)?;
                let refusal = sagad::client::StatusDetails::from(&status);
                Err(if refusal.judged && refusal.code == Code::Aborted {
                    Broken::Lost(LeaseLost { reason: refusal.reason, message: refusal.message })
                } else {
                    Broken::Failed(format!("compensation not registered: {}", refusal.message), false)
                })
            }
        }
    }
}

/// Asks the lease, which looks at the clock, and whoever runs this worker.
fn may_go_on(task: &Task) -> Result<(), Broken> {
    match task.lease.check() {
        LeaseStatus::Lost(lost) => Err(Broken::Lost(lost)),
        LeaseStatus::Cancelled(reason) => Err(Broken::Cancelled(reason)),
        LeaseStatus::Held if task.kill.is_cancelled() => Err(Broken::Killed),
        LeaseStatus::Held => Ok(()),
    }
}

/// A pause that ends when the work must.
async fn pause(task: &Task, length: Duration) -> Result<(), Broken> {
    tokio::select! {
        () = tokio::time::sleep(length) => {}
        _ = worker::must_stop(&task.lease) => {}
        () = task.kill.cancelled() => {}
    }
    may_go_on(task)
}

/// Lines that are orders, so that a test can have a worker fail or be busy.
fn obey(line: &str) -> Result<(), Broken> {
    let (order, argument) = line.split_once(' ').unwrap_or((line, ""));
    match order {
        "!fail" => Err(Broken::Failed(format!("the line `{line}` says so"), false)),
        "!retry" => Err(Broken::Failed(format!("the line `{line}` says so"), true)),
        "!spin" => {
            let length = Duration::from_millis(argument.parse().unwrap_or(0));
            // What blocks must say so: else it may hold up the task that sends the heartbeats.
            block_in_place(|| {
                let begun = time::now();
                while time::now().since(begun) < length {
                    std::hint::spin_loop();
                }
            });
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The undoing.
struct Directories;

impl Reports {
    fn undo() -> Directories {
        Directories
    }
}

impl CompensationHandler for Directories {
    fn handles(&self, kind: &str) -> bool {
        kind == REMOVE_DIR
    }

    async fn undo(&self, undo: CompensationRun<'_>) -> CompensationResult {
        if let LeaseStatus::Lost(lost) = undo.lease.check() {
            return CompensationResult::Stopped(lost.to_string());
        }
        match block_in_place(|| report::remove(Path::new(&undo.compensation.target), &undo.saga.task_id)) {
            Ok(()) => CompensationResult::Done(String::new()),
            Err(why) => CompensationResult::Failed(why),
        }
    }
}

/// Tells of a lease's heartbeats, until the lease is over. Once the switch that it returns is set, it tells only whether the
/// coordinator answers.
fn tell_of(task_id: &str, lease: &LeaseKeeper, outage: Arc<Outage>) -> Arc<AtomicBool> {
    let (task_id, mut beats, reporting) = (task_id.to_owned(), lease.heartbeats(), Arc::new(AtomicBool::new(false)));
    let is_reporting = reporting.clone();
    tokio::spawn(async move {
        while beats.changed().await.is_ok() {
            let beat = beats.borrow_and_update().clone();
            match &beat {
                Some(HeartbeatOutcome::Accepted(_)) => outage.over(),
                Some(HeartbeatOutcome::Unknown(code)) => outage.waiting(code),
                None => {}
            }
            if is_reporting.load(Ordering::SeqCst) {
                continue;
            }
            match beat {
                Some(HeartbeatOutcome::Accepted(deadline)) => {
                    let left = deadline.since(time::now()).as_millis();
                    emit_of("heartbeat", &task_id, json!({"expire_in_ms": u64::try_from(left).unwrap_or(u64::MAX)}));
                }
                Some(HeartbeatOutcome::Unknown(code)) => emit_of("heartbeat_unknown", &task_id, json!({"code": code})),
                None => {}
            }
        }
    });
    reporting
}

/// The library's notes as events.
fn tell(purpose: &'static str, outage: Arc<Outage>) -> Notes {
    Arc::new(move |note| match note {
        Note::Claimed { task_id, attempt, fencing_token, .. } => {
            let fields = json!({"fencing_token": fencing_token, "attempt": attempt, "purpose": purpose});
            emit_of("claimed", &task_id, fields);
        }
        Note::Finished { task_id, report, state, .. } => {
            let event = match report {
                Call::Complete => "completed",
                Call::Fail => "failed",
                Call::Release => "released",
                Call::Quarantine => "quarantined",
                Call::RecordCompensation => "settled",
                Call::Compensate => "compensated",
            };
            outage.over();
            emit_of(event, &task_id, json!({"state": state.as_str_name()}));
        }
        Note::Lost { task_id, lost } => {
            emit_of("lost", &task_id, json!({"reason": lost.reason}));
            emit_of("stopped", &task_id, json!({}));
        }
        Note::NotReported { task_id, report, refusal, message, .. } => {
            emit_of("refused", &task_id, json!({"call": report.rpc(), "reason": refusal, "message": message}));
        }
        Note::Compensation { task_id, position, error, .. } => {
            let outcome = if error.is_none() { "DONE" } else { "FAILED" };
            emit_of("settled", &task_id, json!({"position": position, "outcome": outcome}));
        }
        Note::Unreachable { reason } => outage.waiting(&reason),
        Note::Reachable => outage.over(),
        Note::Skipped { .. } => eprintln!("{note}"),
    })
}
