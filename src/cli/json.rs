//! The proto3 JSON form of messages, with this side's errors.

use super::errors::CliError;
use crate::proto;

pub use proto::json::{Named, parse};

/// The message in one line of JSON.
pub fn render<M: Named>(message: &M) -> Result<String, CliError> {
    proto::json::render(message).map_err(CliError::Failed)
}
