//! `sagad compensate`: a recovery worker from shell commands. The protocol is [`crate::client::recovery`]'s; here the
//! commands are run.

use std::{collections::BTreeMap, time::Duration};

use clap::Args;

use super::{
    args::{self, WorkerArgs},
    context::Context,
    errors::CliError,
    output::notice,
    program,
    running_command::{self, CommandExit, CommandLine},
    work,
};
use crate::client::{
    ClientOptions, Shutdown,
    recovery::{self, CompensationHandler, CompensationResult, CompensationRun, RecoveryOptions},
    time, worker,
};

/// What runs the handlers.
const SHELL: &str = "sh";

/// What `compensate` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sagad compensate --queue builds --stale \\\n    \
                        --handler branch='git push origin --delete \"$SAGAD_TARGET\"' \\\n    \
                        --handler worktree='git worktree remove --force \"$SAGAD_TARGET\"'\n  \
                        sagad compensate --queue builds --handler branch=./delete-branch.sh --drain\n\n\
                        A handler is run with sh -c and finds what to undo in SAGAD_KIND, SAGAD_TARGET and\n\
                        SAGAD_REASON, and its saga where `sagad work` has it. It may be run more than once, so it\n\
                        must succeed when there is nothing left to undo. Anybody who may hold the saga can\n\
                        choose the target: check that it is one of yours. Exit code 0: done, any other: failed.\n\
                        A handler that can't be started does not count as an attempt. When a handler has ended,\n\
                        processes that it leaves running in its group are ended before its outcome is recorded.")]
pub struct CompensateArgs {
    #[command(flatten)]
    worker: WorkerArgs,
    /// The shell command that undoes compensations of a kind; repeatable.
    #[arg(long = "handler", value_name = "KIND=COMMAND", value_parser = args::kind_target)]
    handlers: Vec<(String, String)>,
    /// Compensate running sagas whose lease ran out as well.
    #[arg(long)]
    stale: bool,
    /// End when there is nothing left to compensate.
    #[arg(long)]
    drain: bool,
    /// After how many failures of one compensation its saga is quarantined.
    #[arg(long, default_value_t = 3, value_name = "COUNT", value_parser = args::count)]
    attempts: i32,
    /// How many sagas at a time; with --stale, the same number of stale sagas in addition.
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    concurrency: u16,
}

/// Recovers until told to stop, or until there is nothing left.
pub async fn run(context: &Context, args: CompensateArgs) -> Result<(), CliError> {
    let mut commands = BTreeMap::new();
    for (kind, command) in args.handlers {
        if commands.insert(kind.clone(), command).is_some() {
            return Err(CliError::Usage(format!("there are two handlers for the kind `{kind}`")));
        }
    }
    program::find(SHELL).map_err(CliError::Usage)?;
    running_command::can_make_files().map_err(CliError::Failed)?;
    let shutdown = Shutdown::on_signals(notice)?;
    let options = RecoveryOptions {
        owner_id: args.worker.owner(&context.options),
        queues: args.worker.queues,
        ttl: args.worker.ttl,
        concurrency: usize::from(args.concurrency),
        stale: args.stale,
        drain: args.drain,
        kinds: Vec::new(),
        attempts: args.attempts,
    };
    let handler = Commands { commands, options: context.options.clone(), kill_after: args.worker.kill_after };
    recovery::run(context.client.clone(), options, handler, shutdown, work::notes()).await?;
    Ok(())
}

struct Commands {
    commands: BTreeMap<String, String>,
    options: ClientOptions,
    kill_after: Duration,
}

impl CompensationHandler for Commands {
    fn handles(&self, kind: &str) -> bool {
        self.commands.contains_key(kind)
    }

    async fn undo(&self, undo: CompensationRun<'_>) -> CompensationResult {
        let CompensationRun { saga, compensation, lease, kill } = undo;
        let Some(command) = self.commands.get(&compensation.kind) else {
            return CompensationResult::Failed(format!("no handler for kind `{}`", compensation.kind));
        };
        let mut environment = running_command::environment(saga, lease, &self.options);
        environment.extend([
            ("SAGAD_KIND", compensation.kind.clone().into()),
            ("SAGAD_TARGET", compensation.target.clone().into()),
            ("SAGAD_REASON", compensation.reason.clone().into()),
            ("SAGAD_POSITION", compensation.position.to_string().into()),
        ]);
        if let Some(reason) = running_command::unpassable(&environment) {
            return CompensationResult::Failed(reason);
        }
        let command = CommandLine {
            program: SHELL.into(),
            arguments: vec!["-c".into(), command.into()],
            kill_after: self.kill_after,
        };
        let mut running = match running_command::start(&command, environment, saga, lease.deadlines()).await {
            Ok(running) => running,
            // The compensation had no part in it, so it does not count as an attempt.
            Err(reason) => return CompensationResult::NotStarted(reason),
        };
        tokio::select! {
            biased;
            ended = running.wait() => undone(ended),
            lost = worker::lost(lease) => {
                running.end(lease.deadline().min(time::now() + self.kill_after)).await.ok();
                CompensationResult::Stopped(lost.to_string())
            }
            () = kill.cancelled() => {
                running.end(time::now() + self.kill_after).await.ok();
                CompensationResult::Stopped("the worker was told to end".to_owned())
            }
        }
    }
}

fn undone(ended: Result<CommandExit, String>) -> CompensationResult {
    match ended {
        Ok(ended) if ended.by_deadline => {
            CompensationResult::Stopped("it was ended at the deadline of its lease".to_owned())
        }
        Ok(ended) if ended.status.success() => CompensationResult::Done(String::new()),
        Ok(ended) => CompensationResult::Failed(running_command::describe(ended.status)),
        Err(reason) => CompensationResult::Failed(reason),
    }
}
