//! `sagad get`, `list`, `history`, `stats`.

use std::time::Duration;

use rustix::process::Signal;

use super::cli_fixture::CliFixture;
use crate::support::until;

fn ids(d: &CliFixture, flags: &str) -> Vec<String> {
    let sagas = d.json(&format!("list {flags}"));
    sagas.iter().map(|saga| saga["taskId"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn get_shows_a_saga_by_either_id() {
    let d = CliFixture::start();
    d.ok("create --task-id t-1 --saga-id s-1 --issue 7 --payload 'two words' --compensate branch=fix-7");
    let token = d.claim("t-1", "me", "--ttl 5m");
    let text = d.ok("get t-1");
    for line in ["task          t-1", "state         running", "issue         7", "payload       two words"] {
        assert!(text.lines().any(|there| there == line), "no `{line}` in\n{text}");
    }
    assert!(text.contains(&format!("lease         me, token {token}, expires 2")), "{text}");
    assert!(text.contains("Z (in 5m)") || text.contains("Z (in 4m"), "UTC with how far away it is:\n{text}");
    assert!(text.contains("compensation  1 pending: branch fix-7"), "{text}");
    assert_eq!(d.ok("get --saga-id s-1").lines().next(), Some("task          t-1"));
    d.refused(4, "SAGA_NOT_FOUND", "get t-2");
    d.refused(4, "SAGA_NOT_FOUND", "get --saga-id t-1");
}

#[test]
fn the_grace_after_a_start_is_shown() {
    let mut d = CliFixture::start();
    d.ok("create --task-id t-1");
    d.claim("t-1", "me", "--ttl 300ms");
    d.restart(Signal::KILL);
    std::thread::sleep(Duration::from_millis(500));
    // The lease is long past its expiry but still valid: the output says why, and until when.
    let text = d.ok("get t-1");
    assert!(text.contains("state         running GRACE\n"), "{text}");
    let lease = text.lines().find(|line| line.starts_with("lease ")).unwrap();
    assert!(lease.contains(") (grace until 2") && lease.contains("Z (in "), "{text}");
    let list = d.ok("list");
    let row = list.lines().find(|line| line.starts_with("t-1 ")).unwrap();
    assert!(row.contains("running GRACE") && row.contains(" in "), "until when it is spared:\n{list}");
    let lease = &d.one("get t-1")["lease"];
    assert_eq!(lease["standing"], "LEASE_STANDING_HELD");
    assert!(lease["effectiveExpireTime"].as_str() > lease["expireTime"].as_str(), "{lease}");

    until("it is stale", || d.ok("get t-1").contains("running STALE"));
    let text = d.ok("get t-1");
    assert!(text.contains(", expired 2"), "{text}");
    d.ok("recover t-1 --decision requeue --reason gone");
    assert!(d.ok("get t-1").contains(", taken from its holder\n"));
    let token = d.claim("t-1", "me", "--ttl 5m");
    assert!(!d.ok("get t-1").contains("grace"));
    d.ok(&format!("release t-1 --owner me --token {token}"));
    assert!(d.ok("get t-1").contains(", ended by its holder\n"));
}

#[test]
fn list_selects_by_each_filter() {
    let d = CliFixture::start();
    d.ok("create --task-id a --queue one --label team=x --label os=linux --issue 7");
    d.ok("create --task-id b --queue one --label team=x");
    d.ok("create --task-id c --queue two --label team=y");
    d.stale("d", "--queue three");
    let token = d.claim("b", "me", "--ttl 5m");
    d.claim("c", "you", "--ttl 5m");
    d.ok(&format!("complete b --owner me --token {token}"));
    assert_eq!(ids(&d, ""), ["a", "b", "c", "d"]);
    assert_eq!(ids(&d, "--newest-first"), ["d", "c", "b", "a"]);
    assert_eq!(ids(&d, "--queue one --queue two"), ["a", "b", "c"]);
    assert_eq!(ids(&d, "--queue one,three"), ["a", "b", "d"]);
    assert_eq!(ids(&d, "--state running"), ["c", "d"]);
    assert_eq!(ids(&d, "--state planned,completed"), ["a", "b"]);
    assert_eq!(ids(&d, "--owner you"), ["c"]);
    assert_eq!(ids(&d, "--label team=x"), ["a", "b"]);
    assert_eq!(ids(&d, "--label team=x --label os=linux"), ["a"]);
    assert_eq!(ids(&d, "--issue 7"), ["a"]);
    assert_eq!(ids(&d, "--stale"), ["d"]);
    assert_eq!(ids(&d, "--in-flight"), ["a", "c", "d"]);
    let none = d.run("list --queue nothing");
    assert_eq!((none.code, none.out.as_str(), none.err.as_str()), (0, "", "sagad: no sagas match\n"));
    assert_eq!(d.json("list --queue nothing").len(), 0);
}

#[test]
fn list_is_a_table_that_grep_and_awk_can_read() {
    let d = CliFixture::start();
    d.ok("create --task-id 01a20351-8651-7485-8291-f48890a93860 --issue 7 --branch fix-7");
    d.stale("d", "");
    let text = d.ok("list");
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["TASK", "STATE", "QUEUE", "OWNER", "UNTIL", "TRY", "UPDATED", "WHAT"]);
    assert_eq!(rows[1][..2], ["01a20351-8651-7485-8291-f48890a93860", "planned"]);
    assert_eq!(rows[1][rows[1].len() - 2..], ["#7", "fix-7"]);
    assert_eq!(rows[2][..5], ["d", "running", "STALE", "default", "gone"]);
    assert!(!text.contains('\u{1b}') && text.lines().all(|line| line == line.trim_end()), "{text}");
}

#[test]
fn a_limit_may_span_pages() {
    let d = CliFixture::start();
    let lines: String = (0..2_100).map(|number| format!("{{\"taskId\":\"t-{number}\"}}\n")).collect();
    assert_eq!(d.run_with("create --from -", &lines).code, 0);
    for (limit, shown) in [("0", 0), ("1", 1), ("1500", 1_500), ("5000", 2_100)] {
        let all = ids(&d, &format!("--limit {limit}"));
        let expected: Vec<String> = (0..shown).map(|number| format!("t-{number}")).collect();
        assert_eq!(all, expected, "--limit {limit}");
    }
    // One header, however many pages there are.
    assert_eq!(d.ok("list --limit 2050").matches("TASK ").count(), 1);
}

#[test]
fn history_prints_events_in_order() {
    let d = CliFixture::start();
    d.ok("create --task-id t-1");
    let token = d.claim("t-1", "me", "--reason 'it is mine'");
    d.ok(&format!("complete t-1 --owner me --token {token} --reason 'all green'"));
    let text = d.ok("history t-1");
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].contains("created") && lines[0].contains("  -> planned"), "{text}");
    assert!(lines[1].contains("claimed") && lines[1].contains("planned -> running  by me"), "{text}");
    assert!(lines[2].contains("running -> completed") && lines[2].contains("all green"), "{text}");
    assert!(!text.contains("unknown") && !text.contains("t-1"), "{text}");
    assert_eq!(d.events("t-1"), ["created", "claimed", "completed"]);
    d.refused(4, "SAGA_NOT_FOUND", "history t-2");
}

#[test]
fn stats_prints_counts_by_queue_and_state() {
    let d = CliFixture::start();
    assert!(d.ok("stats").starts_with("0 ready, 0 stale, 0 waiting; revision 0"));
    d.ok("create --queue one");
    d.ok("create --queue one --delay 1h");
    d.stale("d", "--queue two");
    let stats = d.one("stats");
    assert_eq!((stats["ready"].as_str(), stats["stale"].as_str()), (Some("1"), Some("1")), "{stats}");
    let text = d.ok("stats");
    let row = text.lines().find(|line| line.starts_with("one ")).unwrap();
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!((cells[1], *cells.last().unwrap()), ("1", "0"), "{text}");
}
