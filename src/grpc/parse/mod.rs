//! Parses requests. The results are well formed and within the contract's bounds by their types.
//!
//! A parser collects all violations, each with its proto path, before it refuses, so a caller can correct a request at
//! once. [`request`] turns a changing request into the store's.

pub mod claim;
pub mod create;
pub mod holder_operations;
pub mod policy;
pub mod queries;
pub mod request_key;
pub mod session;
pub mod unleased_operations;
pub mod violations;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use request_key::{request, request_from, set_actor};
pub use violations::Violations;

use prost::Message;

use crate::domain::command::Command;

/// A request that changes something.
pub trait ChangeRequest: Message + Sized {
    /// The rpc's name.
    const RPC: &'static str;

    /// Takes the `request_id` out of the message: it is not part of the content.
    fn take_request_id(&mut self) -> String;

    /// The content that a repeated request has to have in common with the first: by default everything. Called after
    /// `request_id` was taken out.
    fn content(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    /// The field that names who asks, if the request has one that is to be filled in.
    fn actor(&mut self) -> Option<&mut String> {
        None
    }

    /// The command; none if there were violations.
    fn parse(self, violations: &mut Violations) -> Option<Command>;
}
