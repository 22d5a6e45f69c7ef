//! From a changing request to the store's: the command, and the key by which a repeat is recognized.

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::domain::command::{Request, RequestKey};

use super::{Change, Violations};

/// The store's request, or everything that is wrong with it.
pub fn request<M: Change>(mut message: M) -> Result<Request, Violations> {
    let mut violations = Violations::default();
    let id = message.take_request_id();
    // Before anything is filled in: the digest is of what the caller sent, not of the ids made for it here.
    let key = key(&id, &message, &mut violations);
    let command = message.parse(&mut violations);
    violations.unless_any(command).map(|command| Request { command, key })
}

fn key<M: Change>(id: &str, message: &M, violations: &mut Violations) -> Option<RequestKey> {
    if id.is_empty() {
        return None;
    }
    let Ok(id) = Uuid::try_parse(id) else {
        violations.add("request_id", "is not a UUID");
        return None;
    };
    let whole = Sha256::new().chain_update(M::RPC).chain_update([0]).chain_update(message.content()).finalize();
    let mut digest = [0; 16];
    digest.copy_from_slice(&whole[..16]);
    Some(RequestKey { id: id.into_bytes(), digest })
}
