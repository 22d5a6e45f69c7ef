//! `sagad work`: a worker from any program. The protocol is [`crate::client::worker`]'s; here the program is run.

use std::sync::Arc;

use bytes::Bytes;
use clap::Args;

use super::{
    args::WorkerArgs,
    context::Context,
    errors::CliError,
    output::notice,
    program,
    progress::ProgressFile,
    running_command::{self, CommandExit, CommandLine, RunningCommand},
    text::printable,
};
use crate::client::{
    ClientOptions, LeaseLost, LeaseStatus, Notes, Shutdown, convert,
    time::{self, Moment},
    worker::{self, Handler, Task, WorkOutcome, WorkerOptions},
};

/// The exit code by which a command says that another try may succeed: `EX_TEMPFAIL` of sysexits.h.
const RETRYABLE: i32 = 75;

/// What `work` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sagad work --queue builds -- ./build.sh\n  \
                        sagad work --queue builds --concurrency 4 --ttl 1m -- sh -c 'make -C \"$SAGAD_WORKTREE\"'\n  \
                        sagad work --queue nightly --drain -- ./nightly.sh\n\n\
                        The command finds its saga in SAGAD_TASK_ID, SAGAD_SAGA_ID, SAGAD_ISSUE, SAGAD_BRANCH,\n\
                        SAGAD_WORKTREE, SAGAD_PAYLOAD_FILE, SAGAD_OWNER, SAGAD_TOKEN and SAGAD_SERVER, and the\n\
                        files of the global options in SAGAD_CA, SAGAD_CERT, SAGAD_KEY and SAGAD_TOKEN_FILE.\n\
                        SAGAD_PROGRESS_FILE holds the progress of the attempt before; what the command writes\n\
                        there, up to 64 KiB, is sent with heartbeats and with the outcome.\n\n\
                        Exit code 0 completes the saga. 75 is a failure that another try may mend: it is tried again\n\
                        as the saga's policy says. Any other is a failure for good: where compensations are\n\
                        registered the saga fails or is compensated, as its policy says; where none is, it is\n\
                        quarantined. A command that can't be started costs the saga nothing.\n\n\
                        When the command has ended, processes that it leaves running in its group are ended, by\n\
                        TERM and after --kill-after by KILL, before its outcome is reported. The group ends also\n\
                        when the worker dies, and when its lease runs out.\n\n\
                        A first SIGTERM, SIGINT, SIGHUP or SIGQUIT lets running commands end, a second ends them.")]
pub struct WorkArgs {
    #[command(flatten)]
    worker: WorkerArgs,
    /// How many commands run at a time.
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    concurrency: u16,
    /// End when the queue is empty.
    #[arg(long)]
    drain: bool,
    /// The command, and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Notes of a worker on stderr, a line each.
pub fn notes() -> Notes {
    Arc::new(|note| notice(&printable(&note.to_string())))
}

/// Works until told to stop, or until the queue is empty.
pub async fn run(context: &Context, args: WorkArgs) -> Result<(), CliError> {
    let shutdown = Shutdown::on_signals(notice)?;
    let options = WorkerOptions {
        owner_id: args.worker.owner(&context.options),
        queues: args.worker.queues,
        ttl: args.worker.ttl,
        concurrency: usize::from(args.concurrency),
        drain: args.drain,
    };
    let (program, arguments) = args.command.split_first().ok_or_else(|| CliError::Usage("no command".to_owned()))?;
    program::find(program).map_err(CliError::Usage)?;
    running_command::can_make_files().map_err(CliError::Failed)?;
    let command = CommandLine {
        program: program.into(),
        arguments: arguments.iter().map(Into::into).collect(),
        kill_after: args.worker.kill_after,
    };
    let handler = CommandHandler { command, options: context.options.clone() };
    worker::run(context.client.clone(), options, Arc::new(handler), shutdown, notes()).await?;
    Ok(())
}

struct CommandHandler {
    command: CommandLine,
    options: ClientOptions,
}

impl Handler for CommandHandler {
    async fn run(&self, task: &Task) -> WorkOutcome {
        let environment = running_command::environment(&task.saga, &task.lease, &self.options);
        if let Some(reason) = running_command::unpassable(&environment) {
            // It is the saga's fault, and stays so whoever tries.
            return failed(reason, false);
        }
        let started = running_command::start(&self.command, environment, &task.saga, task.lease.deadlines());
        match started.await {
            Ok(mut running) => {
                let mut progress = ProgressFile::new(running.progress_file(), task.saga.progress.clone());
                let interval = task.saga.lease.as_ref().and_then(|lease| lease.heartbeat_interval.as_ref());
                let interval = interval.map(convert::from_proto).unwrap_or_default();
                let outcome = tokio::select! {
                    biased;
                    outcome = self.follow(task, &mut running) => outcome,
                    never = progress.follow(&task.lease, interval) => match never {},
                };
                // What it wrote last goes with the report.
                progress.check(&task.lease).await;
                outcome
            }
            // The saga had no part in it: another worker may have what is missing here.
            Err(reason) => WorkOutcome::NotStarted { reason },
        }
    }
}

impl CommandHandler {
    async fn follow(&self, task: &Task, running: &mut RunningCommand) -> WorkOutcome {
        let ending = tokio::select! {
            // A command that has ended has an outcome, whatever else happened at the same time.
            biased;
            ended = running.wait() => return outcome(task, ended),
            status = worker::must_stop(&task.lease) => status,
            () = task.kill.cancelled() => {
                running.end(self.kill_at()).await.ok();
                return WorkOutcome::Released { reason: "the worker was told to end".to_owned() };
            }
        };
        match ending {
            LeaseStatus::Cancelled(reason) => self.cancel(task, running, &reason).await,
            LeaseStatus::Lost(lost) => self.abandon(task, running, lost).await,
            LeaseStatus::Held => failed("stopped for no reason".to_owned(), true),
        }
    }

    fn kill_at(&self) -> Moment {
        time::now() + self.command.kill_after
    }

    /// The lease is still kept while the command ends, but may be lost over it.
    async fn cancel(&self, task: &Task, running: &mut RunningCommand, reason: &str) -> WorkOutcome {
        let kill_at = self.kill_at();
        let lost = tokio::select! {
            biased;
            _ = running.end(kill_at) => None,
            lost = worker::lost(&task.lease) => Some(lost),
        };
        match lost {
            None => failed(format!("cancelled: {reason}"), false),
            Some(lost) => self.abandon(task, running, lost).await,
        }
    }

    /// From its deadline on the saga may be another worker's, so the command gets no time beyond it.
    async fn abandon(&self, task: &Task, running: &mut RunningCommand, lost: LeaseLost) -> WorkOutcome {
        running.end(task.lease.deadline().min(self.kill_at())).await.ok();
        WorkOutcome::Abandoned(lost)
    }
}

fn failed(reason: String, retryable: bool) -> WorkOutcome {
    WorkOutcome::Failed { reason, retryable, compensations: Vec::new() }
}

fn outcome(task: &Task, ended: Result<CommandExit, String>) -> WorkOutcome {
    let ended = match ended {
        Ok(ended) => ended,
        // Nobody knows how far the command was.
        Err(reason) => return failed(reason, true),
    };
    if ended.leftovers {
        notice(&format!("{} left processes running, which were ended", printable(&task.saga.task_id)));
    }
    if ended.by_deadline {
        return match task.lease.check() {
            LeaseStatus::Lost(lost) => WorkOutcome::Abandoned(lost),
            // A heartbeat was accepted in the very moment in which the command was killed.
            LeaseStatus::Held | LeaseStatus::Cancelled(_) => {
                WorkOutcome::Released { reason: "the command was ended at the deadline of its lease".to_owned() }
            }
        };
    }
    of_status(ended.status)
}

fn of_status(status: std::process::ExitStatus) -> WorkOutcome {
    if status.success() {
        WorkOutcome::Completed { result: Bytes::new(), reason: String::new() }
    } else {
        failed(running_command::describe(status), status.code() == Some(RETRYABLE))
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt, process::ExitStatus};

    use super::*;

    #[test]
    fn exit_codes_map_to_outcomes() {
        let exited = |code: i32| of_status(ExitStatus::from_raw(code << 8));
        assert!(matches!(exited(0), WorkOutcome::Completed { .. }));
        assert!(matches!(exited(75), WorkOutcome::Failed { retryable: true, .. }));
        assert_eq!(exited(3), failed("exit code 3".to_owned(), false));
        assert_eq!(of_status(ExitStatus::from_raw(9)), failed("killed by signal 9".to_owned(), false));
    }
}
