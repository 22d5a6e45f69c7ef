//! `sagad top` where there is no terminal.

use crate::support::{
    Daemon,
    binary::{self, CommandOutput},
    create,
};

/// Runs `sagad` without a terminal: exit code, stdout, stderr.
pub fn sagad(arguments: &[&str]) -> (i32, String, String) {
    let CommandOutput { code, out, err } = binary::run(arguments).into();
    (code, out, err)
}

#[test]
fn top_without_a_terminal_names_the_alternatives() {
    let (code, out, err) = sagad(&["top"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("sagad stats") && err.contains("sagad list"), "{err}");
    let (code, _, err) = sagad(&["top", "-o", "json"]);
    assert!(code == 2 && err.contains("--once"), "{err}");
    let (code, _, err) = sagad(&["top", "--once", "--server", "http://127.0.0.1:1"]);
    assert!(code == 5 && err.contains("no answer"), "{err}");
}

#[tokio::test]
async fn top_once_prints_a_screen_or_json() {
    let daemon = Daemon::start();
    let api = daemon.api().await;
    api.create_saga(create("waits")).await.unwrap();
    api.running("works", "worker-1").await;
    api.stale(create("hangs"), "worker-2").await;
    let server = format!("http://{}", daemon.address());
    let (code, out, err) = sagad(&["top", "--once", "--server", &server]);
    assert_eq!(code, 0, "{err}");
    let line = |part: &str| out.lines().find(|line| line.contains(part)).unwrap_or_else(|| panic!("no {part}:\n{out}"));
    assert!(line("works").contains("worker-1") && !line("works").contains("STALE"), "{out}");
    assert!(line("hangs").contains("running STALE") && line("hangs").contains("expired "), "{out}");
    assert!(!out.contains("waits") && out.contains("1 ready") && out.contains("1 stale"), "{out}");
    assert!(!out.contains('\u{1b}'), "text output has no escape codes");
    let (code, out, _) = sagad(&["top", "--once", "--view", "planned", "-o", "json", "--server", &server]);
    assert_eq!(code, 0);
    let data: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(data["sagas"][0]["taskId"], "waits", "{out}");
    assert_eq!((&data["stats"]["stale"], &data["more"]), (&"1".into(), &false.into()), "{out}");
}
