//! The accept loop against real sockets: peers that say nothing, half of it, something else, or too much at once.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::Duration;

use sagad::listen::{ListenLimits, Listening, listen};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Handle,
    time::{sleep, timeout},
};
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SOON: Duration = Duration::from_secs(5);
const NOT_YET: Duration = Duration::from_millis(150);

async fn open(
    max_connections: usize,
    preface_timeout: Duration,
) -> (Listening, std::net::SocketAddr, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    (
        listen(listener, ListenLimits { max_connections, preface_timeout }, None, &[Handle::current()], stop.clone()),
        address,
        stop,
    )
}

/// Whether the other side has closed the connection, in an orderly way or not.
async fn is_closed(stream: &mut TcpStream) -> bool {
    matches!(timeout(SOON, stream.read(&mut [0; 1])).await, Ok(Ok(0) | Err(_)))
}

#[tokio::test]
async fn silent_and_half_greetings_end_after_the_timeout() {
    let (mut door, address, _stop) = open(10, Duration::from_millis(200)).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(&PREFACE[..10]).await.unwrap();
    assert!(timeout(NOT_YET, door.incoming[0].next()).await.is_err(), "the server does not hear of them");
    assert!(is_closed(&mut silent).await);
    assert!(is_closed(&mut half).await);
    assert_eq!(door.lines.open(), 0);
}

#[tokio::test]
async fn another_protocol_is_closed_at_once() {
    let (_door, address, _stop) = open(10, Duration::from_secs(3600)).await;
    for greeting in [b"GET / HTTP/1.1\r\n\r\n".as_slice(), b"\x16\x03\x01\x02\x00", b"PRI * HTTP/2.1"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(greeting).await.unwrap();
        assert!(is_closed(&mut stream).await);
    }
}

#[tokio::test]
async fn a_greeting_in_pieces_is_read_whole_and_seen_again() {
    let (mut door, address, _stop) = open(10, SOON).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    client.set_nodelay(true).unwrap();
    for piece in PREFACE.chunks(5) {
        client.write_all(piece).await.unwrap();
        sleep(Duration::from_millis(5)).await;
    }
    let mut connection = timeout(SOON, door.incoming[0].next()).await.unwrap().unwrap().unwrap();
    client.write_all(b"and more").await.unwrap();
    let mut seen = [0; 32];
    connection.read_exact(&mut seen).await.unwrap();
    assert_eq!(&seen[..24], PREFACE);
    assert_eq!(&seen[24..], b"and more");
    assert_eq!(connection.connect_info().peer(), client.local_addr().unwrap());

    connection.write_all(b"hello").await.unwrap();
    let mut answer = [0; 5];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"hello");
}

#[tokio::test]
async fn beyond_the_bound_connections_wait_for_a_place() {
    let (mut door, address, _stop) = open(2, Duration::from_secs(3600)).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(PREFACE).await.unwrap();
        clients.push(client);
    }
    let first = timeout(SOON, door.incoming[0].next()).await.unwrap().unwrap().unwrap();
    let _second = timeout(SOON, door.incoming[0].next()).await.unwrap().unwrap().unwrap();
    assert!(timeout(NOT_YET, door.incoming[0].next()).await.is_err(), "there is no third place");
    assert_eq!(door.lines.open(), 2);
    drop(first);
    timeout(SOON, door.incoming[0].next()).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn silent_peers_give_their_places_back() {
    let (mut door, address, _stop) = open(2, Duration::from_millis(200)).await;
    let _silent = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(PREFACE).await.unwrap();
    timeout(SOON, door.incoming[0].next()).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn stopping_closes_the_socket_and_what_is_not_greeted() {
    let (mut door, address, stop) = open(10, Duration::from_secs(3600)).await;
    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(&PREFACE[..23]).await.unwrap();
    let mut greeted = TcpStream::connect(address).await.unwrap();
    greeted.write_all(PREFACE).await.unwrap();
    let mut connection = timeout(SOON, door.incoming[0].next()).await.unwrap().unwrap().unwrap();

    stop.cancel();
    timeout(SOON, door.accepting).await.unwrap().unwrap();
    assert!(is_closed(&mut half).await);
    assert!(TcpStream::connect(address).await.is_err(), "the socket is closed");
    connection.write_all(b"still here").await.unwrap();
}

#[tokio::test]
async fn a_cut_wakes_a_reader_and_a_writer_that_wait() {
    let (mut door, address, _stop) = open(10, SOON).await;
    let mut clients = Vec::new();
    let mut waiting = Vec::new();
    for writes in [false, true] {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(PREFACE).await.unwrap();
        clients.push(client);
        let mut connection = timeout(SOON, door.incoming[0].next()).await.unwrap().unwrap().unwrap();
        waiting.push(tokio::spawn(async move {
            let mut buffer = vec![0; 1 << 20];
            loop {
                // Nobody reads what is written, so that it soon waits.
                let done = if writes { connection.write(&buffer).await } else { connection.read(&mut buffer).await };
                if let Err(error) = done {
                    return error.kind();
                }
            }
        }));
    }
    sleep(NOT_YET).await;
    assert_eq!(door.lines.cut_all(), 2);
    for task in waiting {
        let kind = timeout(SOON, task).await.unwrap().unwrap();
        assert_eq!(kind, std::io::ErrorKind::ConnectionAborted);
    }
    assert_eq!(door.lines.open(), 0);
    assert!(is_closed(&mut clients[0]).await);
}
