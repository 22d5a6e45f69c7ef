//! `sagad serve`: the process around [`super::run()`]: limits, threads, signals and the exit code.

use std::{io, net::SocketAddr, process::ExitCode, sync::Arc};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    net::{TcpListener, lookup_host},
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::Notify,
};
use tracing::{info, warn};

use super::{
    auth::LoadedSecurity,
    bind::bind,
    network_threads::NetworkThreads,
    run::{ListenEndpoint, run_with},
    served_store,
    service_manager::ServiceManager,
};
use crate::{
    clock::{Clock, SystemClock},
    config::{Config, Listen, ServeArgs},
    listen::{Listeners, LocalAddress},
    logs,
};

/// Exit code: the daemon failed.
const FAILED: u8 = 1;
/// Exit code: the command line, a variable or the configuration file is wrong.
const USAGE: u8 = 2;

/// `sagad serve`, from arguments to exit code. 0: told to stop; 1: failed; 2: wrong usage.
pub fn command(args: &ServeArgs) -> ExitCode {
    match Config::load(args) {
        Ok(config) => serve(config),
        Err(error) => {
            let _flush_logs = FlushLogsOnDrop;
            logs::print_message(&error.to_string());
            ExitCode::from(USAGE)
        }
    }
}

/// Writes what is left of the log when it is dropped, also when the process ends by a panic.
struct FlushLogsOnDrop;

impl Drop for FlushLogsOnDrop {
    fn drop(&mut self) {
        logs::flush();
    }
}

/// Runs the daemon in this process until SIGTERM or SIGINT. Once it serves, its first line on stdout says where.
pub fn serve(config: Config) -> ExitCode {
    let _flush_logs = FlushLogsOnDrop;
    if let Err(error) = logs::start(config.log_format, &config.log) {
        logs::print_message(&error.to_string());
        return ExitCode::from(USAGE);
    }
    let format = config.log_format;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    let security = match LoadedSecurity::read(&config.security, &clock) {
        Ok(security) => security,
        Err(error) => {
            logs::print_message(&error.to_string());
            return ExitCode::from(USAGE);
        }
    };
    security.warnings.iter().chain(&config.tokens_in_the_open()).for_each(|warning| warn!("{warning}"));
    match run_until_signal(config, security, clock) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            logs::report_failure(format, &error.to_string());
            ExitCode::from(FAILED)
        }
    }
}

fn run_until_signal(
    mut config: Config,
    security: LoadedSecurity,
    clock: Arc<dyn Clock>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    if let Some(warning) = raise_open_files().and_then(|limit| config.limits.fit_to_descriptors(limit)) {
        warn!("{warning}");
    }
    let no_threads = |error| format!("threads can't be started: {error}");
    let threads = NetworkThreads::start(config.limits.network_threads).map_err(no_threads)?;
    let runtime = runtime().map_err(no_threads)?;
    let outcome = runtime.block_on(async {
        // First of all, so that a signal during a long start is not lost.
        let signals = Signals::install().map_err(|error| format!("signals can't be handled: {error}"))?;
        let listeners = listen_on(&config.listen).await.map_err(|error| {
            format!("can't listen on {}: {error}. Another address can be given with --listen", config.listen)
        })?;
        tokio::spawn(forward_hangups(signals.hangup, security.reload.clone()));
        let served = served_store::configured(&config, clock);
        let (manager, endpoint) = (ServiceManager::from_env(), ListenEndpoint { listeners, security });
        run_with(&config, endpoint, &threads, served, &manager, announce, signals.stop.first()).await?;
        Ok(())
    });
    // Blocking tasks that still run (a read, a store that is being opened) end with the process.
    runtime.shutdown_background();
    outcome
}

/// The runtime that accepts connections and waits for signals. Network threads and the writer have their own.
fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// One line per address, so a script that reads only the first line has an address to use.
fn announce(bound: &[LocalAddress]) {
    bound.iter().for_each(|address| logs::print_result(&format!("sagad: serving gRPC on {address}")));
}

/// Binds the configured address; for a host name, all of its addresses.
async fn listen_on(listen: &Listen) -> io::Result<Listeners> {
    match listen {
        Listen::Address(address) => bind(*address).map(Listeners::from),
        Listen::Unix(path) => Listeners::unix(path),
        Listen::Name { host, port } => {
            let found = lookup_host((host.as_str(), *port)).await?;
            let mut addresses: Vec<SocketAddr> = Vec::new();
            for address in found {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
            let exposed = addresses.iter().find(|address| Listen::Address(**address).is_exposed());
            if let Some(address) = exposed.filter(|_| !listen.is_exposed()) {
                // The configuration was checked under the assumption that the name is of this machine.
                return Err(io::Error::other(format!("the name stands for {address}, which other machines reach")));
            }
            bind_all(&addresses).map(Listeners::of)
        }
    }
}

/// Most attempts to find a port that is free on all addresses.
const PORT_TRIES: usize = 16;

/// Binds all addresses; with port 0 all get the same port. Addresses that this machine lacks, such as IPv6 in many
/// containers, are left out as long as one remains.
fn bind_all(addresses: &[SocketAddr]) -> io::Result<Vec<TcpListener>> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    'tries: for _ in 0..PORT_TRIES {
        let (mut bound, mut port): (Vec<TcpListener>, u16) = (Vec::new(), 0);
        for address in addresses {
            let mut wanted = *address;
            let any = wanted.port() == 0;
            if any {
                wanted.set_port(port);
            }
            match bind(wanted) {
                Ok(socket) => {
                    port = socket.local_addr()?.port();
                    bound.push(socket);
                }
                Err(error) if is_address_missing(&error) => {
                    info!(address = %wanted, %error, "not listened on: this machine does not have it");
                    failure = error;
                }
                // Another process has this port on this address.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && any && !bound.is_empty() => {
                    failure = error;
                    continue 'tries;
                }
                Err(error) => return Err(io::Error::new(error.kind(), format!("{wanted}: {error}"))),
            }
        }
        return if bound.is_empty() { Err(failure) } else { Ok(bound) };
    }
    Err(failure)
}

fn is_address_missing(error: &io::Error) -> bool {
    let family = rustix::io::Errno::AFNOSUPPORT.raw_os_error();
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(family)
}

/// Raises the soft limit on open files to the hard limit: the usual 1024 exists for programs that use `select`. Returns the
/// limit in force, if there is one.
fn raise_open_files() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return limit.current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        Ok(()) => limit.maximum,
        Err(error) => {
            warn!(%error, "the limit on open files stays as it is");
            limit.current
        }
    }
}

/// Each SIGHUP starts a reload of certificates and principals. Without a handler SIGHUP would end the process.
async fn forward_hangups(mut signal: Signal, reload: Arc<Notify>) {
    while signal.recv().await.is_some() {
        reload.notify_one();
    }
}

struct Signals {
    stop: StopSignals,
    hangup: Signal,
}

impl Signals {
    fn install() -> io::Result<Self> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Signals { stop: StopSignals { terminate, interrupt }, hangup: signal(SignalKind::hangup())? })
    }
}

struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Ready at the first signal. A second one ends the process at once, which is as safe as a crash: nothing acknowledged
    /// is lost.
    async fn first(mut self) {
        let name = self.next().await;
        info!(signal = name, "told to end");
        tokio::spawn(async move {
            let name = self.next().await;
            logs::print_message(&format!("second signal ({name}): ending at once"));
            logs::flush();
            std::process::exit(FAILED.into());
        });
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
