//! What the service manager is told: systemd's notification protocol (`sd_notify(3)`), over the socket that it names.
//!
//! Ready when calls are served, alive while the writer and each network thread turns, ending when it begins to end. A
//! daemon whose writer hangs would go on to accept calls and answer none; nothing but a restart helps, and systemd makes
//! one when it hears nothing.
//! Written by hand, because the crate for it knows no abstract sockets, which container managers use.

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

use super::liveness::Part;
use crate::domain::time::Span;

/// How often more time is asked for while the store is being opened, and for how long each time: more than the default
/// of a manager that reckons in tens of seconds, and several chances before it is over.
const OPENING_STEP: Duration = Duration::from_secs(10);
/// See [`OPENING_STEP`].
const OPENING_TIME: Duration = Duration::from_secs(60);
/// How often it is asked for: an hour in all. No store takes so long, a new schema of the largest included; a disk that
/// hangs does, and is then the manager's to judge.
const OPENING_STEPS: usize = 360;
/// What ending takes beyond the grace: connections that are cut, and the exit itself.
const ENDING_REST: Duration = Duration::from_secs(5);
/// A writer that has nothing to do turns every 250 ms, a network thread every 500 ms: a shorter silence says nothing.
const LEAST_SILENCE: Duration = Duration::from_secs(1);

/// The service manager's ear, if there is one.
pub(super) struct Manager {
    socket: Option<UnixDatagram>,
    /// How long it may hear nothing, if it listens for that.
    watchdog: Option<Duration>,
}

impl Manager {
    /// Nobody: everything that it is told goes nowhere.
    pub(super) fn nobody() -> Self {
        Manager { socket: None, watchdog: None }
    }

    /// The one that started this process, as it says in `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    pub(super) fn of_this_process() -> Self {
        let socket = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()).and_then(|name| {
            connect(&name).inspect_err(|error| warn!(?name, %error, "the service manager can't be told anything")).ok()
        });
        let number = |name: &str| env::var(name).ok()?.parse::<u64>().ok();
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|micros| ours && *micros > 0 && socket.is_some());
        Manager { socket, watchdog: watchdog.map(Duration::from_micros) }
    }

    /// Says that the store is being opened, and that it may take its time. Never ready.
    pub(super) async fn opening(&self) -> Infallible {
        self.tell("STATUS=opening the store");
        for _ in 0..OPENING_STEPS {
            self.tell(&format!("EXTEND_TIMEOUT_USEC={}", OPENING_TIME.as_micros()));
            sleep(OPENING_STEP).await;
        }
        std::future::pending().await
    }

    /// Says that calls are served, and from then on, for as long as nothing is silent that answers them, that the daemon is
    /// alive. `longest` tells what has been silent for longest. Never ready.
    ///
    /// A silence is too long from half of the watchdog's time on. So a writer that is back within seven eighths of that
    /// time is never taken for hung, and one that is not has the daemon restarted within one and a half of it. How long a
    /// writer may take for what is not a hang is thus said where the watchdog is set: `deploy/systemd/sagad.service`.
    pub(super) async fn serving(&self, address: &str, longest: impl Fn() -> (Part, Span)) -> Infallible {
        self.tell(&format!("READY=1\nSTATUS=serving gRPC on {address}"));
        let Some(watchdog) = self.watchdog else { return std::future::pending().await };
        let bound = (watchdog / 2).max(LEAST_SILENCE);
        let mut hangs = false;
        loop {
            let (part, silent) = longest();
            let silent = silent.to_std();
            let alive = silent < bound;
            if alive {
                self.tell("WATCHDOG=1");
            }
            if alive == hangs {
                hangs = !alive;
                let seconds = silent.as_secs();
                if hangs {
                    warn!(seconds, %part, "silent: a disk hangs, or the machine stood still");
                    self.tell(&format!("STATUS={part} has been silent for {seconds} s: look at the disk"));
                } else {
                    info!("the writer and the network threads turn again");
                    self.tell(&format!("STATUS=serving gRPC on {address}"));
                }
            }
            // Soon again after a silence: it may only have been the machine that stood still.
            sleep(if hangs { watchdog / 8 } else { watchdog / 2 }).await;
        }
    }

    /// Says that the daemon ends, and asks for the grace that this may take.
    pub(super) fn ending(&self, grace: Duration) {
        let micros = (grace + ENDING_REST).as_micros();
        self.tell(&format!("STOPPING=1\nSTATUS=ending\nEXTEND_TIMEOUT_USEC={micros}"));
    }

    fn tell(&self, news: &str) {
        // It may be away itself for a moment; what it must not miss is told again.
        if let Some(error) = self.socket.as_ref().and_then(|socket| socket.send(news.as_bytes()).err()) {
            warn!(%error, news, "the service manager can't be told");
        }
    }
}

/// A socket in the file system, or, behind an `@`, one that has only a name.
fn connect(name: &OsString) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    // A manager that does not read must not hold anything up.
    socket.set_nonblocking(true)?;
    Ok(socket)
}
