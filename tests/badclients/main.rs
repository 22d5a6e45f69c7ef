//! Clients that try to take the daemon down, against the real binary, while a well-behaved one is at work.
//!
//! Each attack is measured: the daemon's memory and CPU, what others noticed, and whether all is as before when it ends.
//! `BADCLIENTS_FULL=1` makes the attacks larger; `--nocapture` shows the figures.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod bodies;
mod citizen;
mod connections;
mod floods;
mod headers;
mod lockout;
mod measure;
mod oddities;
#[path = "../security/people.rs"]
#[allow(dead_code, reason = "shared with the tests of security")]
mod people;
#[path = "../security/pki.rs"]
#[allow(dead_code, reason = "shared with the tests of security")]
mod pki;
mod raw;
mod readers;
mod siege;
#[path = "../support/mod.rs"]
mod support;
mod watchers;

/// A size in CI, and one for a long look.
pub fn sized<T>(small: T, full: T) -> T {
    if std::env::var_os("BADCLIENTS_FULL").is_some_and(|on| on == "1") { full } else { small }
}
