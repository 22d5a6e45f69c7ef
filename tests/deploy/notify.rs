//! What the service manager hears: that it opens, that it serves, that its writer turns or hangs, that it ends.

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

/// Something that a writer never does by itself: to be idle for so long.
const WATCHDOG: Duration = Duration::from_secs(2);

/// The manager's end of the socket.
struct Manager(UnixDatagram);

impl Manager {
    fn at(directory: &Path) -> (Self, String) {
        let path = directory.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        (Manager(socket), path.to_str().unwrap().to_owned())
    }

    fn abstractly() -> (Self, String) {
        let name = format!("sagad-test-{}-{:?}", std::process::id(), std::thread::current().id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        (Manager(socket), format!("@{name}"))
    }

    /// The next message, if one comes in time.
    fn hear(&self, within: Duration) -> Option<String> {
        let mut buffer = [0; 4096];
        self.0.set_read_timeout(Some(within)).unwrap();
        let length = self.0.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
    }

    /// All messages up to the first that contains this, which has to come.
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

/// A tracer that lets every sync of the daemon hang, until it is dropped.
struct Hanging {
    strace: Child,
}

impl Hanging {
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
        Hanging { strace }
    }
}

/// The kernel says of each thread who traces it.
fn all_traced(pid: &str) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let mut states =
        threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("status")).unwrap_or_default());
    states.all(|status| !status.contains("TracerPid:\t0\n"))
}

impl Drop for Hanging {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.strace), Signal::TERM);
        let _ = self.strace.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_manager_hears_that_it_serves_lives_and_ends() {
    let directory = tempfile::tempdir().unwrap();
    let (manager, socket) = Manager::at(directory.path());
    let mut daemon = launch(&directory.path().join("data"), &socket).arg("--drain-grace=7s").start();
    let address = daemon.address();
    let ready = manager.until("READY=1").pop().unwrap();
    assert_eq!(ready, format!("READY=1\nSTATUS=serving gRPC on {address}"));
    // It goes on, though nobody asks for anything.
    for _ in 0..4 {
        manager.until("WATCHDOG=1");
    }
    daemon.terminate().await;
    let last = manager.until("STOPPING=1").pop().unwrap();
    assert!(last.contains("\nEXTEND_TIMEOUT_USEC=12000000"), "the grace and a little more: {last}");
    assert_eq!(manager.hear(Duration::from_millis(100)), None, "nothing follows");
}

#[test]
fn while_the_store_is_opened_it_asks_for_time() {
    needs!("strace");
    let directory = tempfile::tempdir().unwrap();
    let (manager, socket) = Manager::abstractly();
    // Each sync of the new store takes a while, so that it is seen to be opened.
    let slow = ["-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:delay_enter=300000"];
    let launch = launch(&directory.path().join("data"), &socket).traced(&directory.path().join("trace"), &slow);
    let daemon = launch.start();
    let heard = manager.until("READY=1");
    assert_eq!(heard[..2], ["STATUS=opening the store", "EXTEND_TIMEOUT_USEC=60000000"], "{heard:?}");
    assert!(!heard.iter().any(|news| news.contains("WATCHDOG")), "nothing turns yet: {heard:?}");
    drop(daemon);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_hangs_is_not_called_alive() {
    needs!("strace");
    let directory = tempfile::tempdir().unwrap();
    let (manager, socket) = Manager::abstractly();
    let daemon = launch(&directory.path().join("data"), &socket).start();
    let address = daemon.address();
    manager.until("WATCHDOG=1");

    let hanging = Hanging::begin(&daemon, &directory.path().join("trace"));
    let mut sagas = support::sagas(address).await;
    let change = tokio::spawn(async move { sagas.create_saga(CreateSagaRequest::default()).await });
    manager.until("STATUS=the writer has been silent");
    let begun = now();
    while begun.elapsed() < 2 * WATCHDOG {
        let news = manager.hear(WATCHDOG / 4).unwrap_or_default();
        assert!(!news.contains("WATCHDOG=1"), "the writer hangs: {news}");
    }
    assert!(!change.is_finished(), "nor is a change acknowledged meanwhile");

    // The disk is back: what waited is written, and the manager hears of it before it judges.
    drop(hanging);
    manager.until("STATUS=serving gRPC on");
    manager.until("WATCHDOG=1");
    let told = WAIT_MAX.min(Duration::from_secs(30));
    tokio::time::timeout(told, change).await.expect("it is answered").unwrap().unwrap();
}
