//! Queues, purging, server information, health, completions and manual pages.

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
};

use rustix::process::Signal;

use super::cli_fixture::{CliFixture, sagad};
use crate::support::SAGAD;

#[test]
fn a_paused_queue_gives_no_saga_until_it_is_resumed() {
    let d = CliFixture::start();
    assert_eq!(d.run("queues").err, "sagad: no queues yet\n");
    d.ok("create --task-id t-1 --queue builds");
    assert_eq!(d.ok("pause builds --reason 'the registry is down' --actor ann"), "builds  paused\n");
    assert_eq!(d.json("claim-next --queue builds").len(), 0);
    let text = d.ok("queues");
    let row = text.lines().find(|line| line.starts_with("builds ")).unwrap();
    assert!(row.contains("paused") && row.ends_with("ann  the registry is down"), "{text}");
    assert!(d.ok("stats").contains("builds (paused)"));
    assert_eq!(d.one("queues")["paused"], true);
    let queue = d.one("resume builds --reason back");
    assert_eq!(queue["queue"], "builds");
    assert_eq!(d.one("claim-next --queue builds")["taskId"], "t-1");
    assert_eq!(d.ok("resume builds"), "builds  open\n");
    d.refused(2, "INVALID_ARGUMENT", "pause 'no blanks'");
    // A misspelled name creates no queue.
    let error = d.refused(4, "QUEUE_NOT_FOUND", "pause biulds --reason r");
    let told = "the queue biulds never had a saga and was never paused: check its name";
    assert_eq!(error["message"], format!("{told}; --create pauses it all the same"));
    assert_eq!(d.refused(4, "QUEUE_NOT_FOUND", "resume biulds")["message"], told);
    assert_eq!(d.json("queues").len(), 1);
    assert_eq!(d.ok("pause next-week --create --reason 'not before monday'"), "next-week  paused\n");
    assert_eq!(d.ok("resume next-week"), "next-week  open\n");
}

#[test]
fn purge_removes_old_terminal_sagas() {
    let d = CliFixture::start();
    for number in 0..3 {
        d.ok(&format!("create --task-id t-{number}"));
        d.ok(&format!("quarantine t-{number} --reason r"));
    }
    d.ok("create --task-id stays");
    let purge = "purge --state quarantined,completed --older-than 1ms --reason retention";
    assert_eq!(d.ok(&format!("{purge} --dry-run")), "would purge 3 sagas and 6 events\n");
    // Without a terminal it can't ask.
    let error = d.refused(2, "USAGE", purge).to_string();
    assert!(error.contains("--yes") && error.contains("can't be recovered"), "{error}");
    assert_eq!(d.json("list").len(), 4);
    d.run("purge --state completed --older-than 1d --yes").assert_usage();
    assert_eq!(d.ok(&format!("{purge} --yes --max 1")), "purged 1 saga and 2 events, and there are more\n");
    assert_eq!(d.one(&format!("{purge} --yes"))["purgedSagas"], "2");
    assert_eq!(d.json("list").len(), 1);
    d.refused(4, "SAGA_NOT_FOUND", "get t-1");
    d.run("purge --state running --older-than 1d --reason r").assert_usage();
    d.run("purge --state completed").assert_usage();
}

#[test]
fn purge_asks_on_a_terminal() {
    let d = CliFixture::start();
    d.ok("create --task-id t-1");
    d.ok("quarantine t-1 --reason r");
    let purge = format!("'{SAGAD}' purge --state quarantined --older-than 1ms --reason old; echo \"exit $?\"");
    for (answer, told, left) in [("n\n", "nothing was purged", 1), ("y\n", "purged 1 saga and 2 events", 0)] {
        let mut command = Command::new("script");
        command.args(["-qec", &purge, "/dev/null"]).env("SAGAD_SERVER", d.url());
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let Ok(mut child) = child else {
            println!("skipped: there is no `script` here");
            return;
        };
        child.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
        let out = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        assert!(out.contains("purge 1 saga and 2 events for good? [y/N]") && out.contains(told), "{out}");
        assert!(out.contains(&format!("exit {left}")), "{out}");
        assert_eq!(d.json("list").len(), left);
    }
}

#[test]
fn info_prints_the_clock_and_the_bounds() {
    let d = CliFixture::start();
    let info = d.one("info");
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    assert!(info["bounds"].as_array().unwrap().len() > 20, "{info}");
    let text = d.ok("info");
    assert!(text.starts_with(&format!("version       {}\n", env!("CARGO_PKG_VERSION"))), "{text}");
    let ttl = text.lines().find(|line| line.starts_with("ttl_max ")).unwrap();
    assert!(ttl.contains(" 1d ") && text.contains(" from UTC)"), "{text}");
}

#[test]
fn health_exits_0_only_while_the_daemon_serves() {
    let mut d = CliFixture::start();
    assert_eq!(d.ok("health"), "serving\n");
    assert_eq!(d.ok("health --service sagad.v1.SagaService -o json"), "{\"status\":\"SERVING\"}\n");
    assert_eq!(d.run("health --service nonsense").code, 4);
    d.signal(Signal::STOP);
    let ran = d.run("health --timeout 1s");
    d.signal(Signal::CONT);
    assert_eq!((ran.code, ran.out.as_str()), (5, ""), "{}", ran.err);
    d.restart(Signal::TERM);
    assert_eq!(d.ok("health"), "serving\n");
}

#[test]
fn completions_and_manual_pages_need_no_server() {
    for (shell, sign) in [("bash", "_sagad()"), ("zsh", "#compdef sagad"), ("fish", "complete -c sagad")] {
        let output = sagad(&format!("completions {shell}")).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains(sign) && text.contains("claim-next"), "{shell}");
    }
    assert_eq!(sagad("completions csh").output().unwrap().status.code(), Some(2));
    let page = String::from_utf8(sagad("man").output().unwrap().stdout).unwrap();
    assert!(page.contains(".TH sagad 1") && page.contains("EXAMPLES") || page.contains("Examples"), "{page}");
    let dir = tempfile::tempdir().unwrap();
    let mut command = sagad("man --dir");
    assert!(command.arg(dir.path()).status().unwrap().success());
    assert!(fs::read_to_string(dir.path().join("sagad-claim-next.1")).unwrap().contains("wait"));
}
