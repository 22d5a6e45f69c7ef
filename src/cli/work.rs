//! `sagad work`: a worker from any program. The protocol is [`crate::client::worker`]'s; here the program is run.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use clap::Args;

use super::{
    args::WorkerArgs,
    context::Context,
    errors::CliError,
    output::notice,
    process::{self, Running},
    text::printable,
};
use crate::client::{
    ClientOptions, LeaseLost, LeaseStatus, Notes, Shutdown, time,
    worker::{self, Handler, Outcome, Task, WorkerOptions},
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
                        Exit code 0 completes the saga, 75 fails it retryably, any other fails it.\n\
                        A first SIGTERM or SIGINT lets running commands end, a second ends them.")]
pub struct WorkArgs {
    #[command(flatten)]
    worker: WorkerArgs,
    /// How many commands at a time.
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
    let handler = CommandHandler {
        program: program.clone(),
        arguments: arguments.to_vec(),
        options: context.options.clone(),
        kill_after: args.worker.kill_after,
    };
    worker::run(context.client.clone(), options, Arc::new(handler), shutdown, notes()).await?;
    Ok(())
}

struct CommandHandler {
    program: String,
    arguments: Vec<String>,
    options: ClientOptions,
    kill_after: Duration,
}

impl Handler for CommandHandler {
    async fn run(&self, task: &Task) -> Outcome {
        let environment = process::environment(&task.saga, &task.lease, &self.options);
        match process::start(&self.program, &self.arguments, environment, &task.saga.payload) {
            Ok(mut running) => self.follow(task, &mut running).await,
            // A worker that can't start the command should not burn the saga: another one may have it installed.
            Err(error) => failed(format!("could not run {}: {error}", self.program), true),
        }
    }
}

impl CommandHandler {
    async fn follow(&self, task: &Task, running: &mut Running) -> Outcome {
        let ending = tokio::select! {
            // A command that has ended has an outcome, whatever else happened at the same time.
            biased;
            ended = running.wait() => {
                return match ended {
                    Ok(status) => outcome(status),
                    Err(error) => failed(format!("could not wait for {}: {error}", self.program), false),
                };
            }
            status = worker::must_stop(&task.lease) => status,
            () = task.kill.cancelled() => {
                running.end(time::now() + self.kill_after).await;
                return Outcome::Released { reason: "the worker was told to end".to_owned() };
            }
        };
        match ending {
            LeaseStatus::Cancelled(reason) => self.cancel(task, running, &reason).await,
            LeaseStatus::Lost(lost) => self.abandon(task, running, lost).await,
            LeaseStatus::Held => failed("stopped for no reason".to_owned(), true),
        }
    }

    /// The lease is still kept while the command ends, but may be lost over it.
    async fn cancel(&self, task: &Task, running: &mut Running, reason: &str) -> Outcome {
        let kill_at = time::now() + self.kill_after;
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
    async fn abandon(&self, task: &Task, running: &mut Running, lost: LeaseLost) -> Outcome {
        running.end(task.lease.deadline().min(time::now() + self.kill_after)).await;
        Outcome::Abandoned(lost)
    }
}

fn failed(reason: String, retryable: bool) -> Outcome {
    Outcome::Failed { reason, retryable, compensations: Vec::new() }
}

fn outcome(status: std::process::ExitStatus) -> Outcome {
    if status.success() {
        Outcome::Completed { result: Bytes::new(), reason: String::new() }
    } else {
        failed(process::describe(status), status.code() == Some(RETRYABLE))
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt, process::ExitStatus};

    use super::*;

    #[test]
    fn exit_codes_are_outcomes() {
        let exited = |code: i32| outcome(ExitStatus::from_raw(code << 8));
        assert!(matches!(exited(0), Outcome::Completed { .. }));
        assert!(matches!(exited(75), Outcome::Failed { retryable: true, .. }));
        assert_eq!(exited(3), failed("exit code 3".to_owned(), false));
        assert_eq!(outcome(ExitStatus::from_raw(9)), failed("killed by signal 9".to_owned(), false));
    }
}
