//! Who may connect and who may call: the real binary, with certificates, tokens and principals.

mod raw;

mod authentication;
mod cli;
mod docs;
mod files;
mod history;
mod reload;
mod revoke;
mod roles;
mod scopes;
mod secrets;
mod shares;
mod texts;
mod tls;
