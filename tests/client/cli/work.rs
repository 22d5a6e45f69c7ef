//! `sagad work`: the command, its environment, and its exit code.

use super::cli_fixture::CliFixture;
use crate::support::{SAGAD, until};

#[test]
fn the_command_gets_its_saga_in_the_environment_and_exit_0_completes_it() {
    let d = CliFixture::start();
    d.ok(
        "create --task-id t-1 --saga-id s-1 --queue q --issue 7 --branch fix-7 --worktree /w/7 --payload 'the payload'",
    );
    let script = d.script(
        "job",
        "for name in TASK_ID SAGA_ID QUEUE ATTEMPT ISSUE BRANCH WORKTREE OWNER TOKEN SERVER; do\n\
         eval echo \"$name=\\$SAGAD_$name\" >> env; done\n\
         echo \"PAYLOAD=$(cat \"$SAGAD_PAYLOAD_FILE\")\" >> env\n\
         echo \"MODE=$(stat -c %a \"$SAGAD_PAYLOAD_FILE\" 2>/dev/null)\" >> env\n\
         echo \"$SAGAD_PAYLOAD_FILE\" > path\n\
         echo \"to stdout $*\"; echo to stderr >&2; cat",
    );
    let ran = d.run(&format!("work --queue q --owner me --drain -- {script} one 'two words'"));
    assert_eq!((ran.code, ran.out.as_str()), (0, "to stdout one two words\n"), "{}", ran.err);
    assert!(ran.err.contains("sagad: claimed t-1 (queue q, attempt 1, token 2)\n"), "{}", ran.err);
    assert!(ran.err.contains("to stderr\n") && ran.err.contains("sagad: completed t-1\n"), "{}", ran.err);
    let url = d.url();
    let expected = [
        "TASK_ID=t-1",
        "SAGA_ID=s-1",
        "QUEUE=q",
        "ATTEMPT=1",
        "ISSUE=7",
        "BRANCH=fix-7",
        "WORKTREE=/w/7",
        "OWNER=me",
        "TOKEN=2",
        &format!("SERVER={url}"),
        "PAYLOAD=the payload",
        "MODE=600",
    ];
    assert_eq!(d.lines("env"), expected);
    assert!(!std::path::Path::new(&d.lines("path")[0]).exists(), "the payload's file goes away");
    assert_eq!(d.state("t-1"), "completed");
}

#[test]
fn exit_75_is_retried_after_the_backoff() {
    let d = CliFixture::start();
    d.ok("create --task-id t-1 --queue q --max-attempts 3 --retry-backoff 300ms");
    let script = d.script("job", "echo \"$SAGAD_ATTEMPT\" >> tries; [ \"$SAGAD_ATTEMPT\" = 3 ] || exit 75");
    let work = d.spawn(&format!("work --queue q -- {script}"));
    d.await_state("t-1", "completed");
    assert_eq!(d.lines("tries"), ["1", "2", "3"]);
    work.await_err(&["planned t-1: exit code 75"]);
    assert_eq!(work.term().code, 0);
    let saga = d.get("t-1");
    assert_eq!((&saga["failures"], &saga["attempt"]), (&2.into(), &3.into()));
    // Claimed again no earlier than after the backoff: 300 ms, then 600 ms.
    let events = d.json("history t-1");
    let at = |index: usize| chrono::DateTime::parse_from_rfc3339(events[index]["time"].as_str().unwrap()).unwrap();
    let kinds = d.events("t-1");
    assert_eq!(kinds[1..5], ["claimed", "retry_scheduled", "claimed", "retry_scheduled"]);
    assert!((at(3) - at(2)).num_milliseconds() >= 300 && (at(5) - at(4)).num_milliseconds() >= 600);
}

#[test]
fn another_exit_code_fails_or_quarantines_the_saga() {
    let d = CliFixture::start();
    d.ok("create --task-id registered --queue q --compensate branch=x");
    d.ok("create --task-id bare --queue q");
    d.ok("create --task-id killed --queue q --compensate branch=x");
    d.ok("create --task-id undo --queue q --compensate branch=x --on-failure compensate");
    let script = d.script("job", "[ \"$SAGAD_TASK_ID\" = killed ] && kill -9 $$; exit 3");
    let ran = d.run(&format!("work --queue q --drain -- {script}"));
    assert_eq!(ran.code, 0, "that sagas fail is no failure of the worker: {}", ran.err);
    for (id, state, reason) in [
        ("registered", "failed", "exit code 3"),
        ("bare", "quarantined", "exit code 3"),
        ("killed", "failed", "killed by signal 9"),
    ] {
        assert_eq!((d.state(id).as_str(), d.get(id)["terminalReason"].as_str()), (state, Some(reason)), "{id}");
        assert!(ran.err.contains(&format!("sagad: {state} {id}: {reason}\n")), "{}", ran.err);
    }
    assert_eq!(d.state("undo"), "compensating");
}

#[test]
fn a_command_can_register_a_compensation() {
    let d = CliFixture::start();
    d.ok("create --task-id t-1 --queue q");
    let sagad = SAGAD;
    let script = d.script(
        "job",
        &format!(
            "'{sagad}' heartbeat --progress half || exit 10\n\
             '{sagad}' register-compensation --compensate dir=/w --reason made || exit 11\nexit 3"
        ),
    );
    d.run(&format!("work --queue q --drain -- {script}"));
    let saga = d.get("t-1");
    assert_eq!((&saga["state"], &saga["terminalReason"]), (&"SAGA_STATE_FAILED".into(), &"exit code 3".into()));
    assert_eq!((&saga["compensations"][0]["kind"], &saga["progress"]), (&"dir".into(), &"aGFsZg==".into()));
}

#[test]
fn many_commands_run_at_once_and_none_for_the_same_saga() {
    let d = CliFixture::start();
    for number in 0..9 {
        d.ok(&format!("create --task-id t-{number} --queue q"));
    }
    // The first three wait for each other: fewer at once would never end.
    let script = d.script(
        "job",
        "mkdir \"running-$SAGAD_TASK_ID\" || echo twice >> trouble\n\
         ls -d running-* | wc -l >> most; echo . >> begun\n\
         while [ -e job ] && [ \"$(wc -l < begun)\" -lt 3 ]; do sleep 0.05; done\n\
         sleep 0.2; echo \"$SAGAD_TASK_ID\" >> done; rmdir \"running-$SAGAD_TASK_ID\"",
    );
    let ran = d.run(&format!("work --queue q --concurrency 3 --drain -- {script}"));
    assert_eq!(ran.code, 0, "{}", ran.err);
    let mut done = d.lines("done");
    done.sort();
    assert_eq!(done, (0..9).map(|number| format!("t-{number}")).collect::<Vec<_>>());
    assert_eq!(d.lines("trouble").len(), 0);
    let most: Vec<u32> = d.lines("most").iter().map(|line| line.trim().parse().unwrap()).collect();
    assert_eq!(most.iter().max(), Some(&3), "{most:?}");
    assert!((0..9).all(|number| d.events(&format!("t-{number}")) == ["created", "claimed", "completed"]));
}

#[test]
fn two_workers_of_a_queue_never_run_the_same_saga() {
    let d = CliFixture::start();
    let lines: String = (0..20).map(|number| format!("{{\"taskId\":\"t-{number}\",\"queue\":\"q\"}}\n")).collect();
    assert_eq!(d.run_with("create --from -", &lines).code, 0);
    let script = d.script("job", "echo \"$SAGAD_TASK_ID $SAGAD_OWNER\" >> done; sleep 0.05");
    let workers: Vec<_> =
        ["one", "two"].map(|owner| d.spawn(&format!("work --queue q --owner {owner} --drain -- {script}"))).into();
    let codes: Vec<i32> = workers.into_iter().map(|worker| worker.finish().code).collect();
    assert_eq!((codes.as_slice(), d.lines("done").len()), ([0, 0].as_slice(), 20));
    assert_eq!(d.json("list --state completed").len(), 20);
}

#[test]
fn several_queues_and_a_command_with_flags_are_accepted() {
    let d = CliFixture::start();
    d.ok("create --task-id a --queue one");
    d.ok("create --task-id b --queue two");
    let ran = d.run("work --queue one,two --drain -- sh -c 'echo $0 -o json --drain'");
    assert_eq!((ran.code, ran.out.lines().count()), (0, 2), "{}", ran.err);
    until("both to be done", || d.json("list --state completed").len() == 2);
    d.refused(2, "INVALID_ARGUMENT", "work --queue 'no blanks' -- true");
}
