//! P13: neither calls nor shutdown wait for a reader of the daemon's outputs; and a daemon that does not answer calls is not
//! reported live.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use tempfile::TempDir;
use tonic::{Code, Status};

use super::watched_daemon::{MetricsText, WatchedDaemon, get};
use crate::support::{
    Api, Launch, claim, create,
    daemon::{Process, connect},
    eventually, key, ms, needs, now,
};

/// The length of a lease with a heartbeat every 200 ms: it expires only if heartbeats are delayed by seconds.
const TTL_MS: u64 = 5_000;
/// The longest time of a call or a probe: far below that of a blocked one, with margin for a busy machine.
const SOON: Duration = Duration::from_secs(10);

/// A daemon whose stdout and stderr are full pipes from the beginning.
struct BlockedDaemon {
    process: Process,
    address: SocketAddr,
    ops: SocketAddr,
    /// Holds both ends of stderr's pipe.
    stderr: File,
    _stdout: File,
    _own: TempDir,
}

/// A full named pipe: a write to it blocks until the returned file is read.
fn full_pipe(path: &Path) -> File {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let mut options = OpenOptions::new();
    let mut pipe = options.read(true).write(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path).unwrap();
    while pipe.write(&[b'\n'; 4096]).is_ok() {}
    pipe
}

/// An address without a listener.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl BlockedDaemon {
    fn start(args: &[&str]) -> Self {
        let own = tempfile::tempdir().unwrap();
        let (out, err): (PathBuf, PathBuf) = (own.path().join("out"), own.path().join("err"));
        let (stdout, stderr) = (full_pipe(&out), full_pipe(&err));
        let (address, ops) = (free_address(), free_address());
        let mut launch = Launch::on(&own.path().join("data")).args(&["--ops-listen", &ops.to_string()]).args(args);
        launch.listen = address.to_string();
        let script = format!("exec \"$@\" >'{}' 2>'{}'", out.display(), err.display());
        launch.wrapper = ["sh", "-c", &script, "sh"].map(Into::into).to_vec();
        BlockedDaemon { process: launch.spawn(), address, ops, stderr, _stdout: stdout, _own: own }
    }

    async fn answers(&self, path: &str) -> (u16, String) {
        let (ops, path) = (self.ops, path.to_owned());
        let asked = tokio::task::spawn_blocking(move || get(ops, &path, ""));
        let page = tokio::time::timeout(SOON, asked).await.expect("it answers").unwrap();
        (page.status, page.text)
    }

    /// Reads stderr until the daemon has ended or `wanted` is found.
    async fn stderr_until(&mut self, wanted: &str) -> String {
        let mut log = String::new();
        let begun = now();
        while !log.contains(wanted) {
            assert!(
                begun.elapsed() < 3 * SOON,
                "{wanted} is not in the log: {}",
                &log[log.len().saturating_sub(4000)..]
            );
            let mut buffer = [0; 64 << 10];
            match self.stderr.read(&mut buffer) {
                Ok(read) => log.push_str(&String::from_utf8_lossy(&buffer[..read])),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
        log
    }
}

/// Waits for a call that has to be answered soon.
async fn soon<T>(what: &str, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    tokio::time::timeout(SOON, call).await.unwrap_or_else(|_| panic!("{what} is not answered"))
}

/// Makes refused calls, each of which is logged, and keeps a lease meanwhile.
async fn served(blocked: &BlockedDaemon, task_id: &str, refusals: usize) {
    let api = Api::new(connect(blocked.address).await);
    eventually("the store is open", || async { soon("a call", api.create_saga(create(task_id))).await.ok() }).await;
    let saga = soon("a claim", api.claim(claim(task_id, "w", TTL_MS))).await.unwrap();
    let mut beats = tokio::time::interval(Duration::from_millis(200));
    for refusal in 0..refusals {
        let refused = soon(&format!("call {refusal}"), api.claim(claim(task_id, "other", TTL_MS))).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        if futures::FutureExt::now_or_never(beats.tick()).is_some() {
            let beat = sagad::proto::HeartbeatRequest { ttl: ms(TTL_MS), ..key(&saga).heartbeat() };
            soon("a heartbeat", api.heartbeat(beat)).await.expect("the lease is kept");
        }
    }
    for path in ["/livez", "/readyz"] {
        assert_eq!(blocked.answers(path).await, (200, "ok\n".to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p13_an_unread_log_delays_no_call_and_no_shutdown() {
    for (level, format) in [("info", "text"), ("info", "json"), ("debug", "text"), ("debug", "json")] {
        let mut blocked = BlockedDaemon::start(&["--log", level, "--log-format", format]);
        served(&blocked, "kept", 500).await;
        blocked.process.signal(rustix::process::Signal::TERM);
        let (status, _) = blocked.process.end().await;
        assert_eq!(status.code(), Some(0), "{level} {format}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p13_dropped_log_lines_are_counted_and_reported_in_the_next_line() {
    // At the level trace the libraries log each frame, which soon fills any buffer.
    let mut blocked = BlockedDaemon::start(&["--log", "trace", "--log-format", "json"]);
    let dropped = |text: &str| MetricsText(text.to_owned()).value("sagad_log_lines_dropped_total").unwrap();
    let begun = now();
    let mut metrics = String::new();
    for round in 0.. {
        assert!(begun.elapsed() < 6 * SOON, "no line is dropped");
        served(&blocked, &format!("kept-{round}"), 50).await;
        metrics = blocked.answers("/metrics").await.1;
        if dropped(&metrics) > 0.0 {
            break;
        }
    }
    let log = blocked.stderr_until("lines of the log were dropped").await;
    let line = log.lines().find(|line| line.contains("lines of the log were dropped")).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    assert_eq!(line["level"], "WARN");
    assert!(line["lines"].as_f64().is_some_and(|lines| lines >= dropped(&metrics)), "{line}");
    blocked.process.signal(rustix::process::Signal::TERM);
    assert_eq!(blocked.process.end().await.0.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn p13_a_second_signal_or_a_failed_start_ends_the_daemon_at_once() {
    let mut blocked = BlockedDaemon::start(&["--drain-grace", "5m"]);
    served(&blocked, "kept", 1).await;
    // An open call keeps the daemon from ending after the first signal.
    let api = Api::new(connect(blocked.address).await);
    let mut watch = api.watch_events(Default::default()).await.unwrap();
    watch.message().await.unwrap();
    blocked.process.signal(rustix::process::Signal::STOP);
    blocked.process.signal(rustix::process::Signal::TERM);
    blocked.process.signal(rustix::process::Signal::INT);
    blocked.process.signal(rustix::process::Signal::CONT);
    blocked.process.end().await;

    let mut blocked = BlockedDaemon::start(&["--max-calls", "none"]);
    assert_eq!(blocked.process.end().await.0.code(), Some(2));
    let mut blocked = BlockedDaemon::start(&["--tls-cert", "/nowhere", "--tls-key", "/nowhere"]);
    assert_eq!(blocked.process.end().await.0.code(), Some(2));
}

/// The threads of a process with this name.
fn threads_named(pid: i32, name: &str) -> Vec<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|task| task.unwrap().path());
    let named = |task: &PathBuf| std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name);
    tasks.filter(named).map(|task| task.file_name().unwrap().to_str().unwrap().parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn p13_a_hanging_network_thread_makes_the_daemon_not_live_and_not_ready() {
    needs!("strace");
    let mut watched = WatchedDaemon::start(&["--network-threads", "2"]).await;
    let pid = watched.daemon.process().pid().as_raw_nonzero().get();
    let thread = threads_named(pid, "sagad-net-1")[0];
    // strace delays each epoll wait of the thread by a minute.
    let mut hanging = Command::new("strace")
        .args(["-q", "-o", "/dev/null", "-e", "inject=epoll_wait,epoll_pwait,epoll_pwait2:delay_enter=60s", "-p"])
        .arg(thread.to_string())
        .spawn()
        .unwrap();
    let ops = watched.ops;
    let page = eventually("it is not live", || async move {
        let page = tokio::task::spawn_blocking(move || get(ops, "/livez", "")).await.unwrap();
        (page.status != 200).then_some(page)
    })
    .await;
    assert_eq!(page.status, 503);
    assert!(page.text.starts_with("network thread 1 has been silent for 1"), "{page:?}");
    let ready = tokio::task::spawn_blocking(move || get(ops, "/readyz?verbose", "")).await.unwrap();
    assert!(ready.status == 503 && ready.text.contains("[+] the writer runs"), "{ready:?}");
    hanging.kill().unwrap();
    hanging.wait().unwrap();
    eventually("it is live again", || async move {
        let page = tokio::task::spawn_blocking(move || get(ops, "/livez", "")).await.unwrap();
        (page.status == 200).then_some(())
    })
    .await;
}
