//! `sagad top` in a real terminal, `sagad doctor`, and `GetVitals`, each with the real daemon.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it has to be")]

mod doctor;
mod once;
#[path = "../support/mod.rs"]
mod support;
mod tmux;
mod top;
mod vitals;
