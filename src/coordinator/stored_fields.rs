//! What is stored of a saga besides the saga itself: fields derived from it, and answers that name it.

use crate::domain::{ids::FencingToken, lease::LeasePurpose, time::Timestamp, transition::Due};

use super::RowId;

/// The stored answer to a request with a `request_id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAnswer {
    /// Of the request's content.
    pub digest: [u8; 16],
    /// When it was given.
    pub time: Timestamp,
    /// The sagas in it, each with the token of its lease if the request was a claim.
    pub sagas: Vec<(RowId, Option<FencingToken>)>,
}

/// Fields derived from a saga, by which it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DerivedFields {
    /// For which purpose `ClaimNext` may claim it.
    pub ready: Option<LeasePurpose>,
    /// When something is due next.
    pub due: Option<Due>,
}

/// The position of a ready saga in its queue's claim order: higher priority first, then earlier creation.
pub type ReadyPosition = (std::cmp::Reverse<i32>, RowId);
