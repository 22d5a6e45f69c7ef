//! The workers and watchers of `examples/`, in five languages, in the same situations with the real daemon. Each is built and
//! started by the commands of its README, and is checked by its stdout, by the files of its work, and by the sagas in the
//! coordinator.
//!
//! | variable | |
//! |---|---|
//! | `POLYGLOT` | only these languages, such as `python,go`; the table of `examples/README.md` is not looked at then |
//! | `POLYGLOT_ONLY` | only the situations with these words in their names |
//! | `POLYGLOT_AT_ONCE` | the number of situations at once (4) |
//! | `POLYGLOT_EXAMPLES` | another directory than `examples/`, such as one with broken workers, which must fail |
//! | `POLYGLOT_WAIT_MAX` | the longest wait for something that must happen, in seconds (60) |
//! | `SAGAD_ACCEPT=1` | writes the table into `examples/README.md` |

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod languages;
mod pages;
mod program;
mod proxy;
mod run_situations;
mod service_config;
mod situation_run;
mod situations;
#[path = "../support/mod.rs"]
mod support;
mod table;
