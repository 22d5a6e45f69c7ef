//! The arguments of `sagad bench`, and the plan made from them.

use std::{path::PathBuf, thread, time::Duration};

use clap::{Args, ValueEnum, value_parser};

use super::claim_next::LONG_TTL;
use crate::cli::{args, errors::CliError};

/// Default cycles a second for which sagas are created, for one client and for all together: more than either was seen
/// to do.
const CYCLES_PER_CLIENT: u64 = 1_500;
const CYCLES: u64 = 25_000;
/// The same over sessions, for all together.
const SESSION_CYCLES: u64 = 60_000;
/// The same for modes that only claim.
const CLAIMS_PER_CLIENT: u64 = 4_000;
const CLAIMS: u64 = 60_000;
/// The most sagas created by default; this many take a minute.
const PRELOAD_MAX: u64 = 2_000_000;
/// Default heartbeats in flight on each stream of `keepalive`.
const IN_FLIGHT: u32 = 64;
/// Default cycles in flight on each stream of `session`: 256 with the default connections.
const SESSION_IN_FLIGHT: u32 = 16;
/// The length of leases in cycles, the same as with the compared systems; no cycle takes longer.
const CYCLE_TTL: Duration = Duration::from_secs(30);

/// The longest run. A longer one is a soak test, whose figures are read while it runs.
const RUN_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

fn measured(text: &str) -> Result<Duration, String> {
    args::between(text, Duration::from_millis(1), RUN_MAX)
}

fn warmup(text: &str) -> Result<Duration, String> {
    args::between(text, Duration::ZERO, RUN_MAX)
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Claim, Heartbeat, Complete: three changes for each saga
    Cycle,
    /// CreateSaga
    Create,
    /// Claim, by id
    Claim,
    /// ClaimNext, on one queue
    ClaimNext,
    /// Heartbeat
    Heartbeat,
    /// Heartbeats over one KeepAlive stream for each connection
    Keepalive,
    /// Cycles over one Session stream for each connection
    Session,
    /// From sending a change to its event at each of the clients, which all watch
    Watch,
    /// An empty call: Health/Check
    Echo,
}

impl Mode {
    /// Its name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// The order of saga ids, and of claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Ids {
    /// In order of creation, as UUIDv7 are
    Ordered,
    /// Random ids, claimed in random order
    Random,
}

/// What `bench` takes.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:\n  sagad bench\n  sagad bench --mode cycle --clients 256 --preload 1000000\n  \
                  sagad bench --mode echo --clients 256 -o json\n  \
                  sagad bench --clients 256 --duration 10m --readers 2 --watchers 10\n  \
                  sagad bench --rate 20000 --expiring 1000\n\n\
                  Without --server it starts a daemon of its own in a temporary directory, with the SAGAD_… settings of\n\
                  the environment, and ends it; SAGAD_SERVER is ignored. With --server it leaves its sagas there,\n\
                  in its own queues. `-o json` prints one object: times in microseconds, sizes in bytes.")]
pub struct BenchArgs {
    /// What is measured.
    #[arg(long, value_enum, default_value = "cycle")]
    pub mode: Mode,
    /// Calls in flight at a time [default: 64; of keepalive 64, of session 16 for each connection]
    #[arg(long, value_name = "COUNT", value_parser = value_parser!(u32).range(1..=100_000))]
    pub clients: Option<u32>,
    /// Connections that the clients are distributed over.
    #[arg(long, value_name = "COUNT", default_value = "16", value_parser = value_parser!(u32).range(1..=10_000))]
    pub connections: u32,
    /// Threads that the connections are distributed over, each with its own runtime [default: one for each core]
    #[arg(long, value_name = "COUNT", value_parser = value_parser!(u32).range(1..=256))]
    pub threads: Option<u32>,
    /// How long it measures.
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = measured)]
    pub duration: Duration,
    /// How long it runs before that.
    #[arg(long, default_value = "2s", value_name = "DURATION", value_parser = warmup)]
    pub warmup: Duration,
    /// Sagas created before it begins; it ends early when none is left [default: as many as the mode can use]
    #[arg(long, value_name = "COUNT", value_parser = value_parser!(u64).range(..=100_000_000))]
    pub preload: Option<u64>,
    /// The order of ids, and of claims.
    #[arg(long, value_enum, default_value = "ordered")]
    pub ids: Ids,
    /// Changes per second of all clients together [default: as many as possible]
    #[arg(long, value_name = "COUNT", value_parser = value_parser!(u32).range(1..=10_000_000))]
    pub rate: Option<u32>,
    /// Send a fresh request id with every change that takes one.
    #[arg(long)]
    pub request_ids: bool,
    /// Live leases during the whole run, on other sagas.
    #[arg(long, value_name = "COUNT", default_value = "0", help_heading = "Background load", value_parser = value_parser!(u32).range(..=1_000_000))]
    pub leases: u32,
    /// Clients that list all sagas repeatedly.
    #[arg(long, value_name = "COUNT", default_value = "0", help_heading = "Background load", value_parser = value_parser!(u32).range(..=10_000))]
    pub readers: u32,
    /// Clients that follow all events.
    #[arg(long, value_name = "COUNT", default_value = "0", help_heading = "Background load", value_parser = value_parser!(u32).range(..=10_000))]
    pub watchers: u32,
    /// Leases per second that run out; the report says how late a watcher learns of them.
    #[arg(long, value_name = "COUNT", default_value = "0", help_heading = "Background load", value_parser = value_parser!(u32).range(..=100_000))]
    pub expiring: u32,
    /// Leases that all run out in the middle of the measurement; half of their sagas are requeued.
    #[arg(long, value_name = "COUNT", default_value = "0", help_heading = "Background load", value_parser = value_parser!(u32).range(..=1_000_000))]
    pub due: u32,
    /// Sagas whose delay ends at the same moment.
    #[arg(long, value_name = "COUNT", default_value = "0", help_heading = "Background load", value_parser = value_parser!(u32).range(..=1_000_000))]
    pub delays: u32,
    /// Clients that call ClaimNext repeatedly, for these sagas and on an empty queue.
    #[arg(long, value_name = "COUNT", default_value = "0", help_heading = "Background load", value_parser = value_parser!(u32).range(..=10_000))]
    pub claimers: u32,
    /// Sagas ahead in the queue that the load's claims can't take: reserved for another or, with --undo, of another kind.
    #[arg(long, value_name = "COUNT", default_value = "0", value_parser = value_parser!(u32).range(..=1_000_000))]
    pub ahead: u32,
    /// Make all sagas compensating; the load claims them for compensation, by kind.
    #[arg(long)]
    pub undo: bool,
    /// Where the temporary directory is made, and syncs are timed [default: the system's]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Restart the daemon on its store at the end, and measure the time to its first answer.
    #[arg(long)]
    pub restart: bool,
}

/// What to measure: the arguments, with the defaults that depend on others filled in.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The arguments as they were given.
    pub args: BenchArgs,
    /// Calls in flight at a time.
    pub clients: u32,
    /// At most the number of clients.
    pub connections: u32,
    /// At most the number of connections.
    pub threads: u32,
    /// Sagas created before the measurement.
    pub preload: u64,
}

impl Plan {
    /// The plan for these arguments; `own`: the bench starts its own daemon.
    ///
    /// # Errors
    /// Wrong usage: too few sagas, or an option that needs the bench's own daemon.
    pub fn of(args: BenchArgs, own: bool) -> Result<Self, CliError> {
        let wrong = |what: &str| Err(CliError::Usage(what.to_owned()));
        if args.mode == Mode::Session && args.rate.is_some() {
            return wrong("--rate can't be used with --mode session, whose cycles follow each other at once");
        }
        if (args.undo || args.ahead > 0) && !matches!(args.mode, Mode::Claim | Mode::ClaimNext) {
            return wrong("--undo and --ahead need --mode claim or --mode claim-next");
        }
        if args.claimers > 0 && args.due + args.delays == 0 {
            return wrong("--claimers needs --due or --delays");
        }
        if args.restart && !own {
            return wrong("--restart needs the bench's own daemon: leave out --server");
        }
        let in_flight = match args.mode {
            Mode::Keepalive => args.connections * IN_FLIGHT,
            Mode::Session => args.connections * SESSION_IN_FLIGHT,
            Mode::Cycle | Mode::Create | Mode::Claim | Mode::ClaimNext | Mode::Heartbeat | Mode::Watch | Mode::Echo => {
                IN_FLIGHT
            }
        };
        let clients = args.clients.unwrap_or(in_flight);
        let connections = args.connections.min(clients);
        let cores = thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1));
        let threads = args.threads.unwrap_or(cores).min(connections);
        let mut plan = Plan { args, clients, connections, threads, preload: 0 };
        plan.preload = plan.args.preload.unwrap_or_else(|| plan.used_up());
        let least = match plan.args.mode {
            Mode::Heartbeat | Mode::Keepalive => u64::from(clients),
            Mode::Cycle | Mode::Session | Mode::Claim | Mode::ClaimNext => 1,
            Mode::Create | Mode::Watch | Mode::Echo => 0,
        };
        if plan.preload < least {
            return wrong(&format!("--mode {} needs --preload {least} or more", plan.args.mode.name()));
        }
        Ok(plan)
    }

    /// A plan for the same daemon's empty call, one at a time, without other load.
    pub fn echo(&self, duration: Duration) -> Self {
        let args = BenchArgs { mode: Mode::Echo, duration, warmup: duration / 4, rate: None, ..self.args.clone() };
        Plan { args, clients: 1, connections: 1, threads: 1, ..self.clone() }
    }

    /// The length of the load's leases.
    pub fn ttl(&self) -> Duration {
        match self.args.mode {
            Mode::Cycle | Mode::Session => CYCLE_TTL,
            Mode::Create
            | Mode::Claim
            | Mode::ClaimNext
            | Mode::Heartbeat
            | Mode::Keepalive
            | Mode::Watch
            | Mode::Echo => LONG_TTL,
        }
    }

    /// How many changes one operation of a client makes.
    pub fn changes_a_turn(&self) -> u32 {
        if matches!(self.args.mode, Mode::Cycle | Mode::Session) { 3 } else { 1 }
    }

    /// How long it runs, with a second to spare.
    pub fn seconds(&self) -> u64 {
        (self.args.warmup + self.args.duration).as_secs() + 1
    }

    /// The most sagas that the load can use up.
    fn used_up(&self) -> u64 {
        let clients = u64::from(self.clients);
        let a_second = match self.args.mode {
            Mode::Cycle => CYCLES.min(CYCLES_PER_CLIENT * clients),
            Mode::Session => SESSION_CYCLES.min(CYCLES_PER_CLIENT * clients),
            Mode::Claim | Mode::ClaimNext => CLAIMS.min(CLAIMS_PER_CLIENT * clients),
            Mode::Heartbeat | Mode::Keepalive => return clients,
            Mode::Create | Mode::Watch | Mode::Echo => return 0,
        };
        let paced = self.args.rate.map_or(u64::MAX, |rate| u64::from(rate / self.changes_a_turn()) + clients);
        (a_second.min(paced) * (self.seconds() + 1)).min(PRELOAD_MAX)
    }
}
