//! What calls may take of the daemon, whoever makes them: how many there are, how much memory their messages hold, and
//! how long their clients may keep them waiting.
//!
//! HTTP/2 and the gRPC library bound what is on one connection, and wait for ever for its peer. What is on all of them
//! together is bounded here, in front of every service:
//!
//! - a request that has begun has to arrive in time (`request_timeout`), an item of a stream as well as a whole call;
//! - an answer has to be taken in time (`answer_timeout`), an item's of a `Session`, too; a watch may be read as slowly as its
//!   client likes;
//! - there are so many calls (`max_calls`), and so many bytes of their messages (`max_call_bytes`), at a time.
//!
//! At a bound nobody is turned away while somebody else keeps the daemon waiting. First the *oldest* request that has
//! not arrived is given up, then the connection that leaves the most unread is cut: what honest clients send arrives
//! within a round trip, so they are the last to be hit. (The idea is that of the SYN cache: drop the oldest half-open one.)

mod call;
mod health_watches;
mod ledger;
mod methods;
mod other_streams;
mod request;
mod response;

use std::time::Duration;

pub(super) use call::Call;
pub(super) use ledger::{Ledger, no_place};
pub(super) use methods::{Form, Methods, SESSION};
pub(super) use other_streams::{OtherStreams, StreamPlace};
pub(super) use request::RequestBody;
pub(super) use response::ResponseBody;

/// The bounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallLimits {
    /// How long a message may take to arrive, once its call, or the message itself, has begun.
    pub(super) request_timeout: Duration,
    /// How long a client may take no answer while there are some for it.
    pub(super) answer_timeout: Duration,
    /// Largest message that is read.
    pub(super) max_message_bytes: usize,
    /// Most calls and streams at a time, until their answers are taken.
    pub(super) max_calls: usize,
    /// Most bytes of messages that are being received, carried out or not taken yet.
    pub(super) max_call_bytes: usize,
}
