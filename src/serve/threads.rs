//! The network's threads. Each runs a single-threaded runtime with connections of its own: what happens on a connection
//! stays on one thread, without the locks and the stealing of a runtime that many threads share, which cost more than
//! they gain where calls are short.

use std::{io, thread};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::store::reply;

/// Where connections are served.
pub(super) struct Threads {
    handles: Vec<Handle>,
    /// Ends the threads.
    _running: Option<DropGuard>,
}

impl Threads {
    /// Starts so many threads, which run until this is dropped.
    ///
    /// # Errors
    /// The kernel's, if it gives no thread or no event queue.
    pub(super) fn start(count: usize) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let mut handles = Vec::with_capacity(count);
        for number in 0..count {
            let runtime = Builder::new_current_thread().thread_name("sagad-read").enable_all().build()?;
            handles.push(runtime.handle().clone());
            let stop = stop.clone();
            thread::Builder::new().name(format!("sagad-net-{number}")).spawn(move || {
                runtime.block_on(stop.run_until_cancelled_owned(reply::deliver_replies()));
                // What still blocks ends with the process.
                runtime.shutdown_background();
            })?;
        }
        Ok(Threads { handles, _running: Some(stop.drop_guard()) })
    }

    /// The runtime that is running already.
    pub(super) fn here() -> Self {
        Threads { handles: vec![Handle::current()], _running: None }
    }

    /// A handle on each thread's runtime.
    pub(super) fn handles(&self) -> &[Handle] {
        &self.handles
    }
}
