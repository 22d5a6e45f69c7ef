//! The commands of the binary that are clients of the API, a file for each or for a tight group: what is on the
//! command line, where each command goes, and how the process ends.

mod actor;
mod admin;
mod advice;
mod args;
mod bench;
mod compensate;
mod config;
mod context;
mod create;
mod docs;
mod doctor;
pub mod errors;
mod format;
mod health;
mod import;
mod json;
mod lease;
mod look;
mod notices;
mod operate;
mod output;
mod paused;
mod process;
mod program;
mod progress;
#[cfg(test)]
mod properties;
mod store;
mod supervise;
mod tables;
mod text;
mod token;
mod top;
mod watch;
mod work;

use std::{env, ffi::OsString, path::PathBuf, process::ExitCode, time::Duration};

use clap::{
    CommandFactory, FromArgMatches, Parser, Subcommand, builder::Resettable, error::ErrorKind, parser::ValueSource,
};

use crate::{
    client::{ClientOptions, connect::DEFAULT_SERVER},
    config::ServeArgs,
    domain::characters,
};
use context::Context;
use errors::CliError;
use output::{CommandKind, Format, Output, OutputArg};

/// A line of `create --from`, for the fuzzer: with the feature `fuzzing`, which no release has.
#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    /// The request that the line is.
    pub fn line(line: &str) -> Result<crate::proto::CreateSagaRequest, String> {
        super::json::parse(line)
    }

    /// The line that a request would be.
    pub fn rendered(request: &crate::proto::CreateSagaRequest) -> Option<String> {
        super::json::render(request).ok()
    }
}

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
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

/// What every client command takes.
#[derive(Clone, Debug, clap::Args)]
pub struct GlobalArgs {
    /// The coordinator's address: http://HOST:PORT, https://HOST:PORT, or unix:PATH for a socket.
    #[arg(long, global = true, env = "SAGAD_SERVER", default_value = DEFAULT_SERVER, value_name = "URL", help_heading = "Global options")]
    server: String,
    /// Whether that was named on the command line: load is put on nobody's daemon by a variable.
    #[arg(skip)]
    server_named: bool,
    /// File with the CAs that may have signed the coordinator's certificate [default: this machine's].
    #[arg(long, global = true, env = "SAGAD_CA", value_name = "FILE", help_heading = "Global options")]
    ca: Option<PathBuf>,
    /// File with a certificate of one's own, for coordinators that ask for one.
    #[arg(long, global = true, env = "SAGAD_CERT", value_name = "FILE", help_heading = "Global options")]
    cert: Option<PathBuf>,
    /// File with the key of that certificate.
    #[arg(long, global = true, env = "SAGAD_KEY", value_name = "FILE", help_heading = "Global options")]
    key: Option<PathBuf>,
    /// File with a token, for coordinators that want to know who calls.
    #[arg(long, global = true, env = "SAGAD_TOKEN_FILE", value_name = "FILE", help_heading = "Global options")]
    token_file: Option<PathBuf>,
    /// Send the token over http:// to other machines, too.
    #[arg(long, global = true, help_heading = "Global options")]
    insecure_token: bool,
    /// Tables and sentences for people, as wide as the terminal or with all columns, or proto3 JSON, one object a line.
    #[arg(short, long, global = true, value_enum, default_value = "text", help_heading = "Global options")]
    output: OutputArg,
    /// How long one call may take, 1ms to 24h.
    #[arg(long, global = true, default_value = "10s", value_parser = args::timeout, value_name = "DURATION", help_heading = "Global options")]
    timeout: Duration,
}

impl GlobalArgs {
    /// How the coordinator is reached.
    fn options(&self) -> ClientOptions {
        ClientOptions {
            server: self.server.clone(),
            timeout: self.timeout,
            ca: self.ca.clone(),
            cert: self.cert.clone(),
            key: self.key.clone(),
            token_file: self.token_file.clone(),
            insecure_token: self.insecure_token,
        }
    }
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

/// The commands that are clients of the API.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Create a saga, or many from a file.
    Create(Box<create::CreateArgs>),
    /// Show one saga.
    Get(look::GetArgs),
    /// List sagas.
    List(look::ListArgs),
    /// Show what happened to a saga.
    History(look::HistoryArgs),
    /// Count sagas by queue and state.
    Stats(look::StatsArgs),
    /// Follow stale sagas, or all events.
    Watch(watch::WatchArgs),
    /// Run a command for each saga of a queue.
    Work(work::WorkArgs),
    /// Undo what sagas left behind, with a command for each kind of compensation.
    Compensate(compensate::CompensateArgs),
    /// Take one saga under a lease.
    Claim(lease::ClaimArgs),
    /// Take the next sagas of a queue under leases.
    ClaimNext(lease::ClaimNextArgs),
    /// Extend a lease.
    Heartbeat(lease::HeartbeatArgs),
    /// Give a lease back.
    Release(lease::ReleaseArgs),
    /// Report a saga as done.
    Complete(lease::CompleteArgs),
    /// Report a saga as failed.
    Fail(lease::FailArgs),
    /// Register what undoes an effect, before the effect.
    RegisterCompensation(lease::RegisterArgs),
    /// Record the outcome of one compensation.
    RecordCompensation(lease::RecordArgs),
    /// Finish a compensating saga whose compensations are all done or waived.
    Compensated(lease::CompensatedArgs),
    /// Reserve a saga for one worker.
    Dispatch(operate::DispatchArgs),
    /// Decide on a stale saga.
    Recover(operate::RecoverArgs),
    /// Declare a compensation not needed.
    Waive(operate::WaiveArgs),
    /// Park a saga for a person.
    Quarantine(operate::QuarantineArgs),
    /// Ask for a saga to be cancelled.
    Cancel(operate::CancelArgs),
    /// End the leases, streams and waiting calls of a principal.
    Revoke(operate::RevokeArgs),
    /// Add a note to a saga, or amend its reason.
    Annotate(operate::AnnotateArgs),
    /// List queues.
    Queues(admin::QueuesArgs),
    /// Stop handing out a queue's sagas by claim-next.
    Pause(admin::PauseArgs),
    /// Hand out a paused queue's sagas again.
    Resume(admin::ResumeArgs),
    /// Remove old terminal sagas.
    Purge(admin::PurgeArgs),
    /// Write a consistent copy of the running store to a file.
    Backup(store::BackupArgs),
    /// Make a new store from a copy.
    Restore(store::RestoreArgs),
    /// Verify a store that no daemon is running on.
    Check(store::CheckArgs),
    /// Give back the room that a store which is not in use does not need.
    Vacuum(store::VacuumArgs),
    /// Make a token for a principal, and the entry with its hash.
    Token(token::TokenArgs),
    /// Check or show the coordinator's configuration.
    Config(config::ConfigArgs),
    /// Watch queues, leases and stale sagas live, and act on them.
    Top(top::TopArgs),
    /// Say what is wrong with a running server and the work on it, and what to do.
    Doctor(doctor::DoctorArgs),
    /// Measure how fast a daemon is, under load.
    Bench(Box<bench::BenchArgs>),
    /// Show the server's version, clock and bounds.
    Info(admin::InfoArgs),
    /// Ask whether the server is serving.
    Health(health::HealthArgs),
    /// Print a completion script for a shell.
    Completions(docs::CompletionsArgs),
    /// Print the manual page.
    Man(docs::ManArgs),
}

impl ClientCommand {
    /// What it is for: a command that changes something does not stop because nobody reads its output.
    fn kind(&self) -> CommandKind {
        match self {
            ClientCommand::Get(_)
            | ClientCommand::List(_)
            | ClientCommand::History(_)
            | ClientCommand::Stats(_)
            | ClientCommand::Watch(_)
            | ClientCommand::Queues(_)
            | ClientCommand::Top(_)
            | ClientCommand::Info(_)
            | ClientCommand::Completions(_)
            | ClientCommand::Man(_) => CommandKind::Query,
            ClientCommand::Config(args) => args.kind(),
            ClientCommand::Check(_) | ClientCommand::Doctor(_) | ClientCommand::Health(_) => CommandKind::Check,
            ClientCommand::Create(_)
            | ClientCommand::Work(_)
            | ClientCommand::Compensate(_)
            | ClientCommand::Claim(_)
            | ClientCommand::ClaimNext(_)
            | ClientCommand::Heartbeat(_)
            | ClientCommand::Release(_)
            | ClientCommand::Complete(_)
            | ClientCommand::Fail(_)
            | ClientCommand::RegisterCompensation(_)
            | ClientCommand::RecordCompensation(_)
            | ClientCommand::Compensated(_)
            | ClientCommand::Dispatch(_)
            | ClientCommand::Recover(_)
            | ClientCommand::Waive(_)
            | ClientCommand::Quarantine(_)
            | ClientCommand::Cancel(_)
            | ClientCommand::Revoke(_)
            | ClientCommand::Annotate(_)
            | ClientCommand::Pause(_)
            | ClientCommand::Resume(_)
            | ClientCommand::Purge(_)
            | ClientCommand::Backup(_)
            | ClientCommand::Restore(_)
            | ClientCommand::Vacuum(_)
            // What it prints is a secret that exists nowhere else.
            | ClientCommand::Token(_)
            // It creates sagas, on a daemon of others too.
            | ClientCommand::Bench(_) => CommandKind::Change,
        }
    }
}

/// Runs the command line and says how the process ends.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if let Some(code) = supervise::run(&arguments) {
        return code;
    }
    let cli = match parse(&arguments) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, &arguments),
    };
    let command = match cli.command {
        Command::Serve(args) => return crate::serve::command(&args),
        Command::Client(command) => command,
    };
    let format = cli.global.output.format();
    let asked = cli.global.options();
    let last_wait = command.last_wait();
    if last_wait.is_some()
        && let Some(code) = supervise::as_init(&arguments)
    {
        return code;
    }
    let code = match start(cli.global, command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.report(format, &asked);
            ExitCode::from(error.exit_code())
        }
    };
    notices::finish(last_wait);
    code
}

impl ClientCommand {
    /// How long its end may wait for the reader of its messages: without limit, but for the workers, which are told to end by
    /// whoever runs them. A worker that waited for ever would be killed then, or hold up a shutdown.
    fn last_wait(&self) -> Option<Duration> {
        matches!(self, ClientCommand::Work(_) | ClientCommand::Compensate(_)).then_some(notices::LAST_WAIT)
    }
}

fn parse(arguments: &[OsString]) -> Result<Cli, clap::Error> {
    let mut command = without_empty_variables(Cli::command());
    let matches = command.try_get_matches_from_mut(arguments)?;
    let mut cli = Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    cli.global.server_named = matches.value_source("server") == Some(ValueSource::CommandLine);
    Ok(cli)
}

/// A variable that is set to nothing counts as not set: that is how a container's environment says nothing.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |arg: &clap::Arg| arg.get_env().and_then(env::var_os).is_some_and(|value| value.is_empty());
    let without = |arg: clap::Arg| if is_empty(&arg) { arg.env(Resettable::Reset) } else { arg };
    command.mut_args(without).mut_subcommands(without_empty_variables)
}

/// Help and version go to stdout and are a success; the rest is wrong usage, as JSON where that was asked for.
fn usage(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if !asked && errors::wants_json(arguments) {
        let error = CliError::Usage(error.render().to_string().trim_end().to_owned());
        error.report(Format::Json, &ClientOptions::default());
        notices::finish(None);
        return ExitCode::from(error.exit_code());
    }
    let plain = error.render().to_string();
    if !asked && plain.contains(|c| c != '\n' && characters::is_unprintable(c)) {
        // What was given is quoted, and must not do anything to a terminal.
        notices::line(plain.trim_end());
        notices::finish(None);
        return ExitCode::from(errors::USAGE);
    }
    // A closed pipe is nothing to complain about, and there is nowhere else to do so.
    error.print().ok();
    if asked { ExitCode::SUCCESS } else { ExitCode::from(errors::USAGE) }
}

fn start(global: GlobalArgs, command: ClientCommand) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(dispatch(global, command));
    // A thread that still reads standard input must not hold up the end.
    runtime.shutdown_background();
    result
}

async fn dispatch(global: GlobalArgs, command: ClientCommand) -> Result<(), CliError> {
    let output = Output::new(global.output, command.kind());
    let result = run_command(&global, &output, command).await;
    output.finish(result)
}

async fn run_command(global: &GlobalArgs, output: &Output, command: ClientCommand) -> Result<(), CliError> {
    let context = || Context::new(global.options(), output.clone());
    match command {
        ClientCommand::Create(args) => create::run(&context()?, *args).await,
        ClientCommand::Get(args) => look::get(&context()?, args).await,
        ClientCommand::List(args) => look::list(&context()?, args).await,
        ClientCommand::History(args) => look::history(&context()?, args).await,
        ClientCommand::Stats(_) => look::stats(&context()?).await,
        ClientCommand::Watch(args) => watch::run(&context()?, args).await,
        ClientCommand::Work(args) => work::run(&context()?, args).await,
        ClientCommand::Compensate(args) => compensate::run(&context()?, args).await,
        ClientCommand::Claim(args) => lease::claim(&context()?, args).await,
        ClientCommand::ClaimNext(args) => lease::claim_next(&context()?, args).await,
        ClientCommand::Heartbeat(args) => lease::heartbeat(&context()?, args).await,
        ClientCommand::Release(args) => lease::release(&context()?, args).await,
        ClientCommand::Complete(args) => lease::complete(&context()?, args).await,
        ClientCommand::Fail(args) => lease::fail(&context()?, args).await,
        ClientCommand::RegisterCompensation(args) => lease::register(&context()?, args).await,
        ClientCommand::RecordCompensation(args) => lease::record(&context()?, args).await,
        ClientCommand::Compensated(args) => lease::compensated(&context()?, args).await,
        ClientCommand::Dispatch(args) => operate::dispatch(&context()?, args).await,
        ClientCommand::Recover(args) => operate::recover(&context()?, args).await,
        ClientCommand::Waive(args) => operate::waive(&context()?, args).await,
        ClientCommand::Quarantine(args) => operate::quarantine(&context()?, args).await,
        ClientCommand::Cancel(args) => operate::cancel(&context()?, args).await,
        ClientCommand::Revoke(args) => operate::revoke(&context()?, args).await,
        ClientCommand::Annotate(args) => operate::annotate(&context()?, args).await,
        ClientCommand::Queues(_) => admin::queues(&context()?).await,
        ClientCommand::Pause(args) => admin::pause(&context()?, args).await,
        ClientCommand::Resume(args) => admin::resume(&context()?, args).await,
        ClientCommand::Purge(args) => admin::purge(&context()?, args).await,
        ClientCommand::Backup(args) => store::backup(&context()?, args).await,
        ClientCommand::Restore(args) => store::restore(output, &args),
        ClientCommand::Check(args) => store::check(output, &args),
        ClientCommand::Vacuum(args) => store::vacuum(output, &args),
        ClientCommand::Token(args) => token::run(output, &args),
        ClientCommand::Config(args) => config::run(output, &args),
        ClientCommand::Top(args) => top::run(&context()?, args).await,
        ClientCommand::Doctor(args) => doctor::run(&context()?, args).await,
        ClientCommand::Bench(args) => bench::run(output, global.server_named.then(|| global.options()), *args).await,
        ClientCommand::Info(_) => admin::info(&context()?).await,
        ClientCommand::Health(args) => health::run(&context()?, args).await,
        ClientCommand::Completions(args) => docs::completions(&args, Cli::command()),
        ClientCommand::Man(args) => docs::man(&args, Cli::command()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&format!("sagad {}", command.get_name())), "{} has no example", command.get_name());
        }
    }

    #[test]
    fn global_flags_go_before_or_after_the_command() {
        for line in ["sagad -o json --timeout 1m30s get t-1", "sagad get t-1 --timeout 90s -ojson"] {
            let cli = Cli::try_parse_from(line.split(' ')).expect("both places are fine");
            assert_eq!(cli.global.timeout, Duration::from_secs(90));
            assert_eq!(cli.global.output, OutputArg::Json);
        }
    }

    #[test]
    fn wrong_usage_is_told() {
        for line in [
            "sagad",
            "sagad get",
            "sagad get t-1 --timeout 30",
            "sagad work -- true",
            "sagad work --queue q",
            "sagad recover t-1 --reason r",
            "sagad watch --events --snapshot",
            "sagad create --on-stale sometimes",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
