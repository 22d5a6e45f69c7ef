//! All commands of the binary, in one table.
//!
//! A row of the table is a subcommand: its help, its name, its arguments, its kind, and what it does:
//!
//! ```text
//! /// HELP
//! NAME(ARGUMENTS) KIND { WORK }
//! ```
//!
//! The kind is a [`CommandKind`]. The work is one of these:
//!
//! | work | meaning |
//! |---|---|
//! | `call RPC` | one call of `SagaService` that changes one saga. `ARGUMENTS::request` makes the request, with a `request_id` to repeat it by; the saga in the answer is printed |
//! | `FUNCTION(context)` | an `async` function of a [`Context`], which is the connection to the coordinator, and the arguments |
//! | `FUNCTION(global)` | the same of the global options and the [`Output`]: the function decides where to connect |
//! | `FUNCTION(output)` | a function of the [`Output`] and the arguments, without a coordinator |
//! | `FUNCTION(definition)` | a function of the arguments and the definition of the whole command line |

use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};

use super::{
    admin, bench, compensate, config,
    context::Context,
    create, docs, doctor,
    errors::CliError,
    global_args::GlobalArgs,
    health, lease, look, notices, operate,
    output::{CommandKind, Output},
    store, token, top, watch, work,
};
use crate::config::ServeArgs;

/// A lease coordinator for long-running work that leaves things behind.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage, 3 refused by a rule (a held lease, a terminal saga) or for
/// lack of a role, 4 not found, 5 unreachable.
#[derive(Debug, Parser)]
#[command(
    name = "sagad",
    version,
    after_help = "Examples:\n  sagad create --queue builds --branch fix-7 --compensate branch=fix-7\n  \
                  sagad work --queue builds -- ./build.sh\n  sagad list --in-flight\n  sagad watch --stale"
)]
pub struct Cli {
    #[command(flatten)]
    pub global: GlobalArgs,
    #[command(subcommand)]
    pub command: Command,
}

/// The commands: the daemon itself, and its clients.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the coordinator.
    #[command(after_help = "Examples:\n  sagad serve\n  sagad serve --listen 127.0.0.1:0 --data /var/lib/sagad\n  \
                            sagad serve --config /etc/sagad/sagad.toml --log-format json\n\n\
                            Every setting is a flag, a variable (SAGAD_ and the flag's name: SAGAD_RESTART_GRACE) and a\n\
                            key of the TOML file (restart_grace = \"10s\"). The flag wins over the variable, the\n\
                            variable over the file. `sagad config` checks and shows what comes of it.")]
    Serve(Box<ServeArgs>),
    /// A client of the API.
    #[command(flatten)]
    Client(ClientCommand),
}

/// Makes the enum of the commands and its dispatch from the table.
macro_rules! commands {
    ($($(#[$help:meta])* $name:ident($arguments:ty) $kind:ident $work:tt)*) => {
        /// The commands other than `serve`.
        #[derive(Debug, Subcommand)]
        pub enum ClientCommand {
            $($(#[$help])* $name(Box<$arguments>),)*
        }

        impl ClientCommand {
            /// What the command is for, which decides how it ends if its output can't be written.
            pub fn kind(&self) -> CommandKind {
                match self {
                    $(ClientCommand::$name(_) => CommandKind::$kind,)*
                }
            }

            /// Runs the command.
            pub async fn run(self, global: &GlobalArgs, output: &Output) -> Result<(), CliError> {
                match self {
                    $(ClientCommand::$name(args) => work!(*args, global, output, $work),)*
                }
            }
        }
    };
}

/// The work of one row.
macro_rules! work {
    ($args:expr, $global:ident, $output:ident, { call $rpc:ident }) => {{
        let context = Context::new($global.options(), $output.clone())?;
        let request = $args.request()?;
        let id = request.request_id.clone();
        let call = context.change(&id, request, |mut client, request| async move { client.$rpc(request).await });
        context.saga(call.await?.saga)
    }};
    ($args:expr, $global:ident, $output:ident, { $module:ident::$function:ident(context) }) => {
        $module::$function(&Context::new($global.options(), $output.clone())?, $args).await
    };
    ($args:expr, $global:ident, $output:ident, { $module:ident::$function:ident(global) }) => {
        $module::$function($global, $output, $args).await
    };
    ($args:expr, $global:ident, $output:ident, { $module:ident::$function:ident(output) }) => {
        $module::$function($output, &$args)
    };
    ($args:expr, $global:ident, $output:ident, { $module:ident::$function:ident(definition) }) => {
        $module::$function(&$args, Cli::command())
    };
}

commands! {
    /// Create a saga, or many from a file.
    Create(create::CreateArgs) Change { create::run(context) }
    /// Show one saga.
    Get(look::GetArgs) Query { look::get(context) }
    /// List sagas.
    List(look::ListArgs) Query { look::list(context) }
    /// Show what happened to a saga.
    History(look::HistoryArgs) Query { look::history(context) }
    /// Count sagas by queue and state.
    Stats(look::StatsArgs) Query { look::stats(context) }
    /// Follow stale sagas, or all events.
    Watch(watch::WatchArgs) Query { watch::run(context) }
    /// Run a command for each saga of a queue.
    Work(work::WorkArgs) Change { work::run(context) }
    /// Undo what sagas left behind, with a command for each kind of compensation.
    Compensate(compensate::CompensateArgs) Change { compensate::run(context) }
    /// Take one saga under a lease.
    Claim(lease::ClaimArgs) Change { call claim }
    /// Take the next sagas of a queue under leases.
    ClaimNext(lease::ClaimNextArgs) Change { lease::claim_next(context) }
    /// Extend a lease.
    Heartbeat(lease::HeartbeatArgs) Change { lease::heartbeat(context) }
    /// Give a lease back.
    Release(lease::ReleaseArgs) Change { call release }
    /// Report a saga as done.
    Complete(lease::CompleteArgs) Change { call complete }
    /// Report a saga as failed.
    Fail(lease::FailArgs) Change { call fail }
    /// Register how to undo an effect, before the effect.
    RegisterCompensation(lease::RegisterArgs) Change { call register_compensation }
    /// Record the outcome of one compensation.
    RecordCompensation(lease::RecordArgs) Change { call record_compensation }
    // The rpc's name is that of the recovery worker.
    /// Finish a compensating saga whose compensations are all done or waived.
    Compensated(lease::CompensatedArgs) Change { call compensate }
    /// Reserve a saga for one worker.
    Dispatch(operate::DispatchArgs) Change { call dispatch }
    /// Decide on a stale saga.
    Recover(operate::RecoverArgs) Change { call recover }
    /// Declare that a compensation is not needed.
    Waive(operate::WaiveArgs) Change { call waive_compensation }
    /// Park a saga for a person.
    Quarantine(operate::QuarantineArgs) Change { call quarantine }
    /// Ask for a saga to be cancelled.
    Cancel(operate::CancelArgs) Change { call request_cancel }
    /// End the leases, streams and waiting calls of a principal.
    Revoke(operate::RevokeArgs) Change { operate::revoke(context) }
    /// Add a note to a saga, or amend its reason.
    Annotate(operate::AnnotateArgs) Change { call annotate }
    /// List queues.
    Queues(admin::QueuesArgs) Query { admin::queues(context) }
    /// Stop handing out a queue's sagas by claim-next.
    Pause(admin::PauseArgs) Change { admin::pause(context) }
    /// Hand out a paused queue's sagas again.
    Resume(admin::ResumeArgs) Change { admin::resume(context) }
    /// Remove old terminal sagas.
    Purge(admin::PurgeArgs) Change { admin::purge(context) }
    /// Write a consistent copy of the running store to a file.
    Backup(store::BackupArgs) Change { store::backup(context) }
    /// Make a new store from a copy.
    Restore(store::RestoreArgs) Change { store::restore(output) }
    /// Verify a store that no daemon is running on.
    Check(store::CheckArgs) Check { store::check(output) }
    /// Shrink a store that no daemon is running on.
    Vacuum(store::VacuumArgs) Change { store::vacuum(output) }
    // A change: it prints a secret that exists nowhere else.
    /// Make a token for a principal, and the entry with its hash.
    Token(token::TokenArgs) Change { token::run(output) }
    /// Check or show the coordinator's configuration, or print its defaults.
    Config(config::ConfigArgs) Check { config::run(output) }
    /// Watch queues, leases and stale sagas live, and act on them.
    Top(top::TopArgs) Query { top::run(context) }
    /// Find what is wrong with a running server and its sagas, and say what to do.
    Doctor(doctor::DoctorArgs) Check { doctor::run(context) }
    // A change: it creates sagas, also on a daemon that others use.
    /// Measure how fast a daemon is under load.
    Bench(bench::BenchArgs) Change { bench::run(global) }
    /// Show the server's version, clock and bounds.
    Info(admin::InfoArgs) Query { admin::info(context) }
    /// Ask whether the server is serving.
    Health(health::HealthArgs) Check { health::run(context) }
    /// Print a completion script for a shell.
    Completions(docs::CompletionsArgs) Query { docs::completions(definition) }
    /// Print the manual page.
    Man(docs::ManArgs) Query { docs::man(definition) }
}

impl ClientCommand {
    /// How long the end of the command may wait until its messages are read. No limit, except for the workers: a service
    /// manager that tells a worker to end would kill it, or hold up a shutdown, if it waited longer.
    pub fn last_wait(&self) -> Option<Duration> {
        matches!(self, ClientCommand::Work(_) | ClientCommand::Compensate(_)).then_some(notices::LAST_WAIT)
    }
}
