//! The commands of the binary: reads the command line, runs the command, and ends the process with its exit code.
//!
//! `commands` is the table of all commands; each command, or a group of similar ones, has a file with its arguments and its
//! work. What several of them use:
//!
//! | files | subject |
//! |---|---|
//! | `global_args`, `args`, `actor` | options of all commands; values and groups of options that several share |
//! | `context` | a command's connection to the coordinator |
//! | `output`, `tables`, `text`, `json`, `format` | standard output: tables and sentences for people, JSON for programs |
//! | `notices`, `errors`, `advice` | standard error: messages, and the error that ends a command |
//! | `running_command`, `supervise`, `process_group`, `program`, `progress`, `init` | the programs that `work` and `compensate` run |

mod actor;
mod admin;
mod advice;
mod args;
mod bench;
mod commands;
mod compensate;
mod config;
mod context;
mod create;
mod docs;
mod doctor;
pub mod errors;
mod format;
mod global_args;
mod health;
mod import;
mod init;
mod json;
mod lease;
mod look;
mod notices;
mod operate;
mod output;
mod paused;
mod process_group;
mod program;
mod progress;
#[cfg(test)]
mod properties;
mod running_command;
mod store;
mod supervise;
mod tables;
mod text;
mod token;
mod top;
mod watch;
mod work;

use std::{env, ffi::OsString, process::ExitCode};

use clap::{CommandFactory, FromArgMatches, builder::Resettable, error::ErrorKind, parser::ValueSource};

pub use commands::Cli;
use commands::{ClientCommand, Command};
use errors::CliError;
use global_args::GlobalArgs;
use output::{Format, Output};

use crate::{client::ClientOptions, domain::characters};

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
        && let Some(code) = init::run(&arguments)
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
    let result = command.run(&global, &output).await;
    output.finish(result)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::{output::OutputArg, *};

    #[test]
    fn clap_accepts_the_definition_of_all_commands() {
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
    fn global_flags_are_accepted_before_and_after_the_command() {
        for line in ["sagad -o json --timeout 1m30s get t-1", "sagad get t-1 --timeout 90s -ojson"] {
            let cli = Cli::try_parse_from(line.split(' ')).expect("both places are fine");
            assert_eq!(cli.global.timeout, Duration::from_secs(90));
            assert_eq!(cli.global.output, OutputArg::Json);
        }
    }

    #[test]
    fn wrong_usage_is_refused() {
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
