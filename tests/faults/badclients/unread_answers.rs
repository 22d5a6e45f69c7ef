//! Clients that don't read their answers.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use prost::Message;
use sagad::proto::*;

use super::{measured_attack::MeasuredAttack, raw_connection::*, sized};
use crate::support::*;

/// Sagas whose list is large: each has about 30 KiB of labels and compensations.
async fn large_sagas(api: &Api, count: usize) {
    for i in 0..count {
        let labels = (0..64).map(|label| (format!("label-{label}"), "v".repeat(250))).collect();
        let compensations = (0..4).map(|_| CompensationSpec { target: "t".repeat(4000), ..compensation("c") });
        let request =
            CreateSagaRequest { labels, compensations: compensations.collect(), ..create(&format!("large-{i}")) };
        api.create_saga(request).await.unwrap();
    }
}

/// Clients with closed windows request large answers, which wait in the daemon's memory. Beyond the memory limit, and after the
/// timeout, their connections are closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_unread_answers_take_bounded_memory() {
    let attack = MeasuredAttack::begin("shut windows", &["--max-call-bytes", "64MiB", "--answer-timeout", "3s"]).await;
    let api = attack.daemon.api().await;
    large_sagas(&api, 30).await;
    let list = ListSagasRequest { page_size: 1000, ..Default::default() }.encode_to_vec();
    let size = api.list_sagas(ListSagasRequest { page_size: 1000, ..Default::default() }).await.unwrap().encoded_len();
    assert!(size > 512 << 10, "{size}");
    let mut peers = Vec::new();
    for place in 0..sized(30, 200) {
        // The window is closed, or open for a single byte, which moves the whole answer into the library's buffer.
        let window = u32::from(place % 2 == 0);
        let mut raw =
            RawConnection::with(attack.daemon.address(), &[(INITIAL_WINDOW, window)]).await.unwrap().reading();
        for _ in 0..20 {
            let _ = raw.call(LIST, &list).await;
        }
        peers.push(raw);
    }
    attack.hold(3).await;
    eventually("all are cut", || async { peers.iter().all(RawConnection::is_over).then_some(()) }).await;
    drop((peers, api));
    // 64 MiB, answers being encoded at the time, and what the allocator keeps.
    attack.end(240).await;
}

/// Sessions whose answers are not read: no more items are read than may be open, their answers count like those of calls, and
/// the connections are closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_unread_session_answers_take_bounded_memory() {
    let attack = MeasuredAttack::begin("sessions, answers not taken", &["--answer-timeout", "3s"]).await;
    let api = attack.daemon.api().await;
    // Each saga has the largest payload, which a claim returns.
    let payload = bytes::Bytes::from(vec![7; 64 << 10]);
    let sagas = sized(300, 2000);
    for n in 0..sagas {
        let request =
            CreateSagaRequest { payload: payload.clone(), queue: "large".into(), ..create(&format!("l-{n}")) };
        api.create_saga(request).await.unwrap();
    }
    let mut peers = Vec::new();
    for place in 0..sized(20, 200) {
        // The window is closed, or open for a single byte, which moves a part of the answers into the library's buffer.
        let window = u32::from(place % 2 == 0);
        let mut raw =
            RawConnection::with(attack.daemon.address(), &[(INITIAL_WINDOW, window)]).await.unwrap().reading();
        for number in 0..20 {
            let Ok(stream) = raw.begin(SESSION).await else { break };
            let item = |call_id| {
                let (queues, owner_id) = (vec!["large".to_owned()], format!("w-{place}-{number}"));
                let next = ClaimNextRequest { queues, owner_id, max_sagas: 40, ..Default::default() };
                let call = Some(session_request::Call::ClaimNext(next));
                SessionRequest { call_id, call, timeout: None }.encode_to_vec()
            };
            // About as much as its window allows: 64 KiB.
            let items: Vec<u8> = (0..2000).flat_map(|n| message(&item(n))).collect();
            for piece in items.chunks(16 << 10) {
                let _ = raw.send(&frame(DATA, 0, stream, piece)).await;
            }
        }
        peers.push(raw);
    }
    attack.hold(3).await;
    let open = || peers.iter().step_by(2);
    eventually("those that were given something are cut", || async {
        open().all(RawConnection::is_over).then_some(())
    })
    .await;
    drop((peers, api));
    attack.end(240).await;
}

/// Clients that don't read their sockets and send calls without end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_sockets_that_are_not_read_are_closed() {
    let args = ["--keepalive-interval", "1s", "--keepalive-timeout", "2s", "--answer-timeout", "3s"];
    let attack = MeasuredAttack::begin("sockets that are not read", &args).await;
    let idle = attack.usage.descriptors();
    let mut peers = Vec::new();
    for _ in 0..sized(20, 200) {
        let mut raw = RawConnection::connect(attack.daemon.address()).await.unwrap();
        for _ in 0..1000 {
            let asked = tokio::time::timeout(Duration::from_millis(200), raw.call("/no/such", &[])).await;
            if !matches!(asked, Ok(Ok(_))) {
                break;
            }
        }
        peers.push(raw);
    }
    attack.hold(2).await;
    let usage = attack.usage;
    let left = idle + peers.len() / 2;
    eventually("their connections are ended", || async { (usage.descriptors() < left).then_some(()) }).await;
    drop(peers);
    // The library keeps the memory of a connection's streams until the connection is closed: 2 MiB each here.
    attack.end(sized(256, 512)).await;
}

/// A watch with a closed window is closed only beyond the memory limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_a_watch_that_is_read_late_is_not_closed() {
    let attack =
        MeasuredAttack::begin("a watch that is read late", &["--answer-timeout", "1s", "--request-timeout", "1s"])
            .await;
    let mut raw = RawConnection::with(attack.daemon.address(), &[(INITIAL_WINDOW, 1)]).await.unwrap().reading();
    let request = WatchEventsRequest { after_revision: Some(0), ..Default::default() }.encode_to_vec();
    let stream = raw.call("/sagad.v1.SagaService/WatchEvents", &request).await.unwrap();
    let api = attack.daemon.api().await;
    for i in 0..50 {
        api.running(&format!("seen-{i}"), "w").await;
    }
    // Longer than both timeouts and the interval of the checks.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!raw.is_over() && raw.seen.resets.load(Relaxed) == 0);
    let open = [frame(WINDOW_UPDATE, 0, stream, &[0, 1, 0, 0]), frame(WINDOW_UPDATE, 0, 0, &[0, 1, 0, 0])].concat();
    raw.send(&open).await.unwrap();
    eventually("the watch continues", || async { (raw.seen.data_bytes.load(Relaxed) > 100 * 50).then_some(()) }).await;
    drop((raw, api));
    attack.end(128).await;
}
