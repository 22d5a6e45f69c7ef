//! [`ServiceManager`]: tells systemd, or whoever sets `NOTIFY_SOCKET`, what the daemon does (`sd_notify(3)`).
//!
//! Ready once calls are served, alive while the writer and each network thread run, stopping when shutdown begins. A
//! daemon whose writer hangs would accept calls and answer none. Only a restart helps, and systemd restarts it when no
//! watchdog message comes. Not by a crate, because `sd-notify` can't use abstract sockets, and container managers use
//! those.

use std::{
    convert::Infallible,
    env,
    ffi::OsString,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

use tokio::time::sleep;
use tracing::{info, warn};

use super::liveness::DaemonThread;
use crate::domain::time::Span;

/// How often, while the store is being opened, more time is asked for, and how much each time. It is more than managers
/// with timeouts of tens of seconds have by default, and a lost message does no harm.
const OPENING_STEP: Duration = Duration::from_secs(10);
/// See [`OPENING_STEP`].
const OPENING_TIME: Duration = Duration::from_secs(60);
/// How often it is asked for, an hour in all. No store needs that long, not even to migrate the largest one. A disk that
/// hangs does, and then the manager decides.
const OPENING_STEPS: usize = 360;
/// What shutdown takes beyond the grace: cutting connections, and the exit itself.
const ENDING_REST: Duration = Duration::from_secs(5);
/// An idle writer runs every 250 ms and a network thread every 500 ms, so a shorter silence means nothing.
const LEAST_SILENCE: Duration = Duration::from_secs(1);

/// The service manager's notification socket, if there is one.
pub(super) struct ServiceManager {
    socket: Option<UnixDatagram>,
    /// The watchdog's timeout, if the manager has set one.
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// No service manager: all messages are dropped.
    pub(super) fn none() -> Self {
        ServiceManager { socket: None, watchdog: None }
    }

    /// From `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` of this process.
    pub(super) fn from_env() -> Self {
        let socket = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()).and_then(|name| {
            connect(&name).inspect_err(|error| warn!(?name, %error, "can't connect to the service manager")).ok()
        });
        let number = |name: &str| env::var(name).ok()?.parse::<u64>().ok();
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|micros| ours && *micros > 0 && socket.is_some());
        ServiceManager { socket, watchdog: watchdog.map(Duration::from_micros) }
    }

    /// Says that the store is being opened, and asks for more time. Never ready.
    pub(super) async fn report_opening(&self) -> Infallible {
        self.send("STATUS=opening the store");
        for _ in 0..OPENING_STEPS {
            self.send(&format!("EXTEND_TIMEOUT_USEC={}", OPENING_TIME.as_micros()));
            sleep(OPENING_STEP).await;
        }
        std::future::pending().await
    }

    /// Says that calls are served; from then on sends watchdog messages while no thread is silent for too long. `longest`
    /// returns the thread that has been silent for the longest time. Never ready.
    ///
    /// A silence is too long from half of the watchdog's timeout on. So a writer that is back within seven eighths of the
    /// timeout never causes a restart, and one that isn't has the daemon restarted within one and a half of it. The timeout
    /// is set in `deploy/systemd/sagad.service`, which says how long a writer may take.
    pub(super) async fn report_serving(&self, address: &str, longest: impl Fn() -> (DaemonThread, Span)) -> Infallible {
        self.send(&format!("READY=1\nSTATUS=serving gRPC on {address}"));
        let Some(watchdog) = self.watchdog else { return std::future::pending().await };
        let bound = (watchdog / 2).max(LEAST_SILENCE);
        let mut hangs = false;
        loop {
            let (part, silent) = longest();
            let silent = silent.to_std();
            let alive = silent < bound;
            if alive {
                self.send("WATCHDOG=1");
            }
            if alive == hangs {
                hangs = !alive;
                let seconds = silent.as_secs();
                if hangs {
                    warn!(seconds, %part, "silent: a disk hangs, or the machine stood still");
                    self.send(&format!("STATUS={part} has been silent for {seconds} s: look at the disk"));
                } else {
                    info!("the writer and the network threads run again");
                    self.send(&format!("STATUS=serving gRPC on {address}"));
                }
            }
            // Check again soon during a silence: the machine may only have been suspended.
            sleep(if hangs { watchdog / 8 } else { watchdog / 2 }).await;
        }
    }

    /// Says that the daemon is stopping, and asks for the time that this may take.
    pub(super) fn report_stopping(&self, grace: Duration) {
        let micros = (grace + ENDING_REST).as_micros();
        self.send(&format!("STOPPING=1\nSTATUS=ending\nEXTEND_TIMEOUT_USEC={micros}"));
    }

    fn send(&self, message: &str) {
        // The manager may be restarting itself. Important messages are repeated.
        if let Some(error) = self.socket.as_ref().and_then(|socket| socket.send(message.as_bytes()).err()) {
            warn!(%error, message, "can't notify the service manager");
        }
    }
}

/// Connects to a path, or, after an `@`, to an abstract name.
fn connect(name: &OsString) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    // A manager that does not read must not block the daemon.
    socket.set_nonblocking(true)?;
    Ok(socket)
}
