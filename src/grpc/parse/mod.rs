//! Requests in: parsed once, here. What comes out is well formed and within bounds, by its types.
//!
//! A parser collects all violations, each by its proto path, and only then refuses; so a caller mends a request in one
//! go. [`request`] turns a changing request into the store's.

pub mod claim;
pub mod create;
pub mod free;
pub mod held;
pub mod key;
pub mod policy;
pub mod queries;
pub mod session;
pub mod values;
pub mod violations;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use key::{request, request_of, sign};
pub use violations::Violations;

use prost::Message;

use crate::domain::command::Command;

/// A request that changes something.
pub trait Change: Message + Sized {
    /// The rpc's name.
    const RPC: &'static str;

    /// Takes out what names the request but is not its content.
    fn take_request_id(&mut self) -> String;

    /// What a repeat has to have in common with the first: everything, unless said otherwise. Called when the
    /// `request_id` was taken out.
    fn content(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    /// The field that names who asks, where there is one and it is to be filled in.
    fn actor(&mut self) -> Option<&mut String> {
        None
    }

    /// The command; none if there were violations.
    fn parse(self, violations: &mut Violations) -> Option<Command>;
}
