//! `sagad top` in a terminal.

use rustix::process::Signal;
use sagad::proto::{BatchCreateSagasRequest, EventType, SagaState};

use super::tmux::Tmux;
use crate::support::{Daemon, claim, create, daemon::ShutdownSignal, needs};

const UTF8: (&str, &str) = ("LANG", "C.UTF-8");

/// `top` on a daemon, in a terminal of `tmux`.
fn top(daemon: &Daemon, width: u16, height: u16, variables: &[(&str, &str)], arguments: &str) -> Tmux {
    let arguments = format!("top --interval 200ms --server http://{} {arguments}", daemon.address());
    Tmux::start(width, height, variables, &arguments)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_saga_is_recovered_by_keys_and_runs_again() {
    needs!("tmux");
    let daemon = Daemon::start();
    let api = daemon.api().await;
    api.create_saga(create("fix-7")).await.unwrap();
    api.claim(claim("fix-7", "worker-1", 3_000)).await.unwrap();
    let top = top(&daemon, 120, 30, &[UTF8], "--actor ann@desk");
    top.until_line(&["fix-7", "worker-1", "running"], &["STALE"]);
    top.until_line(&["fix-7", "worker-1", "running STALE", "expired ", " ago"], &[]);
    top.press(&["r"]);
    top.until_shown(&["plan it again"]);
    top.press(&["r"]);
    top.until_shown(&["reason: _"]);
    top.type_text("the host was rebooted");
    top.press(&["Enter"]);
    top.until_shown(&["will send Recover", "\"taskId\": \"fix-7\"", "RECOVERY_DECISION_REQUEUE", "y: do it"]);
    assert!(api.get("fix-7").await.stale, "nothing is sent before the confirmation");
    top.press(&["y"]);
    top.until_shown(&["done: fix-7 is planned"]);
    let history = api.history("fix-7").await;
    let decided = history.iter().find(|event| event.r#type() == EventType::RecoveryDecided).expect("it is recorded");
    assert_eq!((decided.actor.as_str(), decided.reason.as_str()), ("ann@desk", "the host was rebooted"));
    api.claim(claim("fix-7", "worker-2", 60_000)).await.unwrap();
    top.until_line(&["fix-7", "worker-2", "running"], &["STALE", "expired"]);
    // The details: compensations and history.
    top.press(&["Down", "Enter"]);
    top.until_shown(&["COMPENSATIONS", "HISTORY", "recovery-decided", "by ann@desk"]);
    top.press(&["Escape"]);
    top.until_line(&["running: 1"], &[]);
    top.press(&["q"]);
    top.until_left(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_shown_and_a_live_lease_is_revoked_only_after_typing_the_task_id() {
    needs!("tmux");
    let daemon = Daemon::start();
    let api = daemon.api().await;
    api.running("fix-7", "worker-1").await;
    let top = top(&daemon, 100, 30, &[UTF8], "");
    top.until_line(&["fix-7", "worker-1"], &[]);
    top.press(&["x"]);
    top.until_shown(&["reason: _"]);
    top.type_text("needs a look");
    top.press(&["Enter"]);
    top.until_shown(&["will send Quarantine"]);
    top.press(&["y"]);
    top.until_shown(&["NOT DONE", "LEASE_HELD", "worker-1"]);
    // Escape alone: followed closely by another key, it would be that key with Alt.
    top.press(&["Escape"]);
    top.until("the row again", |screen| screen.contains("fix-7") && !screen.contains("NOT DONE"));
    top.press(&["X"]);
    top.until_shown(&["reason: _"]);
    top.type_text("runs amok");
    top.press(&["Enter"]);
    top.until_shown(&["\"revokeLease\": true", "type fix-7"]);
    top.type_text("y");
    top.press(&["Enter"]);
    top.until_shown(&["do it: y_"]);
    assert_eq!(api.get("fix-7").await.state(), SagaState::Running, "a y is not enough");
    top.press(&["BSpace"]);
    top.type_text("fix-7");
    top.press(&["Enter"]);
    top.until_shown(&["done: fix-7 is quarantined"]);
    assert_eq!(api.get("fix-7").await.terminal_reason, "runs amok");
    // A queue is paused and resumed.
    top.press(&["Tab", "p"]);
    top.until_shown(&["pause the queue: default"]);
    top.press(&["Enter"]);
    top.until_shown(&["will send PauseQueue"]);
    top.press(&["y"]);
    top.until_shown(&["default PAUSED"]);
    assert!(api.stats().await.queues[0].paused);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_only_changes_nothing() {
    needs!("tmux");
    let daemon = Daemon::start();
    let api = daemon.api().await;
    let before = api.stale(create("fix-7"), "worker-1").await;
    let top = top(&daemon, 100, 30, &[UTF8], "--read-only --view stale");
    top.until_line(&["fix-7", "STALE"], &[]);
    top.press(&["r"]);
    top.until_shown(&["--read-only"]);
    top.press(&["r"]);
    top.type_text("reason");
    top.press(&["Enter", "y"]);
    assert_eq!(api.get("fix-7").await.revision, before.revision);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn top_outlives_the_daemon_and_shows_the_age_of_its_data() {
    needs!("tmux");
    let mut daemon = Daemon::start();
    daemon.api().await.running("fix-7", "worker-1").await;
    let top = top(&daemon, 120, 24, &[UTF8], "");
    top.until_shown(&["live, ", "fix-7"]);
    daemon.end(ShutdownSignal::Kill).await;
    top.until_shown(&["NO ANSWER, ", "OLD", "fix-7"]);
    daemon.start_again();
    top.until_shown(&["live, ", "fix-7"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_terminal_is_restored_on_every_way_of_ending() {
    needs!("tmux");
    let daemon = Daemon::start();
    for way in ["q", "C-c", "TERM", "INT", "HUP"] {
        let top = top(&daemon, 100, 24, &[UTF8], "");
        top.until_shown(&["live, "]);
        match way {
            "TERM" => top.signal(Signal::TERM),
            "INT" => top.signal(Signal::INT),
            "HUP" => top.signal(Signal::HUP),
            key => top.press(&[key]),
        }
        let screen = top.until_left(0);
        assert!(!screen.contains("live, "), "{way}: the shell's own screen is back:\n{screen}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn top_works_without_unicode_without_colours_and_on_a_narrow_terminal() {
    needs!("tmux");
    let daemon = Daemon::start();
    let api = daemon.api().await;
    api.stale(create("fix-7"), "worker-1").await;
    let plain = [("LANG", "C"), ("NO_COLOR", "1")];
    let top = top(&daemon, 60, 20, &plain, "");
    let screen = top.until_line(&["fix-7", "STALE"], &[]);
    assert!(screen.is_ascii() && screen.contains("-+"), "{screen}");
    assert!(!top.is_coloured(), "{screen}");
    top.press(&["?"]);
    top.until_shown(&["recover a stale saga"]);
    top.press(&["?"]);
    top.resize(140, 40);
    top.until_line(&["QUEUE", "READY", "DONE/s"], &[]);
    top.resize(60, 12);
    top.until("a small screen", |screen| !screen.contains("READY") && screen.contains("fix-7"));
    top.until_shown(&["no room for queues: Tab"]);
    // A saga with a generated id still shows its state, and hidden columns are named.
    let id = "01a20351-8651-7485-8291-f48890a93860";
    api.stale(create(id), "worker-1").await;
    top.resize(60, 20);
    top.until_line(&[id, "running STALE"], &[]);
    top.until_shown(&["no room for QUEUE, OWNER"]);
    top.resize(80, 24);
    top.until_line(&[id, "running STALE", "expired "], &[]);
    top.until_shown(&["READY"]);
    let rich = self::top(&daemon, 100, 24, &[UTF8], "");
    let screen = rich.until_line(&["fix-7", "STALE"], &[]);
    assert!(screen.contains('─') && rich.is_coloured(), "{screen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_sagas_are_paged_and_searched() {
    needs!("tmux");
    let daemon = Daemon::start();
    let api = daemon.api().await;
    for batch in 0..2 {
        let requests = (0..600).map(|number| create(&format!("t-{:04}", batch * 600 + number))).collect();
        api.batch_create_sagas(BatchCreateSagasRequest { requests, ..Default::default() }).await.unwrap();
    }
    let top = top(&daemon, 100, 30, &[UTF8], "--view planned");
    top.until_shown(&["planned: 200, page 1", "t-0000"]);
    top.press(&[">"]);
    top.until_shown(&["planned: 200, page 2", "t-0200"]);
    top.press(&["<"]);
    top.until_shown(&["planned: 200, page 1", "t-0000"]);
    top.press(&["/"]);
    top.type_text("t-1199");
    top.press(&["Enter"]);
    top.until_shown(&["planned: 1, with", "t-1199"]);
    top.press(&["Escape"]);
    top.until_shown(&["planned: 200, page 1"]);
}
