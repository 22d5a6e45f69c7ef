//! [`Shutdown`]: how a running worker is told to end, by its program or by signals.

use std::fs;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How a running worker is told to end. Clones share the two switches.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// When set, nothing new is claimed, and running work continues to its end.
    pub drain: CancellationToken,
    /// When set, running work is stopped too, and its leases are released.
    pub kill: CancellationToken,
}

impl Shutdown {
    /// Sets the switches on the first and the second SIGTERM, SIGINT, SIGHUP or SIGQUIT from now on. `notice` is
    /// called with a message for each. SIGHUP and SIGQUIT stay ignored if they were, as by `nohup`. Call it within a
    /// tokio runtime.
    ///
    /// # Errors
    ///
    /// The system's, when signals can't be listened for.
    pub fn on_signals(notice: impl Fn(&str) + Send + 'static) -> std::io::Result<Self> {
        let ignored = ignored_signals();
        let mut signals = Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: unless_ignored(SignalKind::hangup(), ignored)?,
            quit: unless_ignored(SignalKind::quit(), ignored)?,
        };
        let shutdown = Shutdown::default();
        let switches = shutdown.clone();
        tokio::spawn(async move {
            signals.any().await;
            notice("taking nothing new, waiting for what runs (again: end it)");
            switches.drain.cancel();
            signals.any().await;
            notice("ending what runs");
            switches.kill.cancel();
        });
        Ok(shutdown)
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
    quit: Option<Signal>,
}

impl Signals {
    async fn any(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            () = received(&mut self.hangup) => {}
            () = received(&mut self.quit) => {}
        }
    }
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

fn unless_ignored(kind: SignalKind, ignored: u64) -> std::io::Result<Option<Signal>> {
    let bit = u32::try_from(kind.as_raw_value() - 1).ok().and_then(|bit| 1_u64.checked_shl(bit)).unwrap_or(0);
    if ignored & bit != 0 { Ok(None) } else { signal(kind).map(Some) }
}

/// The signals that this process ignored at its start, one bit for each from 1 on; 0 if the system doesn't tell.
fn ignored_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignored_in(&status).unwrap_or(0)
}

fn ignored_in(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_is_read() {
        assert_eq!(ignored_in("Name:\tsagad\nSigIgn:\t0000000000001001\nSigCgt:\t0\n"), Some(0x1001));
        assert_eq!(ignored_in("Name:\tsagad\n"), None);
    }
}
