//! Who may connect and who may call: the real binary, with certificates, tokens and principals.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../support/mod.rs"]
mod support;

mod people;
mod pki;
mod raw;

mod authentication;
mod cli;
mod docs;
mod history;
mod reload;
mod roles;
mod scopes;
mod secrets;
mod tls;
