//! The commands of the binary that are clients of the API, a file for each or for a tight group: what is on the
//! command line, where each command goes, and how the process ends.

mod actor;
mod admin;
mod args;
mod bench;
mod compensate;
mod config;
mod context;
mod create;
mod docs;
mod doctor;
pub mod errors;
mod health;
mod import;
mod json;
mod lease;
mod look;
mod operate;
mod output;
mod process;
#[cfg(test)]
mod properties;
mod store;
mod tables;
mod text;
mod token;
mod top;
mod watch;
mod work;

use std::{ffi::OsString, path::PathBuf, process::ExitCode, time::Duration};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind, parser::ValueSource};

use crate::{
    client::{ClientOptions, connect::DEFAULT_SERVER},
    config::ServeArgs,
};
use context::Context;
use errors::CliError;
use output::{Format, Output};

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
    /// The coordinator's address.
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
    /// Tables and sentences for people, or proto3 JSON, one object a line.
    #[arg(short, long, global = true, value_enum, default_value = "text", help_heading = "Global options")]
    output: Format,
    /// How long one call may take.
    #[arg(long, global = true, default_value = "10s", value_parser = args::duration, value_name = "DURATION", help_heading = "Global options")]
    timeout: Duration,
}

impl GlobalArgs {
    /// How the coordinator is reached. An empty variable is how a container's environment says nothing.
    fn options(&self) -> ClientOptions {
        let file = |file: &Option<PathBuf>| file.clone().filter(|file| !file.as_os_str().is_empty());
        ClientOptions {
            server: self.server.clone(),
            timeout: self.timeout,
            ca: file(&self.ca),
            cert: file(&self.cert),
            key: file(&self.key),
            token_file: file(&self.token_file),
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
    /// Add a note to a saga, or amend its reason.
    Annotate(operate::AnnotateArgs),
    /// List queues.
    Queues(admin::QueuesArgs),
    /// Stop handing out a queue's sagas.
    Pause(admin::PauseArgs),
    /// Hand out a queue's sagas again.
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

/// Runs the command line and says how the process ends.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let cli = match parse(&arguments) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, &arguments),
    };
    let command = match cli.command {
        Command::Serve(args) => return crate::serve::command(&args),
        Command::Client(command) => command,
    };
    let format = cli.global.output;
    let server = cli.global.server.clone();
    match start(cli.global, command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.report(format, &server);
            ExitCode::from(error.exit_code())
        }
    }
}

fn parse(arguments: &[OsString]) -> Result<Cli, clap::Error> {
    let mut command = Cli::command();
    let matches = command.try_get_matches_from_mut(arguments)?;
    let mut cli = Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    cli.global.server_named = matches.value_source("server") == Some(ValueSource::CommandLine);
    Ok(cli)
}

/// Help and version go to stdout and are a success; the rest is wrong usage, as JSON where that was asked for.
fn usage(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if !asked && errors::wants_json(arguments) {
        let error = CliError::Usage(error.render().to_string().trim_end().to_owned());
        error.report(Format::Json, "");
        return ExitCode::from(error.exit_code());
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
    let output = Output::new(global.output);
    let context = || Context::new(global.options(), output);
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
        ClientCommand::Annotate(args) => operate::annotate(&context()?, args).await,
        ClientCommand::Queues(_) => admin::queues(&context()?).await,
        ClientCommand::Pause(args) => admin::pause(&context()?, args).await,
        ClientCommand::Resume(args) => admin::resume(&context()?, args).await,
        ClientCommand::Purge(args) => admin::purge(&context()?, args).await,
        ClientCommand::Backup(args) => store::backup(&context()?, args).await,
        ClientCommand::Restore(args) => store::restore(&output, &args),
        ClientCommand::Check(args) => store::check(&output, &args),
        ClientCommand::Vacuum(args) => store::vacuum(&output, &args),
        ClientCommand::Token(args) => token::run(&output, &args),
        ClientCommand::Config(args) => config::run(&output, &args),
        ClientCommand::Top(args) => top::run(&context()?, args).await,
        ClientCommand::Doctor(args) => doctor::run(&context()?, args).await,
        ClientCommand::Bench(args) => bench::run(&output, global.server_named.then(|| global.options()), *args).await,
        ClientCommand::Info(_) => admin::info(&context()?).await,
        ClientCommand::Health(args) => health::run(&context()?, args).await,
        ClientCommand::Completions(args) => docs::completions(&args),
        ClientCommand::Man(args) => docs::man(&args),
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
            assert_eq!(cli.global.output, Format::Json);
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
