//! A process without file descriptors.

use std::{env, fs::File, process::Command, thread, time::Duration};

use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    time::{ClockId, clock_gettime},
};
use sagad::listen::{ListenLimits, listen};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    runtime::Handle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// Runs the calling test again in a process of its own, because the limit and the CPU time are per process. False: this
/// is that process.
fn runs_in_its_own_process() -> bool {
    const OWN_PROCESS: &str = "SAGAD_TEST_OWN_PROCESS_PROCESS";
    if env::var_os(OWN_PROCESS).is_some() {
        return false;
    }
    let current = thread::current();
    let test = current.name().expect("a test's thread has its name");
    let mut again = Command::new(env::current_exe().unwrap());
    let output = again.args(["--exact", test]).env(OWN_PROCESS, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    true
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[tokio::test]
async fn without_file_descriptors_the_accept_loop_waits_and_serves_later() {
    if runs_in_its_own_process() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        clients.push(client);
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(128), ..getrlimit(Resource::Nofile) }).unwrap();
    let mut all = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        all.push(file);
    }
    assert!(!all.is_empty());

    let limits = ListenLimits {
        max_connections: 10,
        preface_timeout: Duration::from_secs(5),
        auth_timeout: Duration::from_secs(30),
    };
    let mut accept_loop = listen(listener, limits, None, &[Handle::current()], CancellationToken::new());
    let before = cpu_time();
    sleep(Duration::from_millis(600)).await;
    let used = cpu_time() - before;
    assert_eq!(accept_loop.connections.count(), 0);
    assert!(used < Duration::from_millis(100), "{used:?} of CPU in 600 ms");

    drop(all);
    for _ in clients {
        timeout(Duration::from_secs(5), accept_loop.incoming[0].recv()).await.unwrap().unwrap();
    }
}
