//! [`NetworkThread`]: a thread that serves connections. A new connection goes to the thread that has the fewest.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures::future::select_all;
use tokio::{runtime::Handle, sync::mpsc};

use super::connection::{Connection, LoadGuard};

/// The accept loop's view of one network thread.
pub(super) struct NetworkThread {
    runtime: Handle,
    handshaken: mpsc::Sender<Connection>,
    load: Arc<AtomicUsize>,
}

impl NetworkThread {
    pub(super) fn new(runtime: Handle, handshaken: mpsc::Sender<Connection>) -> Self {
        NetworkThread { runtime, handshaken, load: Arc::default() }
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Counts a new connection on this thread. Returns the channel that takes it after its handshake.
    pub(super) fn assign(&self) -> (mpsc::Sender<Connection>, LoadGuard) {
        (self.handshaken.clone(), LoadGuard::new(&self.load))
    }
}

/// The thread with the fewest connections; none if there are no threads.
pub(super) fn least_loaded(threads: &[NetworkThread]) -> Option<&NetworkThread> {
    threads.iter().min_by_key(|thread| thread.load.load(Ordering::Relaxed))
}

/// Ready when a thread takes no more connections: the server is shutting down or has failed.
pub(super) async fn any_closed(threads: &[NetworkThread]) {
    if !threads.is_empty() {
        select_all(threads.iter().map(|thread| Box::pin(thread.handshaken.closed()))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_connection_is_assigned_to_the_thread_with_the_fewest() {
        let thread = || NetworkThread::new(Handle::current(), mpsc::channel(1).0);
        let threads = [thread(), thread(), thread()];
        let place = |thread: &NetworkThread| threads.iter().position(|other| std::ptr::eq(other, thread)).unwrap();
        let mut assigned: Vec<_> = (0..6)
            .map(|_| {
                let thread = least_loaded(&threads).unwrap();
                (place(thread), thread.assign().1)
            })
            .collect();
        assert_eq!(assigned.iter().map(|(place, _)| *place).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2]);
        assigned.retain(|(place, _)| *place != 1);
        assert_eq!(place(least_loaded(&threads).unwrap()), 1, "who leaves makes room");
    }
}
