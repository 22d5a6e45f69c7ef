//! Property tests of the command line: no value makes a parser panic, an error names the flag that it is about, and an
//! accepted value is parsed unchanged.

use std::{ffi::OsString, os::unix::ffi::OsStringExt, sync::LazyLock, time::Duration};

use clap::{Command, CommandFactory, Parser, error::ErrorKind};
use proptest::{prelude::*, sample::Index};

use super::{Cli, args, dispatch, json, parse};
use crate::{
    client::{Client, ConnectError},
    proto::CreateSagaRequest,
};

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

/// Values that people write, and arbitrary ones.
fn value() -> impl Strategy<Value = String> {
    let numbers = any::<i128>().prop_map(|number| number.to_string());
    prop_oneof![".{0,40}", "[0-9]{0,25}[a-zA-Zµ]{0,6}", "[a-z]{0,8}=.{0,10}", "[-+0-9.e]{1,12}", numbers, "x{5000}"]
}

proptest! {
    #[test]
    fn p12_every_flag_accepts_or_refuses_any_value(which: Index, value in value()) {
        let (words, flag) = which.get(&FLAGS);
        let given = format!("--{flag}={value}");
        if let Err(error) = Cli::try_parse_from(words.iter().chain([&given])) {
            let text = error.to_string();
            match error.kind() {
                ErrorKind::ValueValidation | ErrorKind::InvalidValue => {
                    prop_assert!(text.contains(&format!("--{flag}")), "{words:?} {given}: {text}");
                }
                // Other arguments that the command requires are missing.
                _ => prop_assert!(!text.is_empty()),
            }
        }
    }

    #[test]
    fn p12_no_arguments_make_the_parser_panic(which: Index, words in prop::collection::vec(value(), 0..6)) {
        let (command, _) = which.get(&FLAGS);
        if let Err(error) = Cli::try_parse_from(command.iter().chain(&words)) {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn p12_accepted_values_are_parsed_unchanged(value in value()) {
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
    fn p12_formatted_durations_parse_to_the_same_value(seconds in 0..3_000_000_000_u64, nanos in 0..1_000_000_000_u32) {
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
    fn p12_an_address_is_accepted_or_named_in_the_error(address in prop_oneof![".{0,40}", "http://[a-z0-9.:@/?%\\[\\]-]{0,30}"]) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let _inside = runtime.enter();
        if let Err(error) = Client::new(&address, std::time::Duration::from_secs(1)) {
            // An address with a user or a password is not quoted.
            let is_secret = matches!(error, ConnectError::UserInfo) && address.contains('@');
            prop_assert!(is_secret != error.to_string().contains(&address));
        }
    }
}

/// The arguments that each command requires besides the flag under test.
const NEEDS: &[(&str, &str)] = &[
    ("serve", ""),
    ("create", ""),
    ("get", "t-1"),
    ("list", ""),
    ("history", "t-1"),
    ("stats", ""),
    ("watch", ""),
    ("work", "--queue=q -- true"),
    ("compensate", "--queue=q --handler=k=true"),
    ("claim", "t-1"),
    ("claim-next", "--queue=q"),
    ("heartbeat", "t-1 --owner=me --token=1"),
    ("release", "t-1 --owner=me --token=1"),
    ("complete", "t-1 --owner=me --token=1"),
    ("fail", "t-1 --owner=me --token=1 --reason=r"),
    ("register-compensation", "t-1 --owner=me --token=1 --compensate=k=t"),
    ("record-compensation", "t-1 --owner=me --token=1 --position=1 --outcome=done"),
    ("compensated", "t-1 --owner=me --token=1"),
    ("dispatch", "t-1 --assignee=w"),
    ("recover", "t-1 --decision=requeue --reason=r"),
    ("waive", "t-1 --position=1 --reason=r"),
    ("quarantine", "t-1 --reason=r"),
    ("cancel", "t-1 --reason=r"),
    ("revoke", "builders --reason=r"),
    ("annotate", "t-1 --note=n"),
    ("queues", ""),
    ("pause", "q"),
    ("resume", "q"),
    ("purge", "--state=failed --older-than=1d --reason=r --yes"),
    ("backup", "copy.db"),
    ("restore", "copy.db --data=d"),
    ("check", "--data=d"),
    ("vacuum", "--data=d"),
    ("token", "ci"),
    ("token hash", ""),
    ("config check", ""),
    ("config show", ""),
    ("top", "--once"),
    ("doctor", ""),
    ("bench", ""),
    ("info", ""),
    ("health", ""),
    ("completions", "bash"),
    ("man", ""),
];

/// Commands that are only parsed here and not run: they write files, print, start programs or take longer.
const PARSED_ONLY: &[&str] = &[
    "serve",
    "work",
    "compensate",
    "backup",
    "restore",
    "check",
    "vacuum",
    "token",
    "config",
    "doctor",
    "bench",
    "completions",
    "man",
];

/// Values that no flag expects.
fn hostile() -> Vec<OsString> {
    let texts = [
        "",
        " ",
        "0",
        "-1",
        "00",
        "1ns",
        "0s",
        "-1s",
        "99999999999999h",
        "18446744073709551615s",
        "584554y",
        "100y",
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775808",
        "4294967296",
        "1e400",
        "NaN",
        "\0",
        "a\0b",
        "a\0=b",
        "\u{202e}\u{1b}[2J",
        "=",
        "a=",
        "=a",
        "@",
        "@/nowhere/at/all",
        "@@",
        "http://",
        "http://[::1",
        "http://a b",
        "https://127.0.0.1:1",
        ",",
        ",,,",
        "*",
        "6f1c2f0e-6f0e-4b6e-9d53-0f0a6b9f5f11",
    ];
    let mut values: Vec<OsString> = texts.iter().map(Into::into).collect();
    values.push("x".repeat(100_000).into());
    values.push(OsString::from_vec(vec![0xff, 0xfe, b'=', 0xff]));
    values
}

/// Tries each hostile value with every flag and positional argument of every command. A command that can be parsed is
/// run against a coordinator that doesn't exist.
#[test]
fn p12_no_value_of_any_argument_of_any_command_panics() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut command = Cli::command();
    command.build();
    let values = hostile();
    let (mut tried, mut run) = (0, 0);
    for (words, needs) in NEEDS {
        let inner = words.split(' ').fold(&command, |command, word| command.find_subcommand(word).expect("a command"));
        for argument in inner.get_arguments().filter(|argument| argument.get_action().takes_values()) {
            // Global flags are tried with three commands only.
            if argument.is_global_set() && !["create", "list", "claim-next"].contains(words) {
                continue;
            }
            let prefix = argument.get_long().map(|long| format!("--{long}="));
            let others = needs.split_whitespace().filter(|need| match &prefix {
                Some(prefix) => !need.starts_with(prefix.as_str()),
                None => need.starts_with("--"),
            });
            let others: Vec<&str> = others.collect();
            for value in &values {
                let mut given = OsString::from(prefix.as_deref().unwrap_or_default());
                given.push(value);
                let mut line: Vec<OsString> = vec!["sagad".into(), "--server=http://127.0.0.1:1".into()];
                if argument.get_long() == Some("server") {
                    line.pop();
                }
                line.extend(words.split(' ').map(Into::into));
                line.push(given);
                line.extend(others.iter().map(Into::into));
                tried += 1;
                let Ok(cli) = parse(&line) else { continue };
                let super::Command::Client(client) = cli.command else { continue };
                if PARSED_ONLY.iter().any(|name| words.split(' ').next() == Some(name)) {
                    continue;
                }
                run += 1;
                // The command fails, has nothing to do (`--limit 0`) or still retries. By then all code that could
                // panic has run.
                let call =
                    async { tokio::time::timeout(Duration::from_millis(500), dispatch(cli.global, client)).await };
                drop(runtime.block_on(call));
            }
        }
    }
    assert!(tried > 4_000 && run > 500, "{tried} {run}");
}

#[test]
fn every_command_parses_with_its_needs() {
    let named: Vec<&str> = NEEDS.iter().filter_map(|(words, _)| words.split(' ').next()).collect();
    for command in Cli::command().get_subcommands() {
        assert!(named.contains(&command.get_name()), "{}", command.get_name());
    }
    for (words, needs) in NEEDS {
        let line = format!("sagad {words} {needs}");
        assert!(parse(&line.split_whitespace().map(Into::into).collect::<Vec<_>>()).is_ok(), "{line}");
    }
}

#[test]
fn flags_of_all_commands_are_tried() {
    for command in ["create", "claim", "serve", "purge", "list", "work", "watch"] {
        assert!(FLAGS.iter().any(|(words, _)| words.contains(&command.to_owned())), "{command}");
    }
    assert!(FLAGS.len() > 80, "{}", FLAGS.len());
}
