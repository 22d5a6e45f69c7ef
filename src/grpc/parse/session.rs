//! The fields of a session item around its call. The call is parsed like a unary one.

use crate::{
    domain::{bounds::TTL_MAX, time::Span},
    proto::{SessionRequest, session_request::Call},
};

use super::Violations;

/// An item of a session.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionItem {
    /// The call, not parsed yet.
    pub call: Call,
    /// How long its caller waits for the answer. None: as long as the stream lasts.
    pub timeout: Option<Span>,
}

/// Parses everything but the call.
///
/// # Errors
/// There is no call that this version knows, or the timeout is malformed.
pub fn item(message: SessionRequest) -> Result<SessionItem, Violations> {
    let mut violations = Violations::default();
    if message.call.is_none() {
        violations.add("call", "is required, and has to be one that this coordinator knows");
    }
    let timeout = match &message.timeout {
        None => Some(None),
        timeout @ Some(_) => violations.span("timeout", timeout.as_ref(), Span::ZERO, TTL_MAX).map(Some),
    };
    let item = message.call.zip(timeout).map(|(call, timeout)| SessionItem { call, timeout });
    violations.unless_any(item)
}
