//! Clients that try to take the daemon down, against the real binary, while a well-behaved one is at work.
//!
//! Each attack is measured: the daemon's memory and CPU, what others noticed, and whether all is as before when it ends.
//! `BADCLIENTS_FULL=1` makes the attacks larger; `--nocapture` shows the figures.

mod bodies;
mod citizen;
mod connections;
mod floods;
mod headers;
mod lockout;
mod measure;
mod oddities;
mod raw;
mod readers;
mod siege;
mod watchers;

/// A size in CI, and one for a long look.
pub fn sized<T>(small: T, full: T) -> T {
    if std::env::var_os("BADCLIENTS_FULL").is_some_and(|on| on == "1") { full } else { small }
}
