//! Attacks on the real binary while a well-behaved client works.
//!
//! Each attack is measured: the daemon's memory and CPU, the longest call of the well-behaved client, and the state afterwards.
//! `BADCLIENTS_FULL=1` makes the attacks larger; `--nocapture` shows the figures.

mod bodies;
mod connections;
mod floods;
mod headers;
mod lockout;
mod measured_attack;
mod raw_connection;
mod unread_answers;
mod unusual_traffic;
mod watchers;
mod well_behaved_client;

/// A size for CI, or the one for `BADCLIENTS_FULL=1`.
pub fn sized<T>(small: T, full: T) -> T {
    if std::env::var_os("BADCLIENTS_FULL").is_some_and(|on| on == "1") { full } else { small }
}
