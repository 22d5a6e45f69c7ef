//! The accept loop on real sockets: peers that send nothing, a part of the preface, another protocol, or too much at once.

use std::time::Duration;

use sagad::listen::{AcceptLoop, Connection, ListenLimits, Peer, listen};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Handle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SOON: Duration = Duration::from_secs(5);
const NOT_YET: Duration = Duration::from_millis(150);

/// Limits without a timeout for the first call.
fn limits(max_connections: usize, preface_timeout: Duration) -> ListenLimits {
    ListenLimits { max_connections, preface_timeout, auth_timeout: Duration::from_secs(3600) }
}

async fn open(
    max_connections: usize,
    preface_timeout: Duration,
) -> (AcceptLoop, std::net::SocketAddr, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    (
        listen(listener, limits(max_connections, preface_timeout), None, &[Handle::current()], stop.clone()),
        address,
        stop,
    )
}

/// True if the other side has closed or reset the connection.
async fn is_closed(stream: &mut TcpStream) -> bool {
    matches!(timeout(SOON, stream.read(&mut [0; 1])).await, Ok(Ok(0) | Err(_)))
}

#[tokio::test]
async fn silent_connections_and_partial_prefaces_are_closed_after_the_timeout() {
    let (mut accept_loop, address, _stop) = open(10, Duration::from_millis(200)).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(&PREFACE[..10]).await.unwrap();
    assert!(timeout(NOT_YET, accept_loop.incoming[0].recv()).await.is_err(), "no connection is passed on");
    assert!(is_closed(&mut silent).await);
    assert!(is_closed(&mut half).await);
    assert_eq!(accept_loop.connections.count(), 0);
}

#[tokio::test]
async fn a_connection_that_speaks_another_protocol_is_closed_at_once() {
    let (_accept_loop, address, _stop) = open(10, Duration::from_secs(3600)).await;
    for greeting in [b"GET / HTTP/1.1\r\n\r\n".as_slice(), b"\x16\x03\x01\x02\x00", b"PRI * HTTP/2.1"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(greeting).await.unwrap();
        assert!(is_closed(&mut stream).await);
    }
}

#[tokio::test]
async fn a_preface_in_several_packets_is_accepted_and_passed_on() {
    let (mut accept_loop, address, _stop) = open(10, SOON).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    client.set_nodelay(true).unwrap();
    for piece in PREFACE.chunks(5) {
        client.write_all(piece).await.unwrap();
        sleep(Duration::from_millis(5)).await;
    }
    let mut connection = timeout(SOON, accept_loop.incoming[0].recv()).await.unwrap().unwrap();
    client.write_all(b"and more").await.unwrap();
    let mut seen = [0; 32];
    connection.read_exact(&mut seen).await.unwrap();
    assert_eq!(&seen[..24], PREFACE);
    assert_eq!(&seen[24..], b"and more");
    assert_eq!(connection.state().peer(), Peer::Tcp(client.local_addr().unwrap()));

    connection.write_all(b"hello").await.unwrap();
    let mut answer = [0; 5];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"hello");
}

/// A client that has sent its preface, and the accepted connection.
async fn accepted(accept_loop: &mut AcceptLoop, address: std::net::SocketAddr) -> (TcpStream, Connection) {
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(PREFACE).await.unwrap();
    let mut connection = timeout(SOON, accept_loop.incoming[0].recv()).await.unwrap().unwrap();
    connection.read_exact(&mut [0; PREFACE.len()]).await.unwrap();
    (client, connection)
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_until_one_closes() {
    let (mut accept_loop, address, _stop) = open(2, Duration::from_secs(3600)).await;
    let (_a, first) = accepted(&mut accept_loop, address).await;
    first.state().set_authenticated(None);
    let (_b, second) = accepted(&mut accept_loop, address).await;
    second.state().set_authenticated(None);
    let mut third = TcpStream::connect(address).await.unwrap();
    third.write_all(PREFACE).await.unwrap();
    assert!(timeout(NOT_YET, accept_loop.incoming[0].recv()).await.is_err(), "no third connection is accepted");
    assert_eq!(accept_loop.connections.count(), 2);
    drop(first);
    timeout(SOON, accept_loop.incoming[0].recv()).await.unwrap().unwrap();
}

/// True if the daemon has closed this connection.
async fn is_closed_by_daemon(connection: &mut Connection) -> bool {
    matches!(timeout(SOON, connection.read(&mut [0; 1])).await, Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionAborted)
}

#[tokio::test]
async fn at_the_limit_the_oldest_connection_without_a_call_is_closed() {
    let (mut accept_loop, address, _stop) = open(3, Duration::from_secs(3600)).await;
    let (_a, mut called) = accepted(&mut accept_loop, address).await;
    called.state().set_authenticated(None);
    // A partial preface is no call; the connection is closed first, because it is older.
    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(&PREFACE[..10]).await.unwrap();
    sleep(NOT_YET).await;
    let (_b, mut idle) = accepted(&mut accept_loop, address).await;
    let (_c, next) = accepted(&mut accept_loop, address).await;
    assert!(is_closed(&mut half).await);
    next.state().set_authenticated(None);
    let (_d, last) = accepted(&mut accept_loop, address).await;
    assert!(is_closed_by_daemon(&mut idle).await, "the next without a call");
    last.state().set_authenticated(None);
    drop(idle);
    assert!(
        timeout(NOT_YET, called.read(&mut [0; 1])).await.is_err(),
        "a connection with a call is not closed for another"
    );
    let counts = accept_loop.connections.counts();
    assert_eq!((counts.displaced, counts.cut, counts.unauthenticated), (2, 0, 0));
}

#[tokio::test]
async fn a_connection_without_a_call_in_time_or_of_a_removed_principal_is_closed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    let limits = ListenLimits { auth_timeout: Duration::from_secs(1), ..limits(10, SOON) };
    let mut accept_loop = listen(listener, limits, None, &[Handle::current()], stop.clone());
    let (_a, mut idle) = accepted(&mut accept_loop, address).await;
    let (_b, mut called) = accepted(&mut accept_loop, address).await;
    let caller = CancellationToken::new();
    called.state().set_authenticated(Some(("a", &caller)));
    assert!(is_closed_by_daemon(&mut idle).await);
    assert!(timeout(Duration::from_secs(2), called.read(&mut [0; 1])).await.is_err(), "it stays open");
    // Removed principals are checked for every two seconds; a second later the connection is closed.
    caller.cancel();
    assert!(is_closed_by_daemon(&mut called).await);
    assert_eq!(accept_loop.connections.counts().unauthenticated, 2);
}

/// Connects from another loopback address, which the daemon counts separately.
async fn connect_from(own: [u8; 4], to: std::net::SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((std::net::Ipv4Addr::from(own), 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

#[tokio::test]
async fn an_address_without_calls_gets_no_more_than_its_share_of_connections() {
    let (mut accept_loop, address, _stop) = open(16, Duration::from_secs(3600)).await;
    let (_a, called) = accepted(&mut accept_loop, address).await;
    called.state().set_authenticated(None);
    // Two of the 16 connections are reserved for 127.0.0.1.
    let mut known = Vec::new();
    for _ in 0..2 {
        known.push(TcpStream::connect(address).await.unwrap());
    }
    let mut strangers = Vec::new();
    for _ in 0..50 {
        strangers.push(connect_from([127, 0, 0, 9], address).await);
    }
    assert!(is_closed(&mut strangers[30]).await);
    for stream in &mut known {
        assert!(timeout(NOT_YET, stream.read(&mut [0; 1])).await.is_err(), "a known address is not displaced");
    }
    // Of 16 connections, new addresses can have 14, less the one with a call and the two reserved ones.
    sleep(NOT_YET).await;
    assert_eq!(accept_loop.connections.counts().displaced, 50 - 13);
    drop(called);
}

/// True if a connection is still open after a moment.
async fn is_open(connection: &mut Connection) -> bool {
    timeout(Duration::from_millis(20), connection.read(&mut [0; 1])).await.is_err()
}

/// An accepted connection from an address, with a running call.
async fn called_from(
    accept_loop: &mut AcceptLoop,
    own: [u8; 4],
    address: std::net::SocketAddr,
) -> (TcpStream, Connection) {
    let mut client = connect_from(own, address).await;
    client.write_all(PREFACE).await.unwrap();
    let mut connection = timeout(SOON, accept_loop.incoming[0].recv()).await.unwrap().unwrap();
    connection.read_exact(&mut [0; PREFACE.len()]).await.unwrap();
    connection.state().set_authenticated(None);
    (client, connection)
}

#[tokio::test]
async fn the_principal_with_most_connections_loses_the_idlest_to_one_with_fewer() {
    const HEAVY: [u8; 4] = [127, 0, 0, 5];
    let (mut accept_loop, address, _stop) = open(16, Duration::from_secs(3600)).await;
    let mut heavy = Vec::new();
    for _ in 0..16 {
        let one = called_from(&mut accept_loop, HEAVY, address).await;
        one.1.state().begin_call();
        heavy.push(one);
    }
    // 14 of the 16 connections can't be displaced. Of the other two the last has no running call.
    heavy[15].1.state().end_call();
    // A new address without a call displaces only connections beyond the share, and then its own.
    let mut strangers = Vec::new();
    for _ in 0..5 {
        strangers.push(connect_from([127, 0, 0, 9], address).await);
    }
    assert!(is_closed_by_daemon(&mut heavy[15].1).await && is_closed_by_daemon(&mut heavy[14].1).await);
    heavy.truncate(14);
    assert!(is_closed(&mut strangers[0]).await && is_closed(&mut strangers[2]).await);
    for (_, connection) in &mut heavy {
        assert!(is_open(connection).await);
    }
    drop(strangers);
    sleep(NOT_YET).await;
    // Another address with calls displaces connections of the heaviest one, the idlest first, until both have equally many.
    heavy[3].1.state().end_call();
    let (mut others, mut surplus) = (Vec::new(), None);
    for number in 0..7 {
        others.push(called_from(&mut accept_loop, [127, 0, 0, 6], address).await);
        // More connections of the heavy address displace only its own.
        for _ in 0..2 {
            let more = called_from(&mut accept_loop, HEAVY, address).await;
            more.1.state().begin_call();
            surplus = Some(more);
        }
        if number == 0 {
            assert!(is_closed_by_daemon(&mut heavy[3].1).await, "the connection without a running call is closed");
        }
    }
    for (_, connection) in &mut others {
        assert!(is_open(connection).await);
    }
    assert_eq!(accept_loop.connections.counts().cut, 0);
    drop(surplus);
}

#[tokio::test]
async fn the_limit_counts_silent_connections_only_until_their_timeout() {
    let (mut accept_loop, address, _stop) = open(2, Duration::from_millis(200)).await;
    let _silent = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(PREFACE).await.unwrap();
    timeout(SOON, accept_loop.incoming[0].recv()).await.unwrap().unwrap();
}

#[tokio::test]
async fn stopping_closes_the_socket_and_connections_without_a_preface() {
    let (mut accept_loop, address, stop) = open(10, Duration::from_secs(3600)).await;
    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(&PREFACE[..23]).await.unwrap();
    let mut greeted = TcpStream::connect(address).await.unwrap();
    greeted.write_all(PREFACE).await.unwrap();
    let mut connection = timeout(SOON, accept_loop.incoming[0].recv()).await.unwrap().unwrap();

    stop.cancel();
    timeout(SOON, accept_loop.task).await.unwrap().unwrap();
    assert!(is_closed(&mut half).await);
    assert!(TcpStream::connect(address).await.is_err(), "the socket is closed");
    connection.write_all(b"still here").await.unwrap();
}

#[tokio::test]
async fn closing_a_connection_wakes_its_waiting_reader_and_writer() {
    let (mut accept_loop, address, _stop) = open(10, SOON).await;
    let mut clients = Vec::new();
    let mut waiting = Vec::new();
    for writes in [false, true] {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(PREFACE).await.unwrap();
        clients.push(client);
        let mut connection = timeout(SOON, accept_loop.incoming[0].recv()).await.unwrap().unwrap();
        waiting.push(tokio::spawn(async move {
            let mut buffer = vec![0; 1 << 20];
            loop {
                // The peer does not read, so that the writer soon waits.
                let done = if writes { connection.write(&buffer).await } else { connection.read(&mut buffer).await };
                if let Err(error) = done {
                    return error.kind();
                }
            }
        }));
    }
    sleep(NOT_YET).await;
    assert_eq!(accept_loop.connections.cut_all(), 2);
    for task in waiting {
        let kind = timeout(SOON, task).await.unwrap().unwrap();
        assert_eq!(kind, std::io::ErrorKind::ConnectionAborted);
    }
    assert_eq!(accept_loop.connections.count(), 0);
    assert!(is_closed(&mut clients[0]).await);
}
