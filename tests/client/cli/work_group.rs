//! A command's processes end with its lease and with the command, whatever becomes of the worker.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use rustix::process::Signal;

use super::{
    daemon::{Daemon, runs},
    running::Running,
};
use crate::support::{needs, now, until};

/// A job of two processes that tell their numbers, and that end with the file `go`, or with the directory that they are in.
fn pair(d: &Daemon) -> String {
    d.script(
        "job",
        "wait_for_it() { while [ ! -e go ] && [ -e job ]; do sleep 0.05; done; }\n\
         (sh -c 'echo $PPID >> pids'; wait_for_it) & echo $$ >> pids; wait_for_it; wait",
    )
}

fn started(d: &Daemon) -> Vec<String> {
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
    let d = Daemon::start();
    d.ok("create --task-id t-1 --queue q --payload secret");
    fs::create_dir(d.file("temp")).unwrap();
    let mut command = d.command(&format!("work --queue q --ttl 10m -- {}", pair(&d)));
    command.env("TMPDIR", d.file("temp"));
    let work = Running::start(command);
    let pids = started(&d);
    assert_eq!(fs::read_dir(d.file("temp")).unwrap().count(), 1);
    work.signal(Signal::KILL);
    gone(&pids);
    until("its files to be removed", || fs::read_dir(d.file("temp")).unwrap().count() == 0);
}

#[test]
fn a_killed_compensator_takes_its_handler_with_it() {
    let d = Daemon::start();
    d.compensating("t-1", "--queue q --compensate branch=one");
    let undo = d.spawn(&format!("compensate --queue q --ttl 10m --handler branch={}", pair(&d)));
    let pids = started(&d);
    undo.signal(Signal::KILL);
    gone(&pids);
}

#[test]
fn a_frozen_workers_command_ends_with_its_lease() {
    let d = Daemon::start();
    d.ok("create --task-id t-1 --queue q");
    let work = d.spawn(&format!("work --queue q --ttl 2s -- {}", pair(&d)));
    let pids = started(&d);
    // Over several leases it runs on: their new ends are told.
    thread::sleep(Duration::from_secs(4));
    assert!(pids.iter().all(|pid| runs(pid)));
    work.signal(Signal::STOP);
    gone(&pids);
    work.signal(Signal::CONT);
    work.await_err(&["lost t-1: "]);
    assert_eq!(work.term().code, 0);
}

/// A command behind a program that becomes it.
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
fn hangup_and_quit_are_heeded_as_term_is() {
    let d = Daemon::start();
    for (id, by) in [("a", Signal::HUP), ("b", Signal::QUIT)] {
        d.ok(&format!("create --task-id {id} --queue q"));
        let work = d.command(&format!("work --queue q --ttl 10m -- {}", pair(&d)));
        // Tests that a script runs in the background are started to ignore QUIT.
        let work = Running::start(behind(&["env", "--default-signal=HUP,QUIT"], &work));
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
    let d = Daemon::start();
    let mut work = behind(&["nohup"], &d.command("work --queue q -- true"));
    work.stdin(Stdio::null());
    let work = Running::start(work);
    d.ok("create --task-id a --queue q");
    d.await_state("a", "completed");
    work.signal(Signal::HUP);
    d.ok("create --task-id b --queue q");
    d.await_state("b", "completed");
    assert_eq!(work.term().code, 0);
}

#[test]
fn what_a_command_leaves_running_is_ended_before_its_outcome_is_told() {
    let d = Daemon::start();
    d.ok("create --task-id t-1 --queue q --max-attempts 2 --retry-backoff 1ms");
    // The second attempt looks at what the first has left.
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
fn what_left_the_group_on_purpose_is_left_alone() {
    needs!("setsid");
    let d = Daemon::start();
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
fn a_command_whose_supervisor_is_killed_is_killed_and_tried_again() {
    let d = Daemon::start();
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

/// Whatever the moment: here the command's first act is to kill it, which may be before it could say that the command runs.
#[test]
fn a_supervisor_killed_by_its_commands_first_act_leaves_no_command_running() {
    let d = Daemon::start();
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
fn as_process_1_it_reaps_and_zombies_do_not_hold_up_a_cancel() {
    needs!("pid_namespace");
    let d = Daemon::start();
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
    let work = Running::start(command);
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
    // The worker hears of it by a heartbeat, 2 s away. Then KILL would come after 10 s.
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    // Signals for process 1 are passed on.
    let init = fs::read_to_string(format!("/proc/{0}/task/{0}/children", work.child.id())).unwrap();
    let init = init.trim().parse().ok().and_then(rustix::process::Pid::from_raw).unwrap();
    rustix::process::kill_process(init, Signal::TERM).unwrap();
    work.await_err(&["taking nothing new"]);
    assert_eq!(work.finish().code, 0);
}
