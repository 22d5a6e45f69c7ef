//! `sagad work` and `compensate` that can't start their command: no saga is failed for it.

use std::{fs, path::Path};

use rustix::process::{Resource, Rlimit, prlimit};

use super::{
    cli_fixture::{CliFixture, pid_of},
    running_command::RunningCommand,
};
use crate::support::{binary::CommandOutput, until};

const FIVE: &str = "could not be started 5 times in a row";

fn create(d: &CliFixture, count: usize) {
    let lines: String = (0..count).map(|n| format!("{{\"taskId\":\"t-{n}\",\"queue\":\"q\"}}\n")).collect();
    assert_eq!(d.run_with("create --from -", &lines).code, 0);
}

/// Asserts that all sagas are planned, after a few claims that were released.
fn nothing_is_lost(d: &CliFixture, count: usize, claims_max: usize) {
    let sagas = d.json("list --state planned --limit 1000");
    assert_eq!(sagas.len(), count);
    assert!(sagas.iter().all(|saga| saga["failures"].is_null()), "{sagas:?}");
    let claims: i64 = sagas.iter().filter_map(|saga| saga["attempt"].as_i64()).sum();
    assert!(usize::try_from(claims).unwrap() <= claims_max, "{claims} claims");
}

/// An executable script whose interpreter does not exist.
fn script_without_interpreter(d: &CliFixture) -> String {
    let script = d.script("script_without_interpreter", "");
    fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    script
}

#[test]
fn a_missing_program_is_reported_before_anything_is_claimed() {
    let d = CliFixture::start();
    create(&d, 20);
    let plain = d.file("plain");
    fs::write(&plain, "not executable").unwrap();
    let plain = plain.to_str().unwrap();
    let directory = d.file("data");
    for (program, why) in [
        ("./no-such-file", "No such file or directory"),
        ("no-such-program", "no directory of PATH has a program of that name"),
        (plain, "is not executable"),
        (directory.to_str().unwrap(), "is a directory"),
    ] {
        let error = d.refused(2, "USAGE", &format!("work --queue q -- {program}"));
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(&format!("can't run {program}: ")) && message.contains(why), "{message}");
    }
    let mut command = d.command("compensate --queue q --handler branch=true");
    command.env("PATH", "/nowhere");
    let ran = CommandOutput::of(command);
    assert!(ran.code == 2 && ran.err.contains("can't run sh: "), "{}", ran.err);
    nothing_is_lost(&d, 20, 0);
}

#[test]
fn a_command_that_cannot_start_ends_the_worker_and_changes_no_saga() {
    let d = CliFixture::start();
    create(&d, 50);
    let script = script_without_interpreter(&d);
    for flags in ["", "--drain", "--concurrency 10"] {
        let work = d.spawn(&format!("work --queue q {flags} -- {script}"));
        let ran = work.finish();
        assert_eq!(ran.code, 1, "{flags}: {}", ran.err);
        let last = ran.err.lines().last().unwrap();
        assert!(
            last.contains(FIVE) && last.contains("script_without_interpreter: No such file or directory"),
            "{last}"
        );
    }
    // Ten sagas that were claimed together count once.
    nothing_is_lost(&d, 50, 5 + 5 + 50);
}

#[test]
fn a_draining_worker_retries_the_last_saga_that_could_not_start() {
    let d = CliFixture::start();
    d.ok("create --task-id t-1 --queue q");
    let script = script_without_interpreter(&d);
    let work = d.spawn(&format!("work --queue q --drain -- {script}"));
    work.await_err(&["planned t-1: could not start"]);
    fs::write(&script, "#!/bin/sh\nexit 0\n").unwrap();
    let ran = work.finish();
    assert_eq!((ran.code, d.state("t-1").as_str()), (0, "completed"), "{}", ran.err);
}

/// A worker with a temporary directory that the test can remove.
fn with_temp(d: &CliFixture, line: &str) -> RunningCommand {
    fs::create_dir(d.file("temp")).unwrap();
    let mut command = d.command(line);
    command.env("TMPDIR", d.file("temp"));
    RunningCommand::start(command)
}

#[test]
fn without_a_temporary_directory_a_worker_claims_nothing_or_releases_it() {
    let d = CliFixture::start();
    d.ok("create --task-id slow --queue slow");
    for line in ["work --queue slow -- true", "compensate --queue slow --handler branch=true"] {
        let mut command = d.command(line);
        command.env("TMPDIR", "/nonexistent");
        let ran = CommandOutput::of(command);
        assert!(ran.code == 1 && ran.err.contains("can't make files in /nonexistent"), "{}: {}", ran.code, ran.err);
    }
    nothing_is_lost(&d, 1, 0);
    let work = with_temp(&d, "work --queue slow,q -- sh -c 'while [ -e data ] && [ ! -e go ]; do sleep 0.05; done'");
    work.await_err(&["claimed slow"]);
    create(&d, 5);
    fs::remove_dir_all(d.file("temp")).unwrap();
    fs::write(d.file("go"), "").unwrap();
    let ran = work.finish();
    assert!(ran.code == 1 && ran.err.contains(FIVE) && ran.err.contains("completed slow"), "{}", ran.err);
    nothing_is_lost(&d, 5, 5);
}

#[test]
fn a_handler_that_cannot_start_counts_as_no_attempt() {
    let d = CliFixture::start();
    d.compensating("slow", "--queue slow --compensate branch=one");
    let wait = "[ $SAGAD_TASK_ID != slow ] || while [ -e data ] && [ ! -e go ]; do sleep 0.05; done";
    let undo = with_temp(&d, &format!("compensate --queue slow,q --attempts 1 --handler 'branch={wait}'"));
    undo.await_err(&["claimed slow"]);
    for id in ["a", "b", "c"] {
        d.compensating(id, "--queue q --compensate branch=one");
    }
    fs::remove_dir_all(d.file("temp")).unwrap();
    fs::write(d.file("go"), "").unwrap();
    let ran = undo.finish();
    assert!(ran.code == 1 && ran.err.contains(FIVE), "{}", ran.err);
    for id in ["a", "b", "c"] {
        let saga = d.get(id);
        assert_eq!(saga["state"], "SAGA_STATE_COMPENSATING", "{saga}");
        assert!(saga["compensations"][0]["attempts"].is_null(), "{saga}");
    }
    assert_eq!(d.state("slow"), "compensated");
    // The saga is released, so that another compensator can do it.
    let undo = d.spawn("compensate --queue q --handler branch=true");
    until("all of them to be undone", || d.json("list --state compensated").len() == 4);
    assert_eq!(undo.term().code, 0);
}

#[test]
fn a_worker_without_file_descriptors_waits() {
    let d = CliFixture::start();
    let work = d.spawn("work --queue q -- true");
    d.ok("create --task-id first --queue q");
    d.await_state("first", "completed");
    let pid = pid_of(&work.child);
    // The limit leaves no free descriptor. Those of the first command are closed a moment after its saga is completed.
    let descriptors = Path::new("/proc").join(work.child.id().to_string()).join("fd");
    let lowest_free = || (0..).find(|number: &u64| fs::symlink_metadata(descriptors.join(number.to_string())).is_err());
    let mut limit = lowest_free();
    until("the first command's descriptors to be closed", || {
        std::thread::sleep(std::time::Duration::from_millis(300));
        let before = std::mem::replace(&mut limit, lowest_free());
        limit == before
    });
    let limited_to = |current| {
        prlimit(Some(pid), Resource::Nofile, Rlimit { current, maximum: Some(4096) }).unwrap();
    };
    limited_to(limit);
    create(&d, 5);
    work.await_err(&["could not start", "Too many open files"]);
    limited_to(Some(1024));
    until("all of them to be done", || d.json("list --state completed").len() == 6);
    assert_eq!(work.term().code, 0);
}

#[test]
fn exit_127_of_a_shell_is_the_commands_own_failure() {
    let d = CliFixture::start();
    d.ok("create --task-id t-1 --queue q");
    let ran = d.run("work --queue q --drain -- sh -c ./no-such-file");
    assert_eq!((ran.code, d.state("t-1").as_str()), (0, "quarantined"), "{}", ran.err);
    assert_eq!(d.get("t-1")["terminalReason"], "exit code 127");
}
