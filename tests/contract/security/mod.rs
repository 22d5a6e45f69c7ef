//! Who may connect and who may call: the real binary, with certificates, tokens and principals.

mod raw_rpc;

mod authentication;
mod command_credentials;
mod secure_page;
mod private_files;
mod actors;
mod reload;
mod revocation;
mod roles;
mod scopes;
mod secrets;
mod fair_shares;
mod text_fields;
mod tls;
