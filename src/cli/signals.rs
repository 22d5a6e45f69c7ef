//! SIGTERM and SIGINT for a worker: the first lets running work end, the second ends it.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{errors::CliError, output::notice};
use crate::client::Shutdown;

/// Listens from now on, until the process ends.
pub fn listen() -> Result<Shutdown, CliError> {
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

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
