//! The situations, in the order of the table in `examples/README.md`.

mod ends;
mod leases;
mod network;
mod outcomes;
mod readme;
mod undo;
mod watch;

use futures::{FutureExt, future::LocalBoxFuture};

use crate::languages::Language;

/// A situation, which runs in any language.
pub struct Situation {
    /// Its name in the tests.
    pub name: &'static str,
    /// Its description in the table.
    pub title: &'static str,
    /// Runs it; panics if it fails.
    pub run: fn(&'static Language) -> LocalBoxFuture<'static, ()>,
}

macro_rules! situations {
    ($($module:ident::$name:ident: $title:literal,)*) => {
        /// All of them.
        pub const SITUATIONS: &[Situation] = &[
            $(Situation {
                name: stringify!($name),
                title: $title,
                run: |language| $module::$name(language).boxed_local(),
            },)*
        ];
    };
}

situations! {
    outcomes::completed: "the work is done and reported",
    outcomes::failed: "it fails, for good or to be retried; a bad payload; a foreign directory",
    outcomes::settings: "a length is taken in each of its forms; bad settings are named",
    leases::killed: "a worker is killed (`kill -9`): the watcher decides, the compensator undoes",
    leases::suspended: "a worker is suspended past its lease and wakes up: it is refused, and stops",
    leases::busy: "a worker is busy for longer than its lease, and keeps it",
    leases::racing: "two workers race: each saga is worked on once",
    network::restarted: "the daemon is killed and restarted in mid-work: the lease is kept",
    network::answers_lost: "answers are lost or late: nothing is done twice, no deadline is too late or too early",
    network::away: "the daemon is away, at the start or later: each program says what it waits for, why, and when it is back",
    ends::cancelled: "cancelled: the work stops and is undone",
    ends::revoked: "the lease is revoked: the work stops, and reports nothing",
    ends::drained: "SIGTERM: what runs is finished; twice: it is given back",
    undo::undone: "a full compensation, in reverse; what is not its own stays",
    watch::watched: "a watcher misses nothing and sees nothing twice, over restarts of both",
    readme::shown: "its page does what it shows: every block is run, and what it prints is compared",
}
