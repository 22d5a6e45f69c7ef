//! Who may connect and who may call: the real binary, with certificates, tokens and principals.

mod raw_rpc;

mod actors;
mod authentication;
mod command_credentials;
mod fair_shares;
mod private_files;
mod reload;
mod revocation;
mod roles;
mod scopes;
mod secrets;
mod secure_page;
mod text_fields;
mod tls;
