//! What holds for every command: help with examples, exit codes, where results and errors go, colours, closed pipes.

use std::process::{Command, Stdio};

use crate::{
    daemon::{Daemon, sagad},
    running::Ran,
};

/// Every command of the contract's command line.
const COMMANDS: &str = "serve create get list history stats watch work compensate claim claim-next heartbeat release \
    complete fail register-compensation record-compensation compensated dispatch recover waive quarantine cancel \
    annotate queues pause resume purge backup restore check config bench info health completions man";

fn alone(line: &str) -> Ran {
    Ran::of(sagad(line))
}

#[test]
fn every_command_has_help_with_an_example() {
    for command in COMMANDS.split_whitespace() {
        for flag in ["--help", "-h"] {
            let ran = alone(&format!("{command} {flag}"));
            assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{command}");
            assert!(ran.out.contains("Example") && ran.out.contains(&format!("  sagad {command}")), "{}", ran.out);
            assert!(ran.out.contains("Usage: sagad") && !ran.out.contains('\u{1b}'), "{}", ran.out);
            assert!(ran.out.lines().all(|line| line.chars().count() <= 130), "{}", ran.out);
        }
    }
    let ran = alone("--help");
    assert!(COMMANDS.split_whitespace().all(|command| ran.out.contains(&format!("\n  {command} "))), "{}", ran.out);
    assert!(ran.out.contains("5 unreachable") || ran.out.contains("5\nunreachable"), "the exit codes: {}", ran.out);
    assert_eq!(alone("--version").out, format!("sagad {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_is_2_and_says_what_is_wrong() {
    for (line, about) in [
        ("", "Usage"),
        ("nonsense", "nonsense"),
        ("get", "<ID>"),
        ("get t-1 --saga-id s-1", "--saga-id"),
        ("get t-1 --timeout 30", "write it as 30s, 5m or 1h30m"),
        ("claim t-1 --ttl soon", "write it as 30s"),
        ("heartbeat t-1 --owner me --token abc", "abc"),
        ("list --state asleep", "asleep"),
        ("create --max-attempts 0", "at least 1"),
        ("claim-next --queue q --max 0", "at least 1"),
        ("purge --state failed --older-than 1d --max 0", "at least 1"),
        ("list --label nolabel", "KEY=VALUE"),
        ("create --compensate branch", "KIND=TARGET"),
        ("create --request-id 7", "--request-id"),
        ("create --from x --task-id y", "--from"),
        ("work --queue q", "<COMMAND>"),
        ("watch --events --snapshot", "--snapshot"),
        ("purge --state running --older-than 1d", "running"),
    ] {
        let ran = alone(line);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "sagad {line}: {}", ran.err);
        assert!(ran.err.contains(about), "sagad {line}: {}", ran.err);
    }
    let ran = alone("claim -o json");
    let error: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!((ran.code, &error["error"]["reason"]), (2, &"USAGE".into()));
    let ran = alone("get t-1 --server example.org:7420");
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("http://HOST:PORT"), "{}", ran.err);
}

#[test]
fn nobody_there_is_5_for_every_command() {
    // Bound and not listened on: nobody else can take the port while the test runs.
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let server = format!("http://127.0.0.1:{}", socket.local_addr().unwrap().port());
    for line in [
        "create",
        "get t-1",
        "list",
        "history t-1",
        "stats",
        "watch",
        "watch --events",
        "claim t-1",
        "claim-next --queue q",
        "heartbeat t-1 --owner me --token 1",
        "cancel t-1 --reason r",
        "queues",
        "info",
        "health",
    ] {
        let ran = alone(&format!("{line} --server {server}"));
        assert_eq!((ran.code, ran.out.as_str()), (5, ""), "sagad {line}: {}", ran.err);
        assert!(ran.err.contains(&format!("no answer from {server}")), "{}", ran.err);
        assert!(ran.err.contains("SAGAD_SERVER") && !ran.err.contains("may have happened"), "{}", ran.err);
        let ran = alone(&format!("{line} --server {server} -o json"));
        let error: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
        assert_eq!((ran.code, &error["error"]["code"]), (5, &"UNAVAILABLE".into()), "{error}");
    }
}

#[test]
fn an_outcome_that_is_not_known_comes_with_the_id_to_learn_it() {
    let d = Daemon::start();
    d.signal(rustix::process::Signal::STOP);
    let ran = d.run("create --task-id t-1 --timeout 1s");
    d.signal(rustix::process::Signal::CONT);
    assert_eq!(ran.code, 5, "{}", ran.err);
    let id = ran.err.split("--request-id ").nth(1).unwrap_or_else(|| panic!("no id in {}", ran.err)).trim();
    assert_eq!(d.run(&format!("create --task-id t-1 --request-id {id}")).code, 0);
    assert_eq!(d.events("t-1"), ["created"]);
}

#[test]
fn a_reader_that_has_seen_enough_is_nothing_to_complain_about() {
    let d = Daemon::start();
    let lines: String = (0..1_500).map(|number| format!("{{\"taskId\":\"t-{number}\"}}\n")).collect();
    assert_eq!(d.run_with("create --from -", &lines).code, 0);
    for (line, first) in [("list", "TASK"), ("-o json list", "{\"taskId\":\"t-0\""), ("watch --events --after 0", "1 ")]
    {
        let script = format!("{{ \"$SAGAD\" {line}; echo \"exit $?\" >&2; }} | head -1");
        let mut command = Command::new("sh");
        command.args(["-c", &script]).env("SAGAD", env!("CARGO_BIN_EXE_sagad")).env("SAGAD_SERVER", d.url());
        let ran = Ran::of(command);
        assert!(ran.out.starts_with(first) && ran.out.lines().count() == 1, "{ran:?}");
        assert_eq!(ran.err, "exit 0\n", "{line}");
    }
}

/// Runs it on a terminal of 100 columns; `None` where there is no `script` to make one.
fn on_a_terminal(d: &Daemon, line: &str, no_color: Option<&str>) -> Option<String> {
    let inner = format!("stty cols 100; '{}' {line}", env!("CARGO_BIN_EXE_sagad"));
    let mut command = Command::new("script");
    command.args(["-qec", &inner, "/dev/null"]).env("SAGAD_SERVER", d.url()).env("TERM", "xterm");
    command.env_remove("NO_COLOR").stdin(Stdio::null());
    no_color.map(|value| command.env("NO_COLOR", value));
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap().replace('\r', ""))
}

#[test]
fn colours_and_fitting_are_for_terminals() {
    let d = Daemon::start();
    let id = "a-task-with-an-id-that-is-long";
    d.ok(&format!("create --task-id {id} --branch a-branch-with-a-name-of-30-letters"));
    d.stale("late", "");
    assert!(!d.ok("list").contains('\u{1b}'), "piped: plain");
    let Some(coloured) = on_a_terminal(&d, "list", None) else {
        println!("skipped: there is no `script` here");
        return;
    };
    assert!(coloured.contains("\u{1b}[38;5;9mrunning STALE"), "{coloured:?}");
    assert!(on_a_terminal(&d, "list", Some("")).unwrap().contains('\u{1b}'), "an empty NO_COLOR is none");
    let plain = on_a_terminal(&d, "list", Some("1")).unwrap();
    assert!(!plain.contains('\u{1b}'), "{plain:?}");
    let rows: Vec<&str> = plain.lines().collect();
    assert_eq!(rows.len(), 3, "a row each: {plain}");
    assert!(rows[1].starts_with(id) && rows[1].ends_with('…'), "the id is whole, the end is cut: {plain}");
    assert!(rows.iter().all(|row| row.chars().count() <= 100), "{plain}");
}
