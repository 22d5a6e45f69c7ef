//! A process without file descriptors. A test binary of its own, because the limit is the whole process's.

use std::{fs::File, time::Duration};

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

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[tokio::test]
async fn without_descriptors_it_neither_spins_nor_forgets_who_waits() {
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
