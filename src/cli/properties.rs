//! Anything at all, as a command line: no parser of a value panics, each that refuses says which flag it is about, and what
//! it lets in is what was written.

use std::sync::LazyLock;

use clap::{Command, CommandFactory, Parser, error::ErrorKind};
use proptest::{prelude::*, sample::Index};

use super::{Cli, args, json};
use crate::{client::Client, proto::CreateSagaRequest};

/// Every flag that takes a value: the words up to its command, and its name.
static FLAGS: LazyLock<Vec<(Vec<String>, String)>> = LazyLock::new(|| {
    let mut found = Vec::new();
    collect(&Cli::command(), &["sagad".to_owned()], &mut found);
    found
});

fn collect(command: &Command, words: &[String], found: &mut Vec<(Vec<String>, String)>) {
    let flags = command.get_arguments().filter(|arg| arg.get_action().takes_values());
    found.extend(flags.filter_map(|arg| Some((words.to_vec(), arg.get_long()?.to_owned()))));
    for inner in command.get_subcommands() {
        collect(inner, &[words, &[inner.get_name().to_owned()]].concat(), found);
    }
}

/// What people write, and what nobody does.
fn value() -> impl Strategy<Value = String> {
    let numbers = any::<i128>().prop_map(|number| number.to_string());
    prop_oneof![".{0,40}", "[0-9]{0,25}[a-zA-Zµ]{0,6}", "[a-z]{0,8}=.{0,10}", "[-+0-9.e]{1,12}", numbers, "x{5000}"]
}

proptest! {
    #[test]
    fn p12_every_flag_takes_or_refuses_any_value(which: Index, value in value()) {
        let (words, flag) = which.get(&FLAGS);
        let given = format!("--{flag}={value}");
        if let Err(error) = Cli::try_parse_from(words.iter().chain([&given])) {
            let text = error.to_string();
            match error.kind() {
                ErrorKind::ValueValidation | ErrorKind::InvalidValue => {
                    prop_assert!(text.contains(&format!("--{flag}")), "{words:?} {given}: {text}");
                }
                // What else the command needs was not said.
                _ => prop_assert!(!text.is_empty()),
            }
        }
    }

    #[test]
    fn p12_no_words_make_a_command_line_panic(which: Index, words in prop::collection::vec(value(), 0..6)) {
        let (command, _) = which.get(&FLAGS);
        if let Err(error) = Cli::try_parse_from(command.iter().chain(&words)) {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn p12_values_are_read_as_they_are_written(value in value()) {
        if let Ok((key, rest)) = args::key_value(&value) {
            prop_assert!(!key.is_empty() && !key.contains('='));
            prop_assert_eq!(format!("{key}={rest}"), value.clone());
        }
        if let Ok((kind, target)) = args::kind_target(&value) {
            prop_assert!(!kind.is_empty() && !target.is_empty());
            prop_assert_eq!(format!("{kind}={target}"), value.clone());
        }
        let counted = value.parse::<i32>().ok().filter(|count| *count >= 1);
        prop_assert_eq!(args::count(&value).ok(), counted);
        if let Err(wrong) = args::duration(&value) {
            prop_assert!(!wrong.is_empty());
        }
    }

    #[test]
    fn p12_lengths_are_read_back(seconds in 0..10_000_000_000_u64, nanos in 0..1_000_000_000_u32) {
        let length = std::time::Duration::new(seconds, nanos);
        prop_assert_eq!(args::duration(&humantime::format_duration(length).to_string()), Ok(length));
    }

    #[test]
    fn p12_no_line_of_json_panics(line in prop_oneof![".{0,60}", r#"\{("[a-z_A-Z]{1,14}":("?.{0,8}"?|[-0-9.e]{1,9}|\{\}|\[\]),?){0,4}\}"#]) {
        if let Err(wrong) = json::parse::<CreateSagaRequest>(&line) {
            prop_assert!(!wrong.is_empty());
        }
    }

    #[test]
    fn p12_an_address_is_taken_or_named(address in prop_oneof![".{0,40}", "http://[a-z0-9.:@/?%\\[\\]-]{0,30}"]) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let _inside = runtime.enter();
        if let Err(error) = Client::new(&address, std::time::Duration::from_secs(1)) {
            prop_assert!(error.to_string().contains(&address));
        }
    }
}

#[test]
fn every_command_is_tried() {
    for command in ["create", "claim", "serve", "purge", "list", "work", "watch"] {
        assert!(FLAGS.iter().any(|(words, _)| words.contains(&command.to_owned())), "{command}");
    }
    assert!(FLAGS.len() > 80, "{}", FLAGS.len());
}
