//! Common behaviour of all commands: help with examples, exit codes, output of results and errors, colours, closed pipes.

use std::process::{Command, Stdio};

use super::cli_fixture::{CliFixture, sagad};
use crate::support::{SAGAD, binary::CommandOutput};

/// Every command of the contract's command line.
const COMMANDS: &str = "serve create get list history stats watch work compensate claim claim-next heartbeat release \
    complete fail register-compensation record-compensation compensated dispatch recover waive quarantine cancel \
    annotate queues pause resume purge backup restore check config bench info health completions man";

fn alone(line: &str) -> CommandOutput {
    CommandOutput::of(sagad(line))
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
fn wrong_usage_exits_2_and_names_the_error() {
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
        ("purge --state failed --older-than 1d --reason r --max 0", "at least 1"),
        ("purge --state failed --older-than 1d", "--reason"),
        ("purge --state failed --older-than 1d --reason r", "--yes"),
        ("list --label nolabel", "KEY=VALUE"),
        ("create --compensate branch", "KIND=TARGET"),
        ("create --request-id 7", "--request-id"),
        ("create --from x --task-id y", "--from"),
        ("work --queue q", "<COMMAND>"),
        ("watch --events --snapshot", "--snapshot"),
        ("purge --state running --older-than 1d --reason r", "running"),
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
fn p12_a_duration_out_of_range_is_refused_with_its_flag() {
    for line in [
        "list --timeout",
        "get t-1 --timeout",
        "watch --timeout",
        "create --delay",
        "create --settle",
        "claim t-1 --ttl",
        "claim-next --queue q --wait",
        "heartbeat t-1 --owner me --token 1 --ttl",
        "release t-1 --owner me --token 1 --delay",
        "dispatch t-1 --assignee w --ttl",
        "purge --state failed --reason r --yes --older-than",
        "top --interval",
        "doctor --patience",
        "bench --duration",
        "bench --warmup",
        "serve --restart-grace",
        "config check --drain-grace",
    ] {
        let flag = line.split(' ').next_back().unwrap();
        for length in ["99999999999999h", "584554000000y", "18446744073709551615s", "18446744073709551616s"] {
            let ran = alone(&format!("{line} {length}"));
            assert_eq!((ran.code, ran.out.as_str()), (2, ""), "sagad {line} {length}: {}", ran.err);
            assert!(ran.err.contains(flag) && !ran.err.contains("panicked"), "sagad {line} {length}: {}", ran.err);
        }
    }
}

#[test]
fn p12_arguments_and_variables_that_are_not_utf_8_are_refused() {
    use std::os::unix::ffi::OsStrExt;
    let wrong = std::ffi::OsStr::from_bytes(b"http://\xff\xfe");
    for flag in ["--server", "--timeout", "--output", "--owner", "--state", "--label", "--limit"] {
        let mut command = sagad("list");
        command.arg(flag).arg(wrong);
        let ran = CommandOutput::of(command);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{flag}: {}", ran.err);
        assert!(!ran.err.contains("panicked"), "{flag}: {}", ran.err);
    }
    for variable in ["SAGAD_SERVER", "SAGAD_OWNER", "SAGAD_TOKEN", "SAGAD_TASK_ID"] {
        let mut command = sagad("heartbeat t-1 --owner me --token 1");
        if variable != "SAGAD_SERVER" {
            command = sagad("heartbeat");
            command.env("SAGAD_TASK_ID", "t").env("SAGAD_OWNER", "me").env("SAGAD_TOKEN", "1");
        }
        command.env(variable, wrong);
        let ran = CommandOutput::of(command);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{variable}: {}", ran.err);
        assert!(!ran.err.contains("panicked"), "{variable}: {}", ran.err);
    }
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let d = CliFixture::start();
    d.ok("create --task-id t-1");
    let empty = |line: &str, names: &[&str]| {
        let mut command = d.command(line);
        for name in names {
            command.env(name, "");
        }
        CommandOutput::of(command)
    };
    let ran = empty("list", &["SAGAD_CA", "SAGAD_CERT", "SAGAD_KEY", "SAGAD_TOKEN_FILE"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let ran = empty("claim t-1 --ttl 5m", &["SAGAD_OWNER"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let ran = empty("annotate t-1 --note n", &["SAGAD_ACTOR", "SAGAD_TASK_ID"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    // A required value without a default is missing, not malformed.
    let ran = empty("heartbeat t-1", &["SAGAD_OWNER", "SAGAD_TOKEN", "SAGAD_TASK_ID"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("required arguments") && ran.err.contains("--owner"), "{}", ran.err);
    let ran = empty("quarantine t-1 --reason r --revoke-lease", &["SAGAD_OWNER", "SAGAD_TOKEN"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "as a person");
    // The default address, whatever listens there.
    let ran = empty("get no-such-saga --timeout 1s", &["SAGAD_SERVER"]);
    assert!(ran.code == 4 || ran.code == 5 && ran.err.contains("http://127.0.0.1:7420"), "{}", ran.err);
}

#[test]
fn every_command_exits_5_without_a_coordinator() {
    // A bound port without a listener: no other process can use it during the test.
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
fn an_unknown_outcome_is_printed_with_the_request_id() {
    let d = CliFixture::start();
    d.signal(rustix::process::Signal::STOP);
    let ran = d.run("create --task-id t-1 --timeout 1s");
    d.signal(rustix::process::Signal::CONT);
    assert_eq!(ran.code, 5, "{}", ran.err);
    let id = ran.err.split("--request-id ").nth(1).unwrap_or_else(|| panic!("no id in {}", ran.err)).trim();
    assert_eq!(d.run(&format!("create --task-id t-1 --request-id {id}")).code, 0);
    assert_eq!(d.events("t-1"), ["created"]);
}

#[test]
fn a_closed_pipe_is_no_error() {
    let d = CliFixture::start();
    let lines: String = (0..1_500).map(|number| format!("{{\"taskId\":\"t-{number}\"}}\n")).collect();
    assert_eq!(d.run_with("create --from -", &lines).code, 0);
    for (line, first) in [("list", "TASK"), ("-o json list", "{\"taskId\":\"t-0\""), ("watch --events --after 0", "1 ")]
    {
        let script = format!("{{ \"$SAGAD\" {line}; echo \"exit $?\" >&2; }} | head -1");
        let mut command = Command::new("sh");
        command.args(["-c", &script]).env("SAGAD", SAGAD).env("SAGAD_SERVER", d.url());
        let ran = CommandOutput::of(command);
        assert!(ran.out.starts_with(first) && ran.out.lines().count() == 1, "{ran:?}");
        assert_eq!(ran.err, "exit 0\n", "{line}");
    }
}

/// Runs it on a terminal of 100 columns; `None` if `script`, which makes one, is missing.
fn on_a_terminal(d: &CliFixture, line: &str, no_color: Option<&str>) -> Option<String> {
    on_a_terminal_of(100, d, line, no_color)
}

fn on_a_terminal_of(columns: u16, d: &CliFixture, line: &str, no_color: Option<&str>) -> Option<String> {
    let inner = format!("stty cols {columns}; '{SAGAD}' {line}");
    let mut command = Command::new("script");
    command.args(["-qec", &inner, "/dev/null"]).env("SAGAD_SERVER", d.url()).env("TERM", "xterm");
    command.env_remove("NO_COLOR").stdin(Stdio::null());
    no_color.map(|value| command.env("NO_COLOR", value));
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap().replace('\r', ""))
}

#[test]
fn colours_and_cut_columns_are_for_terminals_only() {
    let d = CliFixture::start();
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

#[test]
fn a_narrow_terminal_omits_columns_and_names_them() {
    let d = CliFixture::start();
    let id = "01a20351-8651-7485-8291-f48890a93860";
    d.stale(id, "--queue builds-of-the-main-branch --branch fix-7");
    let Some(list) = on_a_terminal_of(80, &d, "list", Some("1")) else {
        println!("skipped: there is no `script` here");
        return;
    };
    let lines: Vec<&str> = list.lines().collect();
    assert_eq!(lines.len(), 3, "{list}");
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{list}");
    assert!(lines[0].starts_with("TASK") && lines[0].contains("STATE") && lines[0].ends_with("WHAT"), "{list}");
    assert!(lines[1].starts_with(id) && lines[1].contains("running STALE") && lines[1].ends_with("fix-7"), "{list}");
    assert_eq!(lines[2], "sagad: no room for TRY, UPDATED, QUEUE; -o wide shows all", "{list}");
    let narrow = on_a_terminal_of(60, &d, "list", Some("1")).unwrap();
    assert!(narrow.lines().nth(1).unwrap().contains("running STALE"), "{narrow}");
    d.ok("pause builds-of-the-main-branch --reason 'the registry is down'");
    for line in ["stats", "queues"] {
        let text = on_a_terminal_of(60, &d, line, Some("1")).unwrap();
        let table =
            text.lines().take_while(|line| !line.contains("; revision ") && !line.starts_with("sagad: no room"));
        assert!(table.clone().count() == 2 && table.clone().all(|line| line.chars().count() <= 60), "{text}");
        assert!(text.contains("builds-of-the-main-branch") && text.contains("; -o wide shows all"), "{text}");
    }
    d.ok(&format!(
        "annotate {id} --note 'a note that is so long that it does not fit into eighty columns' --detail a=b"
    ));
    let history = on_a_terminal_of(80, &d, &format!("history {id}"), Some("1")).unwrap();
    assert!(history.lines().all(|line| line.chars().count() <= 80), "{history}");
    assert!(history.contains("created") && history.contains("no room for REVISION, "), "{history}");
    let begins: Vec<&str> = history.lines().filter_map(|line| line.get(14..18)).take(4).collect();
    assert_eq!(begins, ["  cr", "  cl", "  le", "  an"], "each line begins alike: {history}");
    // A wide terminal, or none, shows all columns.
    for wide in [on_a_terminal_of(60, &d, "list -o wide", Some("1")).unwrap(), d.ok("list")] {
        let columns: Vec<&str> = wide.lines().next().unwrap().split_whitespace().collect();
        assert_eq!(columns, ["TASK", "STATE", "QUEUE", "OWNER", "UNTIL", "TRY", "UPDATED", "WHAT"], "{wide}");
        assert!(!wide.contains("no room"), "{wide}");
    }
    let wide = on_a_terminal_of(60, &d, &format!("history {id} -o wide"), Some("1")).unwrap();
    assert!(wide.contains("into eighty columns  [a=b]"), "{wide}");
}

/// The help of a command, on one line.
fn help(command: &str) -> String {
    alone(&format!("{command} --help")).out.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_help_on_ids_and_references_is_true() {
    let d = CliFixture::start();
    let create = help("create");
    assert!(create.contains("Its id, which no other saga of the store has"), "{create}");
    d.ok("create --task-id a --saga-id s --queue q --branch fix-7 --payload secret --label team=x");
    d.refused(3, "SAGA_EXISTS", "create --task-id a");
    assert!(create.contains("A second id, by which other systems know it; no other saga has it"), "{create}");
    d.refused(3, "SAGA_EXISTS", "create --task-id b --saga-id s");
    let token = d.claim("a", "me", "--ttl 5m");
    d.ok(&format!("complete a --owner me --token {token}"));
    assert!(create.contains("It is only recorded: nothing is copied, and that saga need not exist"), "{create}");
    let again = d.one("create --task-id c --retry-of a");
    assert_eq!(again["retryOf"], "a");
    for field in ["branch", "payload", "labels"] {
        assert!(again[field].is_null(), "{field}: {again}");
    }
    assert_eq!(again["queue"], "default");
    assert_eq!(d.one("create --task-id d --retry-of nobody")["retryOf"], "nobody");
    d.ok("purge --state completed --older-than 0s --reason r --yes");
    d.ok("create --task-id a");
}

#[test]
fn the_help_on_claims_is_true() {
    let d = CliFixture::start();
    let (create, list) = (help("create"), help("list"));
    assert!(create.contains("claim-next hands out the highest first"), "{create}");
    d.ok("create --task-id low --queue q");
    d.ok("create --task-id high --queue q --priority 1");
    assert_eq!(d.one("claim-next --queue q --owner me --ttl 5m")["taskId"], "high");
    d.claim("low", "me", "--ttl 5m");
    assert!(list.contains("Only sagas whose current or last lease is this worker's"), "{list}");
    let token = d.get("high")["lease"]["fencingToken"].as_str().unwrap().to_owned();
    d.ok(&format!("complete high --owner me --token {token}"));
    assert_eq!(d.json("list --owner me").len(), 2, "the one that it held, too");
    assert!(create.contains("How long it can't be claimed for execution"), "{create}");
    d.ok("create --task-id later --delay 1h --compensate branch=x");
    d.refused(3, "NOT_READY", "claim later");
    d.claim("later", "me", "--purpose compensate");
    assert!(help("claim-next").contains("How long to wait for a saga, up to 60s"));
    let error = d.refused(2, "INVALID_ARGUMENT", "claim-next --queue nothing --wait 61s");
    assert_eq!(error["violations"][0]["field"], "wait", "{error}");
    assert!(help("top").contains("How often to look at the server, 100ms to 24h"));
    d.run("top --once --interval 99ms").assert_usage();
    d.run("top --once --interval 25h").assert_usage();
    assert!(help("list").contains("How long one call may take, 1ms to 24h"));
    d.run("list --timeout 0s").assert_usage();
    d.run("list --timeout 25h").assert_usage();
    assert!(help("pause").contains("Stop handing out a queue's sagas by claim-next"));
    d.ok("create --task-id p --queue paused");
    d.ok("pause paused");
    assert_eq!(d.json("claim-next --queue paused").len(), 0);
    d.claim("p", "me", "");
}

#[test]
fn the_help_on_dead_workers_is_true() {
    let d = CliFixture::start();
    let create = help("create");
    for command in ["work", "compensate"] {
        let told = "This long after a worker dies, its saga is stale, and its policy or a person decides";
        assert!(help(command).contains(told), "{command}");
    }
    d.stale("held", "--queue q");
    assert_eq!(d.json("claim-next --queue q").len(), 0, "stale, not free");
    assert!(help("recover").contains("Plan it again, for any worker"));
    d.ok("recover held --decision requeue --reason r");
    assert_eq!(d.json("claim-next --queue q --owner gone --ttl 5m").len(), 1, "the one that had it, too");
    assert!(
        create.contains("It is compensated; if no compensation was ever registered, that is done at once"),
        "{create}"
    );
    d.expiring("nothing", "--on-stale compensate");
    d.await_state("nothing", "compensated");
    d.expiring("something", "--on-stale compensate --compensate branch=x");
    d.await_state("something", "compensating");
    assert!(create.contains("at which expiry it is compensated instead"), "{create}");
    d.expiring("twice", "--on-stale requeue --max-expirations 2 --compensate branch=x");
    d.await_state("twice", "planned");
    d.claim("twice", "gone", "--ttl 200ms");
    d.await_state("twice", "compensating");
}
