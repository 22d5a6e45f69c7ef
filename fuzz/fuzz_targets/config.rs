//! The daemon's configuration out of a file, variables and flags of any content: an error that says who said what, or a
//! configuration within its bounds.
#![no_main]

use std::{cell::RefCell, collections::HashMap, ffi::OsString, fs, os::unix::ffi::OsStringExt};

use clap::{Args, Command, FromArgMatches};
use libfuzzer_sys::fuzz_target;
use sagad::{
    config::{Config, ConfigError, Listen, ServeArgs, fuzzing, settings},
    domain::time::Span,
};
use tempfile::TempDir;

thread_local! {
    static DIRECTORY: RefCell<TempDir> = RefCell::new(tempfile::tempdir().expect("a temporary directory"));
    static COMMAND: RefCell<Command> =
        RefCell::new(ServeArgs::augment_args(Command::new("serve").no_binary_name(true)));
}

fn judge(config: &Config) {
    assert!(config.restart_grace <= Span::from_secs(3600));
    assert!(Span::from_secs(1) <= config.drain_grace && config.drain_grace <= Span::from_secs(600));
    let secured = config.security.tls.is_some() && config.security.principals.is_some();
    assert!(config.insecure || secured || !is_exposed(&config.listen));
    assert!(!config.data.as_os_str().is_empty());
    for bound in config.bounds() {
        assert!(bound.value > 0, "{}: {}", bound.name, bound.value);
    }
    let mut limits = config.limits;
    limits.fit_to_descriptors(1024);
    assert!(1 <= limits.max_connections);
}

fn is_exposed(listen: &Listen) -> bool {
    match listen {
        Listen::Address(address) => !address.ip().to_canonical().is_loopback(),
        Listen::Name { .. } | Listen::Unix(_) => listen.is_exposed(),
    }
}

fn refused(error: &ConfigError) {
    let text = error.to_string();
    let named = settings::all().any(|setting| {
        [setting.key.to_owned(), setting.flag(), setting.variable()].iter().any(|name| text.contains(name.as_str()))
    });
    assert!(named || text.contains("configuration file") || text.contains("listening on"), "{text}");
}

// An input is a file first; behind it, each after a zero byte, flags and variables.
fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.split(|byte| *byte == 0);
    let content = parts.next().unwrap_or_default();
    let (flags, variables): (Vec<&[u8]>, Vec<&[u8]>) = parts.partition(|part| part.starts_with(b"--"));
    let line = flags.into_iter().map(|flag| OsString::from_vec(flag.to_vec()));
    // A line that clap refuses never gets as far as the configuration.
    let Ok(matches) = COMMAND.with_borrow_mut(|command| command.try_get_matches_from_mut(line)) else { return };
    let Ok(mut args) = ServeArgs::from_arg_matches(&matches) else { return };
    let variables: HashMap<&[u8], OsString> = variables
        .into_iter()
        .filter_map(|part| {
            let at = part.iter().position(|byte| *byte == b'=')?;
            Some((&part[..at], OsString::from_vec(part[at + 1..].to_vec())))
        })
        .collect();
    // Only the file of this run is read, whatever the input names.
    let file = DIRECTORY.with_borrow(|directory| directory.path().join("sagad.toml"));
    fs::write(&file, content).expect("a file in a temporary directory");
    args.config = Some(file);
    match fuzzing::merge(&args, &|name| variables.get(name.as_bytes()).cloned()) {
        Ok(config) => judge(&config),
        Err(error) => refused(&error),
    }
});
