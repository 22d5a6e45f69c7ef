//! Limits on calls, whoever makes them: how many there are, how much memory their messages hold, and how long clients may
//! keep them waiting.
//!
//! HTTP/2 and `tonic` limit one connection, and wait forever for its peer. Here all connections together are limited, in
//! front of every service:
//!
//! - A request that has begun has to arrive within `request_timeout`: a call's, and each item of a stream.
//! - An answer has to be read within `answer_timeout`, also that of a `Session` item. A watch may be read slowly.
//! - At most `max_calls` calls are open, and their messages hold at most `max_call_bytes`.
//!
//! At `max_calls` or `max_call_bytes`, sagad first aborts the request that has been arriving longest (if older than 100
//! ms), then cuts the connection with the most unread data. Only then are new calls refused. Requests of well-behaved
//! clients arrive within a round trip, so they are hit last. (A SYN cache works the same way: it drops the oldest half-open
//! entry.)

mod call_limiter;
mod health_watch_limiter;
mod library_stream_limiter;
mod method_table;
mod request_body;
mod response_body;

pub(super) use call_limiter::{CallLimiter, CallLimits, CallPermit, no_slot};
pub(super) use library_stream_limiter::{LibraryStreamLimiter, LibraryStreamPermit};
pub(super) use method_table::{MethodProperties, MethodTable, SESSION};
pub(super) use request_body::RequestBody;
pub(super) use response_body::ResponseBody;
