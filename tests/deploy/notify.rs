//! The messages to the service manager: opening, serving, whether the writer runs or hangs, and ending.

use std::{
    fs,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use sagad::proto::CreateSagaRequest;

use crate::support::{self, Daemon, Launch, WAIT_MAX, needs, now};

/// Longer than the writer is ever silent by itself.
const WATCHDOG: Duration = Duration::from_secs(2);

/// The manager's side of the socket.
struct FakeServiceManager(UnixDatagram);

impl FakeServiceManager {
    fn at(directory: &Path) -> (Self, String) {
        let path = directory.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        (FakeServiceManager(socket), path.to_str().unwrap().to_owned())
    }

    fn abstractly() -> (Self, String) {
        let name = format!("sagad-test-{}-{:?}", std::process::id(), std::thread::current().id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        (FakeServiceManager(socket), format!("@{name}"))
    }

    /// The next message, if one comes in time.
    fn hear(&self, within: Duration) -> Option<String> {
        let mut buffer = [0; 4096];
        self.0.set_read_timeout(Some(within)).unwrap();
        let length = self.0.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
    }

    /// Waits for a message with this content; returns all messages up to it.
    fn until(&self, what: &str) -> Vec<String> {
        let begun = now();
        let mut heard = Vec::new();
        loop {
            let left = WAIT_MAX.checked_sub(begun.elapsed()).unwrap_or_else(|| panic!("no {what} in {heard:?}"));
            heard.extend(self.hear(left));
            if heard.last().is_some_and(|news| news.contains(what)) {
                return heard;
            }
        }
    }
}

fn launch(data: &Path, socket: &str) -> Launch {
    let micros = WATCHDOG.as_micros().to_string();
    Launch::on(data).env("NOTIFY_SOCKET", socket).env("WATCHDOG_USEC", &micros)
}

/// A tracer that makes every sync of the daemon hang until it is dropped.
struct HangingSyncs {
    strace: Child,
}

impl HangingSyncs {
    fn begin(daemon: &Daemon, trace: &Path) -> Self {
        let (pid, file) = (daemon.pid().as_raw_nonzero().to_string(), trace.to_str().unwrap());
        let delay = "inject=fsync,fdatasync:delay_enter=300000000";
        let strace = Command::new("strace")
            .args(["-f", "-o", file, "-e", "trace=fsync,fdatasync", "-e", delay, "-p", &pid])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = now();
        while !all_traced(&pid) {
            assert!(begun.elapsed() < WAIT_MAX, "strace does not attach");
            std::thread::sleep(Duration::from_millis(10));
        }
        HangingSyncs { strace }
    }
}

/// True if each thread is traced, as the kernel reports.
fn all_traced(pid: &str) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let mut states =
        threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("status")).unwrap_or_default());
    states.all(|status| !status.contains("TracerPid:\t0\n"))
}

impl Drop for HangingSyncs {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.strace), Signal::TERM);
        let _ = self.strace.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_manager_is_told_of_ready_watchdog_and_stopping() {
    let directory = tempfile::tempdir().unwrap();
    let (manager, socket) = FakeServiceManager::at(directory.path());
    let mut daemon = launch(&directory.path().join("data"), &socket).arg("--drain-grace=7s").start();
    let address = daemon.address();
    let ready = manager.until("READY=1").pop().unwrap();
    assert_eq!(ready, format!("READY=1\nSTATUS=serving gRPC on {address}"));
    // The messages continue without any call.
    for _ in 0..4 {
        manager.until("WATCHDOG=1");
    }
    daemon.terminate().await;
    let last = manager.until("STOPPING=1").pop().unwrap();
    assert!(last.contains("\nEXTEND_TIMEOUT_USEC=12000000"), "the drain grace and a margin: {last}");
    assert_eq!(manager.hear(Duration::from_millis(100)), None, "nothing follows");
}

#[test]
fn opening_the_store_extends_the_start_timeout() {
    needs!("strace");
    let directory = tempfile::tempdir().unwrap();
    let (manager, socket) = FakeServiceManager::abstractly();
    // Each sync takes a while, so that opening the new store takes long enough to be seen.
    let slow = ["-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:delay_enter=300000"];
    let launch = launch(&directory.path().join("data"), &socket).traced(&directory.path().join("trace"), &slow);
    let daemon = launch.start();
    let heard = manager.until("READY=1");
    assert_eq!(heard[..2], ["STATUS=opening the store", "EXTEND_TIMEOUT_USEC=60000000"], "{heard:?}");
    assert!(!heard.iter().any(|news| news.contains("WATCHDOG")), "no watchdog message yet: {heard:?}");
    drop(daemon);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_writer_stops_the_watchdog_messages() {
    needs!("strace");
    let directory = tempfile::tempdir().unwrap();
    let (manager, socket) = FakeServiceManager::abstractly();
    let daemon = launch(&directory.path().join("data"), &socket).start();
    let address = daemon.address();
    manager.until("WATCHDOG=1");

    let hanging = HangingSyncs::begin(&daemon, &directory.path().join("trace"));
    let mut sagas = support::sagas(address).await;
    let change = tokio::spawn(async move { sagas.create_saga(CreateSagaRequest::default()).await });
    manager.until("STATUS=the writer has been silent");
    let begun = now();
    while begun.elapsed() < 2 * WATCHDOG {
        let news = manager.hear(WATCHDOG / 4).unwrap_or_default();
        assert!(!news.contains("WATCHDOG=1"), "the writer hangs: {news}");
    }
    assert!(!change.is_finished(), "no change is acknowledged meanwhile");

    // The disk works again: the change is written, and a watchdog message is sent before the manager's timeout.
    drop(hanging);
    manager.until("STATUS=serving gRPC on");
    manager.until("WATCHDOG=1");
    let told = WAIT_MAX.min(Duration::from_secs(30));
    tokio::time::timeout(told, change).await.expect("it is answered").unwrap().unwrap();
}
