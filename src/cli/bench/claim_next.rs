//! The request of `ClaimNext` with which the bench takes leases in one of its queues.

use std::time::Duration;

use crate::{client::convert::to_proto, domain::bounds::CLAIM_SAGAS, proto::ClaimNextRequest};

/// Most sagas of one `ClaimNext`.
pub const CLAIMED_AT_ONCE: u64 = CLAIM_SAGAS as u64;
/// The length of leases and reservations that must not expire while it measures.
pub const LONG_TTL: Duration = Duration::from_secs(12 * 3600);

/// A claim of the next `max_sagas` of a queue.
pub fn claim_next(queue: &str, owner: &str, ttl: Duration, max_sagas: u64) -> ClaimNextRequest {
    ClaimNextRequest {
        queues: vec![queue.to_owned()],
        owner_id: owner.to_owned(),
        ttl: Some(to_proto(ttl)),
        max_sagas: i32::try_from(max_sagas).unwrap_or(i32::MAX),
        ..Default::default()
    }
}
