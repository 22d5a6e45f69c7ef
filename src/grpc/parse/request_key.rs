//! Turns a changing request into the store's: the command, and the key by which a repeated request is recognized.

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::domain::{
    command::{Request, RequestKey},
    principal::PrincipalName,
};

use super::{ChangeRequest, Violations};

/// The store's request, or all violations.
pub fn request<M: ChangeRequest>(message: M) -> Result<Request, Violations> {
    request_from(message, None)
}

/// The same for a request of a principal. The history names it, and `request_id`s are per principal, so that nobody gets
/// the answer to another principal's request.
pub fn request_from<M: ChangeRequest>(
    mut message: M,
    principal: Option<&PrincipalName>,
) -> Result<Request, Violations> {
    let mut violations = Violations::default();
    let id = message.take_request_id();
    // Before any field is filled in: the digest covers what the caller sent, not the ids made here.
    let key = key(&id, &message, principal, &mut violations);
    if let (Some(principal), Some(actor)) = (principal, message.actor()) {
        set_actor(principal, actor);
    }
    let command = message.parse(&mut violations);
    violations.unless_any(command).map(|command| Request { command, key, by: None })
}

/// Writes the principal into the `actor` field, before the name that the caller gave.
pub fn set_actor(principal: &PrincipalName, actor: &mut String) {
    let name = principal.as_str();
    if actor.is_empty() {
        name.clone_into(actor);
    } else if actor != name {
        *actor = format!("{name} for {actor}");
    }
}

fn key<M: ChangeRequest>(
    id: &str,
    message: &M,
    principal: Option<&PrincipalName>,
    violations: &mut Violations,
) -> Option<RequestKey> {
    if id.is_empty() {
        return None;
    }
    let Ok(id) = Uuid::try_parse(id) else {
        violations.add("request_id", "is not a UUID");
        return None;
    };
    let id = match principal {
        None => id.into_bytes(),
        Some(principal) => first_half(Sha256::new().chain_update(id.as_bytes()).chain_update(principal.as_str())),
    };
    let whole = Sha256::new().chain_update(M::RPC).chain_update([0]).chain_update(message.content());
    Some(RequestKey { id, digest: first_half(whole) })
}

fn first_half(hash: Sha256) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&hash.finalize()[..16]);
    half
}
