//! Principals with their tokens, a daemon with a principals file, and clients with tokens.

use std::{fmt::Write, fs, path::PathBuf};

use sagad::proto::{admin_service_client::AdminServiceClient, saga_service_client::SagaServiceClient};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tonic::{
    Request, Status,
    metadata::MetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

use crate::support::{Daemon, daemon::Launch};

/// The token of a principal of these tests.
pub fn token(name: &str) -> String {
    format!("sagad~{name}~{:A<43}", "not-so-random-")
}

/// The hash of a token, as the principals file has it.
pub fn hash(token: &str) -> String {
    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(token) {
        write!(text, "{byte:02x}").unwrap();
    }
    text
}

/// An entry of the principals file. `roles` and `queues` are TOML; an empty `queues` is left out.
pub fn entry(name: &str, roles: &str, queues: &str) -> String {
    let queues = if queues.is_empty() { String::new() } else { format!("queues = {queues}\n") };
    format!("[[principal]]\nname = \"{name}\"\nroles = {roles}\n{queues}tokens = [\"{}\"]\n", hash(&token(name)))
}

/// A principal of each role, and workers `a` of `qa` and `b` of `qb` and `qc`.
pub fn everyone() -> String {
    [
        entry("worker", "['worker']", "'*'"),
        entry("operator", "['operator']", ""),
        entry("reader", "['reader']", ""),
        entry("admin", "['admin']", ""),
        entry("a", "['worker']", "['qa']"),
        entry("b", "['worker']", "['qb', 'qc']"),
    ]
    .concat()
}

/// A daemon with a principals file.
pub struct AuthSetup {
    pub daemon: Daemon,
    pub file: PathBuf,
    pub directory: TempDir,
}

impl AuthSetup {
    pub fn start(principals: &str) -> Self {
        Self::start_with(principals, &[])
    }

    pub fn start_with(principals: &str, args: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("principals.toml");
        fs::write(&file, principals).unwrap();
        let named = format!("--principals={}", file.display());
        let daemon = Launch::on(&directory.path().join("data")).args(&[named.as_str()]).args(args).start();
        AuthSetup { daemon, file, directory }
    }

    /// Replaces the principals file atomically.
    pub fn rewrite(&self, principals: &str) {
        let new = self.directory.path().join("new");
        fs::write(&new, principals).unwrap();
        fs::rename(new, &self.file).unwrap();
    }

    /// Clients with the token of this principal, on a connection of their own.
    pub async fn client(&self, name: &str) -> TokenClient {
        TokenClient::new(self.daemon.channel().await, Some(&token(name)))
    }
}

/// Adds a token to each call.
#[derive(Clone)]
pub struct Bearer(pub Option<String>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            let value: MetadataValue<_> = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

pub type Wire = InterceptedService<Channel, Bearer>;

/// Clients on one connection, with or without a token.
#[derive(Clone)]
pub struct TokenClient {
    pub sagas: SagaServiceClient<Wire>,
    pub admin: AdminServiceClient<Wire>,
}

impl TokenClient {
    pub fn new(channel: Channel, token: Option<&str>) -> Self {
        let bearer = Bearer(token.map(str::to_owned));
        TokenClient {
            sagas: SagaServiceClient::with_interceptor(channel.clone(), bearer.clone()),
            admin: AdminServiceClient::with_interceptor(channel, bearer),
        }
    }
}
