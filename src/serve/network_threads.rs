//! [`NetworkThreads`]: each runs a single-threaded runtime with its own connections. So a connection stays on one thread,
//! without the locks and the work stealing of a multi-threaded runtime, which cost more than they gain where calls are
//! short.

use std::{io, thread};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::store::reply;

/// The threads that serve connections.
pub(super) struct NetworkThreads {
    handles: Vec<Handle>,
    /// Ends the threads when it is dropped.
    _running: Option<DropGuard>,
}

impl NetworkThreads {
    /// Starts `count` threads, which run until the result is dropped.
    ///
    /// # Errors
    /// A thread or its event queue can't be created.
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
        Ok(NetworkThreads { handles, _running: Some(stop.drop_guard()) })
    }

    /// The current runtime in place of threads of its own.
    pub(super) fn current() -> Self {
        NetworkThreads { handles: vec![Handle::current()], _running: None }
    }

    pub(super) fn handles(&self) -> &[Handle] {
        &self.handles
    }
}
