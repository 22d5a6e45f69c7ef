//! Texts with control and invisible characters: what commands print, as text and as JSON, and how workers treat texts that no
//! program can receive.

use rusqlite::Connection;
use rustix::process::Signal;
use sagad::domain::characters::{all_unprintable, is_unprintable};
use serde_json::{Value, json};

use super::{cli_fixture::CliFixture, running_command::RunningCommand};
use crate::support::{binary::CommandOutput, until};

/// Texts with all these characters except NUL, which is refused.
fn texts() -> Vec<String> {
    let all: Vec<char> = all_unprintable().filter(|c| *c != '\0').collect();
    all.chunks(900).map(|some| format!("a{}b", some.iter().collect::<String>())).collect()
}

/// Asserts that the output has no such character.
fn assert_escaped(ran: &CommandOutput, line: &str) {
    for text in [&ran.out, &ran.err] {
        let bad = text.chars().find(|c| *c != '\n' && is_unprintable(*c));
        assert_eq!(bad, None, "sagad {line}\n{}\n{}", ran.out, ran.err);
    }
}

#[test]
fn control_characters_are_never_printed_unescaped() {
    let d = CliFixture::start();
    for (number, text) in texts().iter().enumerate() {
        let request = json!({
            "taskId": format!("t-{number}"), "queue": "q", "branch": text, "worktree": text,
            "labels": {"k": text.chars().take(60).collect::<String>()},
            "compensations": [{"kind": "branch", "target": text, "reason": text}],
        });
        let ran = d.run_with("create --from - -o json", &format!("{request}\n"));
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert_escaped(&ran, "create");
        for line in ["annotate", "quarantine"] {
            let mut command = d.command(&format!("{line} t-{number}"));
            command.args([if line == "annotate" { "--note" } else { "--reason" }, text]);
            let ran = CommandOutput::of(command);
            assert_eq!(ran.code, 0, "{line}: {}", ran.err);
            assert_escaped(&ran, line);
        }
        let mut command = d.command("pause q");
        command.args(["--reason", text]);
        assert_escaped(&CommandOutput::of(command), "pause");
        // Errors quote their arguments.
        for line in ["get", "list --queue", "nonsense", "get --output", "claim t-0 --ttl 1s --owner"] {
            for form in ["text", "json"] {
                let mut command = d.command(&format!("-o {form} {line}"));
                command.arg(text.chars().take(40).collect::<String>());
                let ran = CommandOutput::of(command);
                assert_ne!(ran.code, 0, "{line}");
                assert_escaped(&ran, line);
            }
        }
    }
    for line in [
        "get t-0",
        "get t-1",
        "list",
        "list -o wide",
        "history t-0",
        "history t-1",
        "stats",
        "queues",
        "top --once",
        "doctor",
        "watch --snapshot",
        "info",
    ] {
        for form in ["", "-o json"] {
            let line = format!("{line} {form}");
            let ran = d.run(&line);
            assert_escaped(&ran, &line);
            if !form.is_empty() {
                ran.out.lines().for_each(|line| drop(serde_json::from_str::<Value>(line).expect(line)));
            }
        }
    }
    // The JSON value is unchanged.
    for (number, text) in texts().iter().enumerate() {
        assert_eq!(d.get(&format!("t-{number}"))["branch"], text.as_str());
    }
    let events = d.json("history t-0");
    assert!(events.iter().any(|event| event["reason"] == texts()[0].as_str()), "{events:?}");
}

#[test]
fn a_worker_prints_no_control_characters() {
    let d = CliFixture::start();
    let text = "b\u{9b}31m\u{202e}\u{2028}c";
    d.ok("create --task-id t --queue q");
    let work = d.spawn("work --queue q -- sleep 30");
    d.await_state("t", "running");
    let mut command = d.command("cancel t");
    command.args(["--reason", text]);
    assert_eq!(CommandOutput::of(command).code, 0);
    until("the cancel is printed", || work.err().iter().any(|line| line.contains("31m")));
    super::cli_fixture::signal(&work.child, Signal::TERM);
    let ran: CommandOutput = RunningCommand::finish(work);
    assert!(ran.err.contains("b\\u{9b}31m\\u{202e}\\u{2028}c"), "{}", ran.err);
    assert_escaped(&ran, "work");
}

/// Coordinators up to 0.1.0 accepted NUL, so stores may contain it.
#[test]
fn a_text_with_nul_fails_the_attempt_and_names_the_field() {
    let mut d = CliFixture::start();
    for id in ["t-branch", "t-fine"] {
        d.ok(&format!("create --task-id {id} --queue q --branch fix"));
    }
    d.ok("create --task-id t-kept --queue q --branch fix --compensate branch=fix");
    d.compensating("t-target", "--queue undo --compensate branch=fix");
    let store = Connection::open(d.file("data/sagad.db")).unwrap();
    let with_nul = "fix\0-7\u{202e}";
    for statement in [
        "UPDATE saga SET branch = ?1 WHERE task_id IN ('t-branch', 't-kept')",
        "UPDATE compensation SET target = ?1 WHERE saga = (SELECT id FROM saga WHERE task_id = 't-target')",
        "UPDATE event SET actor = ?1, reason = ?1 WHERE saga = (SELECT id FROM saga WHERE task_id = 't-target')",
    ] {
        assert!(store.execute(statement, [with_nul]).unwrap() > 0, "{statement}");
    }
    drop(store);
    d.restart(Signal::KILL);
    // The saga can still be read.
    assert_eq!(d.get("t-branch")["branch"], with_nul);
    assert_eq!(d.get("t-target")["compensations"][0]["target"], with_nul);
    assert!(d.ok("get t-branch").contains("fix\\u{0}-7\\u{202e}"));
    assert!(d.ok("history t-target").contains("fix\\u{0}-7"));

    let ran = d.run("work --queue q --drain -- true");
    assert_eq!(ran.code, 0, "{}", ran.err);
    const TOLD: &str = "its branch holds a NUL character, which can't be in a program's environment";
    assert!(ran.err.contains(TOLD), "{}", ran.err);
    assert_eq!(
        (d.state("t-fine"), d.state("t-branch"), d.state("t-kept")),
        ("completed".into(), "quarantined".into(), "failed".into())
    );
    assert_eq!(d.get("t-branch")["terminalReason"], TOLD);
    assert_eq!(d.get("t-branch")["attempt"], 1, "it is not tried over and over");

    let ran = d.run("compensate --queue undo --drain --attempts 2 --handler branch=true");
    assert_eq!(ran.code, 0, "{}", ran.err);
    let saga = d.get("t-target");
    assert_eq!(saga["state"], "SAGA_STATE_QUARANTINED", "{}", ran.err);
    let told = saga["compensations"][0]["lastError"].as_str().unwrap();
    assert!(told.starts_with("its target holds a NUL character"), "{saga}");
}
