//! Floods of frames that are cheap to send.

use std::{net::SocketAddr, sync::atomic::Ordering::Relaxed, time::Duration};

use prost::Message;
use sagad::proto::{HeartbeatRequest, SessionRequest, session_request};
use tokio::task::JoinSet;

use super::{measured_attack::MeasuredAttack, raw_connection::*, sized};
use crate::support::*;

/// Sends the frames that `frames` makes for each number, over several connections, until the time is over. A connection that
/// the daemon ends is opened again. Returns the number of frames sent and of connections ended.
pub async fn flood(
    address: SocketAddr,
    connections: usize,
    reads: bool,
    frames: impl Fn(&mut RawConnection) -> Vec<u8> + Clone + Send + 'static,
) -> (u64, u64) {
    let lasting = sized(Duration::from_millis(800), Duration::from_secs(10));
    let mut floods = JoinSet::new();
    for _ in 0..connections {
        let frames = frames.clone();
        floods.spawn(async move {
            let (mut sent, mut ended) = (0, 0);
            let begun = now();
            while begun.elapsed() < lasting {
                let Ok(raw) = RawConnection::connect(address).await else { continue };
                let mut raw = if reads { raw.reading() } else { raw };
                while begun.elapsed() < lasting && !raw.is_over() {
                    let bytes: Vec<u8> = (0..100).flat_map(|_| frames(&mut raw)).collect();
                    match tokio::time::timeout(lasting / 4, raw.send(&bytes)).await {
                        Ok(Ok(())) => sent += 100,
                        // The daemon has stopped reading, which is a valid defence.
                        Err(_) => break,
                        Ok(Err(_)) => {
                            ended += 1;
                            break;
                        }
                    }
                }
                if raw.is_over() {
                    ended += 1;
                }
            }
            (sent, ended)
        });
    }
    floods.join_all().await.into_iter().fold((0, 0), |(a, b), (c, d)| (a + c, b + d))
}

/// Runs a flood beside the well-behaved client.
async fn withstand(
    name: &'static str,
    reads: bool,
    frames: impl Fn(&mut RawConnection) -> Vec<u8> + Clone + Send + 'static,
) -> u64 {
    let attack = MeasuredAttack::begin(name, &[]).await;
    let (sent, ended) = flood(attack.daemon.address(), sized(4, 16), reads, frames).await;
    println!("{name}: {sent} frames, {ended} connections ended");
    assert!(sent > 0);
    attack.end(128).await;
    ended
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_ping_floods_are_withstood() {
    withstand("pings", true, |_| frame(PING, 0, 0, &[7; 8])).await;
    withstand("pings, answers not read", false, |_| frame(PING, 0, 0, &[7; 8])).await;
}

/// A flood of such frames is read with pauses, so that its cost is bounded on any machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_a_flooding_connection_is_read_with_pauses() {
    let attack = MeasuredAttack::begin("pings, counted", &[]).await;
    let mut raw = RawConnection::connect(attack.daemon.address()).await.unwrap().reading();
    let begun = now();
    let pings = frame(PING, 0, 0, &[7; 8]).repeat(1000);
    let flood = async { while raw.send(&pings).await.is_ok() {} };
    assert!(tokio::time::timeout(Duration::from_millis(1500), flood).await.is_err(), "the connection is not ended");
    let answered = raw.seen.pongs.load(Relaxed) as f64;
    // 2,048 pings are free, 64 more after each pause of 10 ms, and a quarter of one for each answer.
    let allowed = (2048.0 + 6400.0 * begun.elapsed().as_secs_f64()) / 0.7 + 2000.0;
    println!("{answered} pings answered in {:?}, of at most {allowed:.0}", begun.elapsed());
    assert!(answered > 2000.0 && answered < allowed, "{answered}");
    drop(raw);
    // A ping after many other frames must wait for more than half of the pauses that those cost.
    let updates = frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]);
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]);
    let priorities = frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 3]);
    let kinds = [
        ("settings", settings),
        ("priorities", priorities),
        ("unknown", frame(UNKNOWN, 0, 0, &[])),
        ("updates", updates),
    ];
    for (what, one) in kinds {
        let mut raw = RawConnection::connect(attack.daemon.address()).await.unwrap().reading();
        let begun = now();
        raw.send(&[one.repeat(2048 + 6400), frame(PING, 0, 0, &[7; 8])].concat()).await.unwrap();
        eventually("it is answered", || async { (raw.seen.pongs.load(Relaxed) > 0).then_some(()) }).await;
        println!("{what}: {:?} for a second of pauses", begun.elapsed());
        assert!(begun.elapsed() > Duration::from_millis(500), "{what} are read without pauses");
    }
    attack.end(96).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_settings_floods_are_withstood() {
    let settings = |_: &mut RawConnection| frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]);
    withstand("settings", true, settings).await;
    withstand("settings, answers not read", false, settings).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_floods_of_frames_without_answer_are_withstood() {
    withstand("priorities", true, |raw| frame(PRIORITY, 0, raw.stream(), &[0, 0, 0, 0, 1])).await;
    withstand("unknown frames", true, |_| frame(UNKNOWN, 0, 0, &[])).await;
    // The connection's window overflows after 2^31 - 1, which takes longer than this at one byte a frame.
    withstand("window updates", true, |_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_floods_of_empty_and_tiny_frames_end_the_connection() {
    // One stream for each connection, begun with the first frame; its message never ends.
    let on_one_stream = |data: &'static [u8]| {
        move |raw: &mut RawConnection| match raw.stream() {
            1 => {
                [frame(HEADERS, END_HEADERS, 1, &block(BATCH, &[])), frame(DATA, 0, 1, &[0, 0, 63, 255, 255])].concat()
            }
            _ => frame(DATA, 0, 1, data),
        }
    };
    let ended = withstand("empty data frames", true, on_one_stream(&[])).await;
    assert!(ended > 0, "the daemon ends such connections");
    withstand("data frames of one byte", true, on_one_stream(&[7])).await;
}

/// Tiny frames of a stream that the daemon does not read, because its answers are not read: only the limit on their number
/// bounds their cost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_queued_tiny_frames_end_the_connection() {
    let attack = MeasuredAttack::begin("tiny frames that pile up", &[]).await;
    let mut peers = Vec::new();
    for _ in 0..sized(4, 16) {
        let mut raw = RawConnection::with(attack.daemon.address(), &[(INITIAL_WINDOW, 0)]).await.unwrap().reading();
        for _ in 0..4 {
            let Ok(stream) = raw.begin("/sagad.v1.SagaService/KeepAlive").await else { break };
            let frames = frame(DATA, 0, stream, &[0]).repeat(1000);
            // Its window is 64 KiB.
            for _ in 0..60 {
                let _ = raw.send(&frames).await;
            }
        }
        peers.push(raw);
    }
    attack.hold(2).await;
    eventually("all are ended", || async { peers.iter().all(RawConnection::is_over).then_some(()) }).await;
    for raw in &peers {
        // A client that was still sending may have lost the GOAWAY frame.
        assert!([0, ENHANCE_YOUR_CALM].contains(&raw.seen.goaway_code.load(Relaxed)));
    }
    drop(peers);
    attack.end(128).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_reset_floods_end_the_connection() {
    // CVE-2023-44487: a call is begun and cancelled at once, so that it does not count as open.
    let ended = withstand("rapid resets", true, |raw| {
        let stream = raw.stream();
        [frame(HEADERS, END_HEADERS, stream, &block(STATS, &[])), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
    })
    .await;
    assert!(ended > 0, "the daemon ends such connections");
    // CVE-2025-8671: the client makes an error on purpose, so that the daemon resets the stream. Here by overflowing a window.
    let ended = withstand("made to reset", true, |raw| {
        let stream = raw.stream();
        let overflow = frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes());
        [frame(HEADERS, END_HEADERS, stream, &block(STATS, &[])), overflow].concat()
    })
    .await;
    assert!(ended > 0, "the daemon ends such connections");
}

/// Items of sessions as fast as they can be sent: malformed ones, which are answered at once, and heartbeats without a lease.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_session_item_floods_are_withstood() {
    let flood = |item: SessionRequest| {
        let item = message(&item.encode_to_vec());
        move |raw: &mut RawConnection| match raw.stream() {
            1 => [wide_open(), frame(HEADERS, END_HEADERS, 1, &block(SESSION, &[])), frame(DATA, 0, 1, &item)].concat(),
            _ => frame(DATA, 0, 1, &item),
        }
    };
    let lease =
        HeartbeatRequest { task_id: "none".into(), owner_id: "w".into(), fencing_token: 1, ..Default::default() };
    let beat = SessionRequest { call: Some(session_request::Call::Heartbeat(lease)), ..Default::default() };
    withstand("items without a call", true, flood(SessionRequest::default())).await;
    withstand("items", true, flood(beat.clone())).await;
    withstand("items, answers not read", false, flood(beat)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_call_floods_are_withstood() {
    // These calls are valid; only their number is large. A refused client calls again.
    withstand("whole calls", true, |raw| {
        let stream = raw.stream();
        let greeting = if stream == 1 { wide_open() } else { Vec::new() };
        [
            greeting,
            frame(HEADERS, END_HEADERS, stream, &block(STATS, &[])),
            frame(DATA, END_STREAM, stream, &message(&[])),
        ]
        .concat()
    })
    .await;
}
