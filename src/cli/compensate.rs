//! `sagad compensate`: a recovery worker from shell commands. The protocol is [`crate::client::recovery`]'s; here the
//! commands are run.

use std::{collections::BTreeMap, time::Duration};

use clap::Args;

use super::{
    args::{self, WorkerArgs},
    context::Context,
    errors::CliError,
    output::notice,
    process, work,
};
use crate::client::{
    ClientOptions, Shutdown,
    recovery::{self, CompensationHandler, RecoveryOptions, Undo, Undone},
    time, worker,
};

/// What `compensate` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sagad compensate --queue builds --stale \\\n    \
                        --handler branch='git push origin --delete \"$SAGAD_TARGET\"' \\\n    \
                        --handler worktree='git worktree remove --force \"$SAGAD_TARGET\"'\n  \
                        sagad compensate --queue builds --handler branch=./delete-branch.sh --drain\n\n\
                        A handler is run with sh -c and finds what to undo in SAGAD_KIND, SAGAD_TARGET and\n\
                        SAGAD_REASON, and its saga where `sagad work` has it. It may be run more than once, so it\n\
                        must succeed when there is nothing left to undo. Exit code 0: done, any other: failed.")]
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
    /// After so many failures of one compensation its saga is quarantined.
    #[arg(long, default_value_t = 3, value_name = "COUNT", value_parser = args::count)]
    attempts: i32,
    /// How many sagas at a time; with --stale, as many stale ones on top.
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    concurrency: u16,
}

/// Recovers until told to stop, or until there is nothing left.
pub async fn run(context: &Context, args: CompensateArgs) -> Result<(), CliError> {
    let mut commands = BTreeMap::new();
    for (kind, command) in args.handlers {
        if commands.insert(kind.clone(), command).is_some() {
            return Err(CliError::Usage(format!("two handlers for kind `{kind}`")));
        }
    }
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

    async fn undo(&self, undo: Undo<'_>) -> Undone {
        let Undo { saga, compensation, lease, kill } = undo;
        let Some(command) = self.commands.get(&compensation.kind) else {
            return Undone::Failed(format!("no handler for kind `{}`", compensation.kind));
        };
        let mut environment = process::environment(saga, lease, &self.options);
        environment.extend([
            ("SAGAD_KIND", compensation.kind.clone().into()),
            ("SAGAD_TARGET", compensation.target.clone().into()),
            ("SAGAD_REASON", compensation.reason.clone().into()),
            ("SAGAD_POSITION", compensation.position.to_string().into()),
        ]);
        let arguments = ["-c".to_owned(), command.clone()];
        let mut running = match process::start("sh", &arguments, environment, &saga.payload) {
            Ok(running) => running,
            Err(error) => return Undone::Failed(format!("could not run sh: {error}")),
        };
        tokio::select! {
            biased;
            ended = running.wait() => match ended {
                Ok(status) if status.success() => Undone::Done(String::new()),
                Ok(status) => Undone::Failed(process::describe(status)),
                Err(error) => Undone::Failed(format!("could not wait for sh: {error}")),
            },
            lost = worker::lost(lease) => {
                running.end(lease.deadline().min(time::now() + self.kill_after)).await;
                Undone::Stopped(lost.to_string())
            }
            () = kill.cancelled() => {
                running.end(time::now() + self.kill_after).await;
                Undone::Stopped("the worker was told to end".to_owned())
            }
        }
    }
}
