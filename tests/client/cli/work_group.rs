//! A command's process group ends with its lease and with the command, even if the worker is killed or stopped.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use rustix::process::Signal;

use super::{
    cli_fixture::{CliFixture, runs},
    running_command::RunningCommand,
};
use crate::support::{needs, now, until};

/// A job of two processes that write their pids, and end when the file `go` exists or their directory is removed.
fn pair(d: &CliFixture) -> String {
    d.script(
        "job",
        "wait_for_it() { while [ ! -e go ] && [ -e job ]; do sleep 0.05; done; }\n\
         (sh -c 'echo $PPID >> pids'; wait_for_it) & echo $$ >> pids; wait_for_it; wait",
    )
}

fn started(d: &CliFixture) -> Vec<String> {
    until("the job to run", || d.lines("pids").len() == 2);
    let pids = d.lines("pids");
    assert!(pids.iter().all(|pid| runs(pid)), "{pids:?}");
    pids
}

fn gone(pids: &[String]) {
    until("all of the job's processes to be gone", || !pids.iter().any(|pid| runs(pid)));
}

#[test]
fn a_killed_worker_takes_its_command_with_it() {
    let d = CliFixture::start();
    d.ok("create --task-id t-1 --queue q --payload secret");
    fs::create_dir(d.file("temp")).unwrap();
    let mut command = d.command(&format!("work --queue q --ttl 10m -- {}", pair(&d)));
    command.env("TMPDIR", d.file("temp"));
    let work = RunningCommand::start(command);
    let pids = started(&d);
    assert_eq!(fs::read_dir(d.file("temp")).unwrap().count(), 1);
    work.signal(Signal::KILL);
    gone(&pids);
    until("its files to be removed", || fs::read_dir(d.file("temp")).unwrap().count() == 0);
}

#[test]
fn a_killed_compensator_takes_its_handler_with_it() {
    let d = CliFixture::start();
    d.compensating("t-1", "--queue q --compensate branch=one");
    let undo = d.spawn(&format!("compensate --queue q --ttl 10m --handler branch={}", pair(&d)));
    let pids = started(&d);
    undo.signal(Signal::KILL);
    gone(&pids);
}

#[test]
fn the_command_of_a_stopped_worker_ends_with_its_lease() {
    let d = CliFixture::start();
    d.ok("create --task-id t-1 --queue q");
    let work = d.spawn(&format!("work --queue q --ttl 2s -- {}", pair(&d)));
    let pids = started(&d);
    // It runs over several leases, because the supervisor is told of each new deadline.
    thread::sleep(Duration::from_secs(4));
    assert!(pids.iter().all(|pid| runs(pid)));
    work.signal(Signal::STOP);
    gone(&pids);
    work.signal(Signal::CONT);
    work.await_err(&["lost t-1: "]);
    assert_eq!(work.term().code, 0);
}

/// A command started through another program that executes it.
fn behind(program: &[&str], command: &Command) -> Command {
    let mut whole = Command::new(program[0]);
    whole.args(&program[1..]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => whole.env(name, value),
            None => whole.env_remove(name),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        whole.current_dir(directory);
    }
    whole
}

#[test]
fn hangup_and_quit_act_as_term() {
    let d = CliFixture::start();
    for (id, by) in [("a", Signal::HUP), ("b", Signal::QUIT)] {
        d.ok(&format!("create --task-id {id} --queue q"));
        let work = d.command(&format!("work --queue q --ttl 10m -- {}", pair(&d)));
        // Background processes of a script are started with QUIT ignored.
        let work = RunningCommand::start(behind(&["env", "--default-signal=HUP,QUIT"], &work));
        let pids = started(&d);
        work.signal(by);
        work.await_err(&["taking nothing new"]);
        assert!(pids.iter().all(|pid| runs(pid)), "the command is let run to its end");
        work.signal(by);
        let ran = work.finish();
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert!(ran.err.contains(&format!("planned {id}: the worker was told to end")), "{}", ran.err);
        gone(&pids);
        fs::remove_file(d.file("pids")).unwrap();
        d.ok(&format!("quarantine {id} --reason done"));
    }
}

#[test]
fn a_worker_under_nohup_outlives_its_terminal() {
    let d = CliFixture::start();
    let mut work = behind(&["nohup"], &d.command("work --queue q -- true"));
    work.stdin(Stdio::null());
    let work = RunningCommand::start(work);
    d.ok("create --task-id a --queue q");
    d.await_state("a", "completed");
    work.signal(Signal::HUP);
    d.ok("create --task-id b --queue q");
    d.await_state("b", "completed");
    assert_eq!(work.term().code, 0);
}

#[test]
fn processes_left_by_a_command_are_ended_before_its_outcome_is_reported() {
    let d = CliFixture::start();
    d.ok("create --task-id t-1 --queue q --max-attempts 2 --retry-backoff 1ms");
    // The second attempt checks what the first has left running.
    let script = d.script(
        "job",
        "[ $SAGAD_ATTEMPT = 1 ] || { kill -0 \"$(cat left)\" 2>/dev/null && echo beside > beside; exit 0; }\n\
         (trap '' TERM; while [ -e job ]; do date >> written; sleep 0.05; done) & echo $! > left; exit 75",
    );
    let work = d.spawn(&format!("work --queue q --kill-after 500ms -- {script}"));
    d.await_state("t-1", "completed");
    assert!(!d.file("beside").exists());
    let written = d.lines("written").len();
    thread::sleep(Duration::from_millis(300));
    assert_eq!(d.lines("written").len(), written);
    work.await_err(&["t-1 left processes running, which were ended"]);
    assert_eq!(work.term().code, 0);
    let help = d.run("work --help").out;
    assert!(help.contains("processes that it leaves running in its group are ended"), "{help}");
}

#[test]
fn processes_that_left_the_group_are_not_ended() {
    needs!("setsid");
    let d = CliFixture::start();
    d.ok("create --task-id t-1 --queue q");
    let script = d.script(
        "job",
        "setsid sh -c 'echo $$ > left; while [ -e job ]; do sleep 0.05; done' >/dev/null 2>&1 &\n\
                                  while [ ! -s left ]; do sleep 0.05; done",
    );
    let ran = d.run(&format!("work --queue q --drain -- {script}"));
    assert!(ran.code == 0 && !ran.err.contains("left processes"), "{}", ran.err);
    assert!(runs(&d.lines("left")[0]));
}

#[test]
fn a_command_whose_supervisor_is_killed_is_killed_and_retried() {
    let d = CliFixture::start();
    d.ok("create --task-id t-1 --queue q --max-attempts 2 --retry-backoff 1h");
    let work = d.spawn(&format!("work --queue q --ttl 10m -- {}", pair(&d)));
    let pids = started(&d);
    let leader = pids.iter().find(|pid| parent(pid) != pids[0] && parent(pid) != pids[1]).unwrap();
    let supervisor = parent(leader).parse().ok().and_then(rustix::process::Pid::from_raw).unwrap();
    rustix::process::kill_process(supervisor, Signal::KILL).unwrap();
    work.await_err(&["planned t-1: the process that watches over the command ended (killed by signal 9)"]);
    gone(&pids);
    assert_eq!(work.term().code, 0);
}

/// The command kills its supervisor first, possibly before the supervisor has reported that the command runs.
#[test]
fn a_command_that_kills_its_supervisor_at_once_is_ended() {
    let d = CliFixture::start();
    let job = d.script("job", "kill -9 $PPID; echo $$ >> pids; while [ -e job ]; do sleep 0.05; done");
    let count = 16;
    for n in 0..count {
        d.ok(&format!("create --task-id t-{n} --queue q --max-attempts 2 --retry-backoff 1h"));
    }
    let work = d.spawn(&format!("work --queue q --ttl 10m --concurrency 4 -- {job}"));
    for n in 0..count {
        work.await_err(&[&format!(
            "planned t-{n}: the process that watches over the command ended (killed by signal 9)"
        )]);
    }
    gone(&if d.file("pids").exists() { d.lines("pids") } else { Vec::new() });
    assert_eq!(work.term().code, 0);
}

fn parent(pid: &str) -> String {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap();
    stat.rsplit(')').next().unwrap().split_whitespace().nth(1).unwrap().to_owned()
}

#[test]
fn as_process_1_the_worker_reaps_zombies_and_they_do_not_delay_a_cancel() {
    needs!("pid_namespace");
    let d = CliFixture::start();
    let script = d.script(
        "job",
        "case $SAGAD_TASK_ID in\n\
         orphans) for n in 1 2 3; do setsid sh -c 'sleep 0.2 & sleep 0.1' & done; wait; sleep 0.5;;\n\
         count) sleep 0.5; grep -l '^State:.Z' /proc/[0-9]*/status > zombies; cut -d' ' -f4 /proc/$$/stat > parent;;\n\
         *) sh -c 'sleep 100 & echo > ready; wait' & wait;;\n\
         esac",
    );
    let work = d.command(&format!("work --queue q --ttl 6s -- {script}"));
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc"]).arg(work.get_program()).args(work.get_args());
    command.env("SAGAD_SERVER", d.url()).current_dir(d.file("")).stdin(Stdio::null());
    let work = RunningCommand::start(command);
    for id in ["orphans", "count"] {
        d.ok(&format!("create --task-id {id} --queue q"));
        d.await_state(id, "completed");
    }
    assert_eq!(d.lines("zombies"), Vec::<String>::new());
    assert_ne!(d.lines("parent"), ["1"], "a process of its own reaps");
    d.ok("create --task-id long --queue q --compensate branch=x");
    until("the job to run", || d.file("ready").exists());
    let begun = now();
    d.ok("cancel long --reason 'not needed'");
    work.await_err(&["long: cancelled: not needed"]);
    // The worker learns of the cancel by a heartbeat, up to 2 s later. KILL would follow after another 10 s.
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    // Process 1 passes signals on.
    let init = fs::read_to_string(format!("/proc/{0}/task/{0}/children", work.child.id())).unwrap();
    let init = init.trim().parse().ok().and_then(rustix::process::Pid::from_raw).unwrap();
    rustix::process::kill_process(init, Signal::TERM).unwrap();
    work.await_err(&["taking nothing new"]);
    assert_eq!(work.finish().code, 0);
}
