//! No caller occupies all held calls, streams, reads or connections. A caller is a principal, over any number of connections, or
//! one connection where callers are not known.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sagad::proto::*;
use tokio::{task::JoinSet, time::timeout};
use tonic::{Code, Status};

use crate::support::{
    Daemon, create, eventually, ms,
    principals::{AuthSetup, TokenClient, entry, token},
};

/// The limit of held calls in these tests, and one caller's share of it.
const PLACES: &str = "--max-waiting=200";
const SHARE: usize = 150;

fn waiting_claim(owner: &str) -> ClaimNextRequest {
    let queues = vec!["q".to_owned()];
    ClaimNextRequest { queues, owner_id: owner.into(), wait: ms(60_000), ..Default::default() }
}

/// Makes 400 calls that wait, over these connections.
fn flood(clients: &[TokenClient], owner: &str) -> JoinSet<Result<(), Status>> {
    let mut calls = JoinSet::new();
    for n in 0..400 {
        let mut client = clients[n % clients.len()].clone();
        let owner = format!("{owner}/{n}");
        calls.spawn(async move { client.sagas.claim_next(waiting_claim(&owner)).await.map(drop) });
    }
    calls
}

async fn waiting(client: &TokenClient) -> usize {
    let stats = client.clone().sagas.get_stats(GetStatsRequest {}).await.unwrap();
    usize::try_from(stats.into_inner().waiting).unwrap()
}

/// Of the flood only its share is held and the rest refused. Then another caller's claim is held, too, and gets a saga.
async fn others_get_in(mut flood: JoinSet<Result<(), Status>>, mut other: TokenClient, operator: TokenClient) {
    for _ in 0..400 - SHARE {
        let status = flood.join_next().await.unwrap().unwrap().unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    }
    assert_eq!(waiting(&operator).await, SHARE);
    let held = tokio::spawn(async move { other.sagas.claim_next(waiting_claim("other")).await });
    eventually("another waits beside it", || async { (waiting(&operator).await == SHARE + 1).then_some(()) }).await;
    // Held claims are served in order of arrival: first those of the flood.
    let one = |n| CreateSagaRequest { queue: "q".into(), ..create(&format!("t-{n}")) };
    let requests = (0..=SHARE).map(one).collect();
    let batch = BatchCreateSagasRequest { requests, ..Default::default() };
    operator.clone().sagas.batch_create_sagas(batch).await.unwrap();
    assert_eq!(held.await.unwrap().unwrap().into_inner().sagas.len(), 1);
    eventually("no claim is held", || async { (waiting(&operator).await == 0).then_some(()) }).await;
    while let Some(answer) = flood.join_next().await {
        answer.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_principals_held_calls_are_limited_over_all_its_connections() {
    let worker = |name| entry(name, "['worker']", "['q']");
    let people = [worker("greedy"), worker("other"), entry("jo", "['operator']", "")].concat();
    let setup = AuthSetup::start_with(&people, &[PLACES]);
    let mut connections = Vec::new();
    for _ in 0..4 {
        connections.push(setup.client("greedy").await);
    }
    let (other, operator) = (setup.client("other").await, setup.client("jo").await);
    others_get_in(flood(&connections, "greedy"), other, operator.clone()).await;
    // The principal can wait again.
    let again = flood(&connections, "greedy");
    eventually("its share waits again", || async { (waiting(&operator).await == SHARE).then_some(()) }).await;
    drop(again);
}

#[tokio::test]
async fn without_principals_the_held_calls_of_a_connection_are_limited() {
    let daemon = Daemon::start_with(&[PLACES, "--max-concurrent-streams=1000"]);
    let client = async || TokenClient::new(daemon.channel().await, None);
    let (greedy, other, operator) = (client().await, client().await, client().await);
    others_get_in(flood(&[greedy], "greedy"), other, operator).await;
}

/// The same for watches and `KeepAlive` streams.
#[tokio::test]
async fn the_streams_of_a_principal_are_limited() {
    let worker = |name| entry(name, "['worker']", "['q']");
    let setup = AuthSetup::start_with(&[worker("greedy"), worker("other")].concat(), &["--max-watches=200"]);
    let (mut greedy, mut other) = (Vec::new(), setup.client("other").await);
    for _ in 0..3 {
        greedy.push(setup.client("greedy").await);
    }
    let mut open = Vec::new();
    for n in 0..200 {
        match greedy[n % 3].sagas.watch_events(WatchEventsRequest::default()).await {
            Ok(stream) => open.push(stream.into_inner()),
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}"),
        }
    }
    assert_eq!(open.len(), SHARE);
    let _watch = other.sagas.watch_events(WatchEventsRequest::default()).await.unwrap();
    let _stale = other.sagas.watch_stale(WatchStaleRequest::default()).await.unwrap();
    let (mut kept, mut items) = (Vec::new(), Vec::new());
    for n in 0..200 {
        let (sender, stream) = futures::channel::mpsc::channel::<KeepAliveRequest>(1);
        if let Ok(stream) = greedy[n % 3].sagas.keep_alive(stream).await {
            kept.push(stream.into_inner());
            items.push(sender);
        }
    }
    assert_eq!(kept.len(), SHARE);
    let (_item, stream) = futures::channel::mpsc::channel::<KeepAliveRequest>(1);
    other.sagas.keep_alive(stream).await.unwrap();
    // Sessions count in the same limit.
    let session = async |client: &mut TokenClient| {
        let (item, stream) = futures::channel::mpsc::channel::<SessionRequest>(1);
        client.sagas.session(stream).await.map(|answers| (item, answers.into_inner()))
    };
    assert_eq!(session(&mut greedy[0]).await.unwrap_err().code(), Code::ResourceExhausted);
    let _session = session(&mut other).await.unwrap();
    // A closed stream no longer counts.
    open.truncate(SHARE - 10);
    eventually("a place is free", || async {
        greedy[0].clone().sagas.watch_events(WatchEventsRequest::default()).await.ok().map(drop)
    })
    .await;
}

/// Sagas, and so events, of the test of reads: more than a read examines in one turn of a reader.
const LOOKED_THROUGH: usize = 10_001;
/// Reads of one principal that wait all the time.
const READS: usize = 100;
/// Most of them that may be answered before another principal's read: as many as there are readers, and those answered while
/// its own call and answer are on their way. In order of arrival it would be all of them.
const WAITED_FOR: usize = READS / 5;

/// Creates the sagas, of which only the last is in another queue.
async fn fill(mut operator: TokenClient) {
    for first in (0..LOOKED_THROUGH).step_by(1000) {
        let one = |n| {
            let queue = if n + 1 == LOOKED_THROUGH { "rare" } else { "q" };
            CreateSagaRequest { queue: queue.into(), ..create(&format!("t-{n}")) }
        };
        let requests = (first..LOOKED_THROUGH.min(first + 1000)).map(one).collect();
        operator.sagas.batch_create_sagas(BatchCreateSagasRequest { requests, ..Default::default() }).await.unwrap();
    }
}

/// Repeats a read without pause, many at a time, while another principal reads one saga. Returns the median number of reads
/// that were answered during one of its reads.
async fn waited_for<F: Future<Output = ()> + Send + 'static>(
    mut other: TokenClient,
    read: impl Fn() -> F + Clone + Send + 'static,
) -> usize {
    let answered = Arc::new(AtomicUsize::new(0));
    let mut reads = JoinSet::new();
    for _ in 0..READS {
        let (read, answered) = (read.clone(), answered.clone());
        reads.spawn(async move {
            loop {
                read().await;
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    eventually("they wait", || async { (answered.load(Ordering::Relaxed) >= READS).then_some(()) }).await;
    let mut counts = Vec::new();
    for _ in 0..9 {
        let before = answered.load(Ordering::Relaxed);
        other.sagas.get_saga(GetSagaRequest { task_id: "t-0".into(), ..Default::default() }).await.unwrap();
        counts.push(answered.load(Ordering::Relaxed) - before);
    }
    reads.shutdown().await;
    counts.sort_unstable();
    counts[counts.len() / 2]
}

#[tokio::test]
async fn a_read_does_not_wait_for_all_reads_of_another_principal() {
    let reader = |name| entry(name, "['reader']", "");
    let setup = AuthSetup::start(&[reader("greedy"), reader("other"), entry("jo", "['operator']", "")].concat());
    fill(setup.client("jo").await).await;
    let (greedy, other) = (setup.client("greedy").await, setup.client("other").await);

    let client = greedy.clone();
    let listing = move || {
        let mut client = client.clone();
        async move {
            let nothing = ListSagasRequest { owner_id: "nobody".into(), ..Default::default() };
            let page = client.sagas.list_sagas(nothing).await.unwrap().into_inner();
            assert!(page.sagas.is_empty() && !page.next_page_token.is_empty(), "it ends after the rows of one turn");
        }
    };
    let most = waited_for(other.clone(), listing).await;
    assert!(most < WAITED_FOR, "{most} listings were answered before it");

    let watch = move || {
        let mut client = greedy.clone();
        async move {
            let from_far =
                WatchEventsRequest { queues: vec!["rare".into()], after_revision: Some(1), ..Default::default() };
            let mut watch = client.sagas.watch_events(from_far).await.unwrap().into_inner();
            watch.message().await.unwrap().expect("where it begins");
            watch.message().await.unwrap().expect("the last event");
        }
    };
    let most = waited_for(other, watch).await;
    assert!(most < WAITED_FOR, "{most} watches had looked through the history before it");
}

/// How long a connection and its first call may take. It takes milliseconds; without shares it would not end.
const SOON: Duration = Duration::from_secs(10);

/// Opens a watch on a principal's connection; none if the connection was closed for another before.
async fn busy(client: &TokenClient) -> Option<tonic::Streaming<WatchEventsResponse>> {
    let mut watch = client.clone().sagas.watch_events(WatchEventsRequest::default()).await.ok()?.into_inner();
    watch.message().await.ok()?;
    Some(watch)
}

/// The same for connections: a call runs on each, and more connections are opened all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_a_principal_cannot_occupy_all_connections() {
    const PLACES: usize = 64;
    let worker = |name| entry(name, "['worker']", "['q']");
    let people = [worker("greedy"), worker("other"), entry("jo", "['operator']", "")].concat();
    let mut setup = AuthSetup::start_with(&people, &[&format!("--max-connections={PLACES}")]);
    let stays = setup.client("jo").await;
    let mut watch = busy(&stays).await.unwrap();
    let address = setup.daemon.address();
    let mut flood = JoinSet::new();
    for _ in 0..2 {
        flood.spawn(async move {
            let mut held = std::collections::VecDeque::new();
            loop {
                let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
                let Ok(channel) = endpoint.connect().await else { continue };
                let client = TokenClient::new(channel, Some(&token("greedy")));
                if let Some(watch) = busy(&client).await {
                    held.push_back((client, watch));
                }
                if held.len() > PLACES {
                    held.pop_front();
                }
            }
        });
    }
    eventually("all places were taken", || async { setup.daemon.log().contains("max_connections").then_some(()) })
        .await;
    let mut others = Vec::new();
    for number in 0..PLACES / 4 {
        let comes = async {
            loop {
                let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
                let Ok(channel) = endpoint.connect().await else { continue };
                let client = TokenClient::new(channel, Some(&token("other")));
                if let Some(watch) = busy(&client).await {
                    return watch;
                }
            }
        };
        others.push(timeout(SOON, comes).await.unwrap_or_else(|_| panic!("connection {number} is accepted")));
    }
    for watch in &mut others {
        assert!(timeout(Duration::from_millis(20), watch.message()).await.is_err(), "open connections stay open");
    }
    flood.shutdown().await;
    stays.clone().sagas.get_stats(GetStatsRequest {}).await.unwrap();
    assert!(timeout(Duration::from_millis(20), watch.message()).await.is_err(), "the watch stays open");
    drop((others, watch, stays));
    let log = setup.daemon.terminate().await;
    assert!(log.contains("greedy has most of them"), "the log names the principal: {log}");
}
