//! Who may connect and who may call: certificates, tokens and principals, read again when their files change.
//!
//! What a principal may do is decided in `grpc::permissions` (which rpcs) and in the store (which queues).

mod authenticator;
pub mod bearer;
mod loaded_security;
mod principal_table;
pub mod principals_file;
mod reload;
mod security_error;
mod tls_config;

pub use loaded_security::check;
pub use security_error::SecurityError;

pub(super) use authenticator::CallerCheck;
pub(super) use loaded_security::LoadedSecurity;
pub(super) use reload::reload_on_change;
