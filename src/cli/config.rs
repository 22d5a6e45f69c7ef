//! `sagad config`: what `sagad serve` would go by, without starting anything. Flags, variables and the file are read by the
//! same code as there.

use std::{env, sync::Arc};

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::{
    errors::CliError,
    output::{Cell, CommandKind, Format, Output, notice},
    text::printable,
};
use crate::{
    clock::{Clock, SystemClock},
    config::{EffectiveSetting, Explained, Origin, ServeArgs, SettingValue, defaults_file},
    serve::auth,
};

/// What `config` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sagad config check --config /etc/sagad/sagad.toml\n  sagad config show\n\n\
                        `check` and `show` take the flags of `sagad serve`, and read its variables and its file as it does.")]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check whether `sagad serve` would accept its configuration.
    #[command(after_help = "Examples:\n  sagad config check --config /etc/sagad/sagad.toml\n  \
                            SAGAD_LISTEN=10.0.0.7:7420 sagad config check -o json\n\n\
                            Nothing is started, and no data directory is touched. Certificates, keys and principals are\n\
                            read, too: a certificate that has expired is an error here. Warnings about settings that are\n\
                            valid and unlikely go to stderr. Exit codes: 0 valid, 2 not valid, with the error of `sagad serve`.")]
    Check(Box<ServeArgs>),
    /// Show each setting, its value, and where it comes from.
    #[command(after_help = "Examples:\n  sagad config show --config /etc/sagad/sagad.toml\n  \
                            sagad config show -o json | jq -r .listen.value\n  \
                            sagad config show -o json | jq 'map_values(select(.from != \"default\"))'\n\n\
                            Values are shown as the file takes them.")]
    Show(Box<ServeArgs>),
    /// Print a configuration file with every setting, its default and its reason.
    #[command(
        after_help = "Examples:\n  sagad config defaults > sagad.toml\n  sagad config defaults -o json | jq -r .text\n\n\
                            Every setting is commented out, so the file changes nothing until somebody edits it."
    )]
    Defaults,
}

/// Checks or shows the configuration.
///
/// # Errors
/// A configuration that `sagad serve` would refuse, in the same words, as wrong usage.
pub fn run(output: &Output, args: &ConfigArgs) -> Result<(), CliError> {
    match &args.command {
        ConfigCommand::Check(args) => check(output, &load(args)?),
        ConfigCommand::Show(args) => show(&output.of_kind(CommandKind::Query), &load(args)?),
        ConfigCommand::Defaults => defaults(&output.of_kind(CommandKind::Query)),
    }
}

fn load(args: &ServeArgs) -> Result<Explained, CliError> {
    Explained::load(args).map_err(|error| CliError::Usage(error.to_string()))
}

fn check(output: &Output, explained: &Explained) -> Result<(), CliError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    let files = auth::check(&explained.config, &clock).map_err(|error| CliError::Usage(error.to_string()))?;
    let mut warnings = explained.warnings(env::vars_os().filter_map(|(name, _)| name.into_string().ok()));
    warnings.extend(files);
    let file = explained.file.as_ref().map(|file| file.display().to_string());
    match output.format() {
        Format::Json => output.line(&json!({ "file": file, "warnings": warnings }).to_string()),
        Format::Text => {
            warnings.iter().for_each(|warning| notice(&format!("warning: {}", printable(warning))));
            let file = file.map_or_else(|| "no file".to_owned(), |file| format!("file {}", printable(&file)));
            output.line(&format!("the configuration is fine ({file})"))
        }
    }
}

fn show(output: &Output, explained: &Explained) -> Result<(), CliError> {
    let settings = &explained.settings;
    match output.format() {
        Format::Json => {
            let settings: Map<_, _> = settings.iter().map(|one| (one.setting.key.to_owned(), json(one))).collect();
            output.line(&Value::Object(settings).to_string())
        }
        Format::Text => output.tabulate(settings.iter().as_slice(), Some(&["KEY", "VALUE", "FROM"]), |one| {
            [one.setting.key.to_owned(), one.value.shown().to_string(), from(one)].map(Cell::new).into()
        }),
    }
}

fn defaults(output: &Output) -> Result<(), CliError> {
    let text = defaults_file();
    match output.format() {
        Format::Json => output.line(&json!({ "text": text }).to_string()),
        Format::Text => output.line(text.trim_end()),
    }
}

fn from(one: &EffectiveSetting) -> String {
    match &one.origin {
        None => "default".to_owned(),
        Some(Origin::Flag(flag)) => format!("flag {flag}"),
        Some(Origin::Variable(variable)) => format!("variable {variable}"),
        Some(Origin::Key { file, line, .. }) => format!("file {}:{line}", printable(&file.display().to_string())),
    }
}

/// A setting for programs.
fn json(one: &EffectiveSetting) -> Value {
    let mut told = match &one.origin {
        None => json!({ "from": "default" }),
        Some(Origin::Flag(flag)) => json!({ "from": "flag", "flag": flag }),
        Some(Origin::Variable(variable)) => json!({ "from": "variable", "variable": variable }),
        Some(Origin::Key { file, line, .. }) => {
            json!({ "from": "file", "file": file.display().to_string(), "line": line })
        }
    };
    told["value"] = match one.value.shown() {
        SettingValue::Text(text) => json!(text),
        SettingValue::Count(count) => json!(count),
        SettingValue::Flag(flag) => json!(flag),
    };
    told
}
