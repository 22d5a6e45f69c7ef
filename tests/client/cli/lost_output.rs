//! Standard output that is closed or can't be written: a command that changes something completes it and exits 1, a check keeps
//! its exit code, and a read exits 0.

use std::{
    fs::{self, OpenOptions},
    io::pipe,
    process::Stdio,
};

use super::cli_fixture::{CliFixture, sagad};
use crate::support::{SAGAD, binary::CommandOutput};

/// Runs it with a closed pipe as its standard output.
fn with_closed_stdout(d: &CliFixture, line: &str) -> CommandOutput {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let mut command = d.command(line);
    let child = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    drop(command);
    child.wait_with_output().unwrap().into()
}

/// Runs it with `/dev/full` as its standard output.
fn on_a_full_disk(d: &CliFixture, line: &str) -> CommandOutput {
    let mut command = d.command(line);
    command.stdout(OpenOptions::new().write(true).open("/dev/full").unwrap());
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    child.wait_with_output().unwrap().into()
}

/// Asserts that it exits 1 and reports the lost result, which contains `part`.
fn assert_lost(ran: &CommandOutput, line: &str, part: &str) {
    assert_eq!(ran.code, 1, "sagad {line}: {}", ran.err);
    let told = "sagad: done, but the result could not be written to standard output: ";
    assert!(ran.err.contains(told) && ran.err.contains(part), "sagad {line}: {}", ran.err);
}

#[test]
fn an_import_continues_when_its_output_pipe_closes() {
    let d = CliFixture::start();
    let lines: String = (0..2_500).map(|number| format!("{{\"taskId\":\"t-{number}\",\"queue\":\"q\"}}\n")).collect();
    fs::write(d.file("sagas.jsonl"), lines).unwrap();
    let ran = with_closed_stdout(&d, "create --from sagas.jsonl");
    assert_lost(&ran, "create --from", "Broken pipe");
    assert!(ran.err.contains("sagad: created 2500 sagas\n"), "{}", ran.err);
    assert!(ran.err.ends_with("\n  t-0\n  and 2499 more\n"), "{}", ran.err);
    assert_eq!(d.one("stats")["ready"], "2500");
    // The same if the pipe closes after some lines.
    let script = "\"$SAGAD\" create --from more.jsonl; echo \"exit $?\" >&2";
    let lines: String = (0..20_000).map(|number| format!("{{\"taskId\":\"u-{number}\",\"queue\":\"u\"}}\n")).collect();
    fs::write(d.file("more.jsonl"), lines).unwrap();
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &format!("{{ {script}; }} | head -1")]).current_dir(d.file("."));
    command.env("SAGAD", SAGAD).env("SAGAD_SERVER", d.url());
    let ran = CommandOutput::of(command);
    assert_eq!(ran.out, "u-0\n", "{ran:?}");
    assert!(ran.err.contains("created 20000 sagas") && ran.err.ends_with("exit 1\n"), "{}", ran.err);
}

#[test]
fn a_change_whose_output_is_lost_is_made_and_exits_1() {
    let d = CliFixture::start();
    let lost = |line: &str, part: &str| {
        let ran = with_closed_stdout(&d, line);
        assert_lost(&ran, line, part);
        ran.err
    };
    lost("create --task-id a --queue q --compensate branch=x", "\n  a  planned");
    assert_eq!(d.state("a"), "planned");
    let told = lost("claim-next --queue q --owner me --ttl 5m", "\n  a  running  queue q  lease of me, token ");
    let token = told.split("token ").nth(1).unwrap().split(',').next().unwrap().to_owned();
    let lease = format!("a --owner me --token {token}");
    lost(&format!("heartbeat {lease}"), "\n  lease of me");
    lost(&format!("register-compensation {lease} --compensate dir=/w"), "\n  a  running");
    assert!(d.get("a")["compensations"].as_array().unwrap().len() >= 2);
    lost(&format!("release {lease}"), "\n  a  planned");
    lost("dispatch a --assignee w", "\n  a  dispatched");
    lost("annotate a --note n", "\n  a  dispatched");
    lost("claim a --owner w --ttl 5m", "\n  a  running");
    lost("cancel a --reason r", "\n  a  running CANCEL");
    lost("quarantine a --reason r --revoke-lease", "\n  a  quarantined");
    assert_eq!(d.state("a"), "quarantined");
    lost("pause q", "\n  q  paused");
    lost("resume q", "\n  q  open");
    assert_lost(&with_closed_stdout(&d, "backup copy.db"), "backup", "Broken pipe");
    assert!(d.file("copy.db").exists());
    assert_lost(&with_closed_stdout(&d, "restore copy.db --data anew"), "restore", "Broken pipe");
    assert!(d.file("anew/sagad.db").exists());
    assert_lost(&with_closed_stdout(&d, "vacuum --data anew"), "vacuum", "Broken pipe");
    let token = with_closed_stdout(&d, "token ci --role reader");
    assert_lost(&token, "token", "Broken pipe");
    assert!(!token.err.contains("sagad~"), "the secret is not on stderr: {}", token.err);
    assert_lost(
        &with_closed_stdout(&d, "purge --state quarantined --older-than 0s --reason r --yes"),
        "purge",
        "\n  purged 1 saga",
    );
    assert_eq!(d.run("get a").code, 4);
    let json = with_closed_stdout(&d, "-o json create --task-id b");
    let error: serde_json::Value = serde_json::from_str(&json.err).unwrap();
    assert_eq!((json.code, &error["error"]["reason"]), (1, &"FAILED".into()));
    assert!(error["error"]["message"].as_str().unwrap().contains("  b  planned"), "in words, as JSON too: {error}");
}

#[test]
fn a_read_whose_output_pipe_closes_exits_0() {
    let d = CliFixture::start();
    d.ok("create --task-id a --queue q");
    for line in [
        "get a",
        "list",
        "-o json list",
        "history a",
        "stats",
        "queues",
        "info",
        "watch --events --after 0",
        "top --once",
        "config show",
        "completions bash",
        "man",
        "--help",
        "create --help",
    ] {
        let ran = with_closed_stdout(&d, line);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "sagad {line}");
    }
    let ran = on_a_full_disk(&d, "list");
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(ran.err.starts_with("sagad: the result could not be written to standard output: No space"), "{}", ran.err);
}

#[test]
fn a_check_whose_output_is_lost_keeps_its_exit_code() {
    let d = CliFixture::start();
    for line in ["doctor", "doctor -o json", "health", "config check"] {
        let ran = with_closed_stdout(&d, line);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "sagad {line}");
    }
    d.stale("a", "--queue q");
    for line in ["doctor --patience 1ms", "doctor --patience 1ms -o json"] {
        let ran = with_closed_stdout(&d, line);
        assert_eq!((ran.code, ran.err.as_str()), (1, ""), "sagad {line}");
    }
    d.ok("backup copy.db");
    d.ok("restore copy.db --data anew");
    assert_eq!(with_closed_stdout(&d, "check --data anew").code, 0);
    // On a full disk the findings are lost without anybody's choice, so it exits 1.
    assert_lost(&on_a_full_disk(&d, "config check"), "config check", "No space");
}

#[test]
fn a_change_whose_output_disk_is_full_is_made() {
    let d = CliFixture::start();
    assert_lost(&on_a_full_disk(&d, "create --task-id a"), "create", "No space");
    assert_eq!(d.state("a"), "planned");
    assert_eq!(CommandOutput::of(sagad("--version")).code, 0);
}
