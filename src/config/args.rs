//! The flags of `sagad serve`: one for each setting, and `--config`.

use std::{collections::BTreeMap, path::PathBuf};

use clap::{Arg, ArgMatches, Args, Command, Error, FromArgMatches, value_parser};

use super::{
    setting::{Kind, Setting},
    settings::{self, GROUPS},
};

/// The id of the flag that names the file.
const CONFIG: &str = "config";

/// What the command line of `sagad serve` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServeArgs {
    /// The TOML file that `--config` names.
    pub config: Option<PathBuf>,
    /// What the flags say, by key.
    flags: BTreeMap<&'static str, String>,
}

impl ServeArgs {
    /// What the command line says about a key.
    pub(super) fn given(&self, key: &str) -> Option<&String> {
        self.flags.get(key)
    }
}

impl Args for ServeArgs {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new(CONFIG)
            .long(CONFIG)
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help("TOML file with any of these settings (SAGAD_CONFIG)");
        let flags = GROUPS
            .iter()
            .flat_map(|group| group.settings.iter().map(|setting| flag(setting).help_heading(group.help_heading)));
        command.arg(config).args(flags)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn flag(setting: &'static Setting) -> Arg {
    let flag = Arg::new(setting.key)
        .long(setting.flag().trim_start_matches('-').to_owned())
        .value_name(setting.kind.placeholder())
        .help(setting.help_with_default());
    if setting.kind == Kind::Flag {
        flag.num_args(0..=1).default_missing_value("true").require_equals(true)
    } else {
        flag
    }
}

impl FromArgMatches for ServeArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let said = |setting: &'static Setting| Some((setting.key, matches.get_one::<String>(setting.key)?.clone()));
        Ok(ServeArgs { config: matches.get_one(CONFIG).cloned(), flags: settings::all().filter_map(said).collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
