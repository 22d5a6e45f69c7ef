//! A watcher that is cut off with every kill and goes on from the last revision it received.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use sagad::proto::{watch_events_response::Item, *};
use tokio::{sync::watch, task::JoinHandle};
use tonic::Code;

use crate::support;

/// What a watcher received.
#[derive(Default)]
pub struct Record {
    pub events: Vec<SagaEvent>,
    /// The last revision received, be it a bookmark's.
    pub last: i64,
    /// How often it had to begin again.
    pub resumed: u64,
}

/// A running watcher; it follows the daemon from address to address.
pub struct Watcher {
    pub record: Arc<Mutex<Record>>,
    task: JoinHandle<()>,
}

impl Watcher {
    pub fn follow(addresses: watch::Receiver<Option<SocketAddr>>) -> Self {
        let record = Arc::new(Mutex::new(Record::default()));
        Watcher { record: record.clone(), task: tokio::spawn(follow(addresses, record)) }
    }

    /// Waits until it has seen everything up to a revision, and returns what it saw.
    pub async fn through(self, head: i64) -> Record {
        let begun = support::now();
        loop {
            if self.task.is_finished() {
                self.task.await.expect("the watcher goes on");
                unreachable!("it never ends by itself");
            }
            if self.record.lock().unwrap().last >= head {
                break;
            }
            assert!(begun.elapsed() < support::WAIT_MAX, "the watcher does not get to {head}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.task.abort();
        std::mem::take(&mut *self.record.lock().unwrap())
    }
}

async fn follow(mut addresses: watch::Receiver<Option<SocketAddr>>, record: Arc<Mutex<Record>>) {
    loop {
        let address = *addresses.borrow_and_update();
        if let Some(address) = address {
            tail(address, &record).await;
        }
        // A new address, or the same again after a moment.
        let _ = tokio::time::timeout(Duration::from_millis(50), addresses.changed()).await;
    }
}

/// Follows one daemon until it is gone.
async fn tail(address: SocketAddr, record: &Mutex<Record>) {
    let Ok(endpoint) = tonic::transport::Endpoint::from_shared(format!("http://{address}")) else { return };
    let Ok(channel) = endpoint.connect().await else { return };
    let after = record.lock().unwrap().last;
    let request = WatchEventsRequest { after_revision: Some(after), ..WatchEventsRequest::default() };
    let mut stream = match support::Sagas::new(channel).watch_events(request).await {
        Ok(stream) => stream.into_inner(),
        Err(status) => return assert_gone(&status, after),
    };
    record.lock().unwrap().resumed += 1;
    loop {
        match stream.message().await {
            Ok(Some(answer)) => {
                let mut record = record.lock().unwrap();
                match answer.item {
                    Some(Item::Event(event)) => {
                        assert_eq!(event.revision, answer.revision);
                        assert!(event.revision > record.last, "{} came after {}", event.revision, record.last);
                        record.events.push(event);
                    }
                    Some(Item::Bookmark(_)) => assert!(answer.revision >= record.last, "a bookmark went back"),
                    None => panic!("an answer without an item"),
                }
                record.last = answer.revision;
            }
            Ok(None) => return,
            Err(status) => return assert_gone(&status, after),
        }
    }
}

fn assert_gone(status: &tonic::Status, after: i64) {
    assert_ne!(status.code(), Code::OutOfRange, "the position {after} was received, but is unknown: {status:?}");
}
