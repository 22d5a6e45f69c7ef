//! How a running worker is told to end: by its program, or by the signals that end processes.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How a running worker is told to end; cloning it gives another handle on the same two switches.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Set: nothing new is claimed, what runs is let run to its end.
    pub drain: CancellationToken,
    /// Set: what runs is ended too, and its leases are given back.
    pub kill: CancellationToken,
}

impl Shutdown {
    /// Both switches, set by the first and the second SIGTERM or SIGINT from now on. `notice` is told of each, in words.
    /// To be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// The system's, when signals can't be listened for.
    pub fn on_signals(notice: impl Fn(&str) + Send + 'static) -> std::io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = Shutdown::default();
        let switches = shutdown.clone();
        tokio::spawn(async move {
            either(&mut terminate, &mut interrupt).await;
            notice("taking nothing new, waiting for what runs (again: end it)");
            switches.drain.cancel();
            either(&mut terminate, &mut interrupt).await;
            notice("ending what runs");
            switches.kill.cancel();
        });
        Ok(shutdown)
    }
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
