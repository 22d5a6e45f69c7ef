//! The commands of an operator.

use super::cli_fixture::CliFixture;

#[test]
fn dispatch_reserves_a_saga_for_its_assignee() {
    let d = CliFixture::start();
    d.ok("create --task-id t-1");
    let text = d.ok("dispatch t-1 --assignee w-3 --ttl 2m --reason 'it has the cache'");
    assert!(text.starts_with("t-1  dispatched  queue default  reserved for w-3 until 2"), "{text}");
    assert!(d.ok("get t-1").contains("dispatched    reserved for w-3 until "));
    let error = d.refused(3, "DISPATCHED_ELSEWHERE", "claim t-1 --owner other");
    assert_eq!(error["metadata"]["assignee"], "w-3");
    assert_eq!(d.one("dispatch t-1 --assignee w-4 --ttl 2m")["assignee"], "w-4", "again: replaces");
    d.claim("t-1", "w-4", "");
    assert_eq!(d.events("t-1").last().unwrap(), "claimed");
    d.refused(3, "WRONG_STATE", "dispatch t-1 --assignee w-5");
}

#[test]
fn recover_decides_on_a_stale_saga() {
    let d = CliFixture::start();
    let token = d.stale("a", "--compensate branch=x");
    let error = d.refused(3, "NOT_STALE", "recover a --decision requeue --reason 'host rebooted' --token 1");
    let told = format!("the saga is stale under lease {token}, not under the one that was named: get it, decide anew");
    assert_eq!(error["message"], told);
    let text = d.ok(&format!("recover a --decision requeue --reason r --token {token} --dry-run"));
    assert!(text.starts_with("a  "), "{text}");
    assert_eq!(d.get("a")["stale"], true, "a dry run decides nothing");
    let text = d.ok(&format!("recover a --decision requeue --reason 'host rebooted' --token {token} --actor ann"));
    assert_eq!(text, "a  planned  queue default\n");
    assert!(d.ok("history a").contains("by ann  "), "who decided is on record");
    let error = d.refused(3, "NOT_STALE", "recover a --decision requeue --reason r");
    assert_eq!(error["message"], format!("the saga is not stale: it is PLANNED, and its last lease is {token}"));
    let live = d.claim("a", "me", "--ttl 5m");
    let error = d.refused(3, "NOT_STALE", "recover a --decision requeue --reason r");
    assert_eq!(error["message"], format!("the saga is not stale: its lease {live} is live"));
    d.ok("create --task-id new");
    let error = d.refused(3, "NOT_STALE", "recover new --decision quarantine --reason r");
    assert_eq!(error["message"], "the saga is not stale: no lease of it ran out");
    for (id, decision, state) in [("b", "compensate", "COMPENSATING"), ("c", "quarantine", "QUARANTINED")] {
        d.stale(id, "--compensate branch=x");
        let saga = d.one(&format!("recover {id} --decision {decision} --reason r"));
        assert_eq!(saga["state"], format!("SAGA_STATE_{state}"));
    }
    d.refused(4, "SAGA_NOT_FOUND", "recover nothing --decision requeue --reason r");
    d.run("recover a --reason r").assert_usage();
}

#[test]
fn waive_declares_a_compensation_not_needed() {
    let d = CliFixture::start();
    d.ok("create --task-id early --compensate a=1");
    d.refused(3, "WRONG_STATE", "waive early --position 1 --reason r");
    d.compensating("t-1", "--compensate branch=x --compensate dir=/w");
    d.ok("waive t-1 --position 2 --reason 'the disk is lost' --actor ann");
    let saga = d.one("waive t-1 --position 1 --reason r");
    assert_eq!(saga["compensations"][0]["state"], "COMPENSATION_STATE_WAIVED");
    let text = d.ok("get t-1");
    assert!(text.contains("compensation  2 waived: dir /w, by ann 2"), "{text}");
    d.refused(4, "COMPENSATION_NOT_FOUND", "waive t-1 --position 9 --reason r");
}

#[test]
fn quarantine_by_a_person_and_by_the_holder() {
    let d = CliFixture::start();
    d.ok("create --task-id a");
    d.claim("a", "me", "--ttl 5m");
    d.refused(3, "LEASE_HELD", "quarantine a --reason 'needs a look'");
    let text = d.ok("quarantine a --reason 'needs a look' --revoke-lease");
    assert_eq!(text, "a  quarantined  queue default  needs a look\n");
    d.ok("create --task-id b");
    let token = d.claim("b", "me", "--ttl 5m");
    let saga = d.one(&format!("quarantine b --reason 'exit 3' --owner me --token {token}"));
    assert_eq!(saga["terminalReason"], "exit 3");
    d.run("quarantine b --reason r --owner me").assert_usage();
}

#[test]
fn cancel_ends_a_saga_or_asks_its_worker() {
    let d = CliFixture::start();
    d.ok("create --task-id a --compensate branch=x");
    assert!(d.ok("cancel a --reason 'the issue was closed'").starts_with("a  compensated  "), "never claimed");
    d.ok("create --task-id b --compensate branch=x");
    d.claim("b", "me", "--ttl 5m");
    let text = d.ok("cancel b --reason 'runs amok'");
    assert!(text.starts_with("b  running CANCEL  queue default  lease of me"), "{text}");
    assert!(d.ok("get b").contains("cancel        requested: runs amok"));
    assert!(d.ok("list").contains("running CANCEL"));
    let saga = d.one("cancel b --reason 'runs amok' --revoke-lease");
    assert_eq!(saga["state"], "SAGA_STATE_COMPENSATING");
    d.refused(3, "SAGA_TERMINAL", "cancel a --reason late");
}

#[test]
fn annotate_amends_a_reason_and_the_history_keeps_the_old_one() {
    let d = CliFixture::start();
    d.ok("create --task-id t-1");
    d.ok("annotate t-1 --note 'the customer was told' --detail ticket=4711");
    let text = d.ok("history t-1");
    assert!(text.contains("the customer was told  [ticket=4711]"), "{text}");
    d.refused(3, "WRONG_STATE", "annotate t-1 --terminal-reason 'too early'");
    d.ok("quarantine t-1 --reason 'tests fail'");
    let saga = d.one("annotate t-1 --terminal-reason 'the disk, not the code'");
    assert_eq!(saga["terminalReason"], "the disk, not the code");
    let text = d.ok("history t-1");
    assert!(text.contains("previous_terminal_reason=tests fail"), "{text}");
    d.run("annotate t-1").assert_usage();
}

#[test]
fn the_default_actor_is_the_user_of_the_machine() {
    let d = CliFixture::start();
    let ran = |task: &str, user: Option<&str>, actor: Option<&str>| {
        let mut command = d.command(&format!("create --task-id {task}"));
        assert!(command.output().unwrap().status.success());
        let mut command = d.command(&format!("quarantine {task} --reason r"));
        command.env_remove("USER").env_remove("LOGNAME");
        user.map(|user| command.env("USER", user));
        actor.map(|actor| command.env("SAGAD_ACTOR", actor));
        assert!(command.output().unwrap().status.success());
        d.ok(&format!("history {task}"))
    };
    assert!(ran("a", Some("ann"), None).contains("by ann@"));
    assert!(ran("b", None, None).contains("by uid-"));
    assert!(ran("c", Some("ann"), Some("the night shift")).contains("by the night shift"));
}
