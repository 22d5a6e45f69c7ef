//! [`NetworkThread`]: a thread that serves connections. A new connection goes to the thread that has the fewest.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures::future::select_all;
use tokio::{runtime::Handle, sync::mpsc};

use super::Connection;

/// The accept loop's view of one network thread.
pub(super) struct Hall {
    runtime: Handle,
    greeted: mpsc::Sender<Connection>,
    seated: Arc<AtomicUsize>,
}

/// Counts one connection on its thread until it is dropped.
#[derive(Debug)]
pub(super) struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Hall {
    pub(super) fn new(runtime: Handle, greeted: mpsc::Sender<Connection>) -> Self {
        Hall { runtime, greeted, seated: Arc::default() }
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Counts a new connection on this thread. Returns the channel that takes it after its handshake.
    pub(super) fn enter(&self) -> (mpsc::Sender<Connection>, Seat) {
        self.seated.fetch_add(1, Ordering::Relaxed);
        (self.greeted.clone(), Seat(self.seated.clone()))
    }
}

/// The thread with the fewest connections; none if there are no threads.
pub(super) fn emptiest(halls: &[Hall]) -> Option<&Hall> {
    halls.iter().min_by_key(|hall| hall.seated.load(Ordering::Relaxed))
}

/// Ready when a thread takes no more connections: the server is shutting down or has failed.
pub(super) async fn closed(halls: &[Hall]) {
    if !halls.is_empty() {
        select_all(halls.iter().map(|hall| Box::pin(hall.greeted.closed()))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_connection_goes_where_there_are_the_fewest() {
        let hall = || Hall::new(Handle::current(), mpsc::channel(1).0);
        let halls = [hall(), hall(), hall()];
        let place = |hall: &Hall| halls.iter().position(|other| std::ptr::eq(other, hall)).unwrap();
        let mut seats: Vec<_> = (0..6)
            .map(|_| {
                let hall = emptiest(&halls).unwrap();
                (place(hall), hall.enter().1)
            })
            .collect();
        assert_eq!(seats.iter().map(|(place, _)| *place).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2]);
        seats.retain(|(place, _)| *place != 1);
        assert_eq!(place(emptiest(&halls).unwrap()), 1, "who leaves makes room");
    }
}
