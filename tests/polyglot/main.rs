//! One script of situations, five languages: the workers and watchers of `examples/` against the real daemon. Each is built and
//! started by the commands of its own README, and is seen from outside only: by what it writes to stdout, by the files of
//! its work, and by what a client of the test's own finds in the coordinator.
//!
//! | variable | |
//! |---|---|
//! | `POLYGLOT` | only these languages, such as `python,go`; the table of `examples/README.md` is not looked at then |
//! | `POLYGLOT_ONLY` | only the situations with these words in their names |
//! | `POLYGLOT_AT_ONCE` | so many situations at a time (4) |
//! | `POLYGLOT_EXAMPLES` | another directory than `examples/`: to see that workers which are broken are caught |
//! | `POLYGLOT_WAIT_MAX` | how long what has to happen is waited for, in seconds (60) |
//! | `SAGAD_ACCEPT=1` | writes the table into `examples/README.md` |

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod languages;
mod pages;
mod play;
mod program;
mod proxy;
mod scene;
mod service_config;
mod situations;
#[path = "../support/mod.rs"]
mod support;
mod table;
