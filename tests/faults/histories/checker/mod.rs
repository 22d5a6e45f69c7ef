//! Histories: calls and answers of clients, recorded as JSON lines and checked against the promises.
//!
//! Any kind of client can be recorded: with [`Recorder::begin`] before each call, and [`Recorder::end`] with its outcome after
//! it. A call that is repeated with the same `request_id` until it is answered is *one* call, from its first sending to its last
//! answer. An unknown outcome is [`CallOutcome::Unknown`]. Times are from one monotonic clock of the recording process. Then
//!
//! ```text
//! let complaints = check::all(&recorder.calls(), &history, &watched);
//! ```
//!
//! looks for violations of P1 (the history has all acknowledged changes), P5 (two leases are never live at the same time; no call
//! under a lease is accepted after a later lease; the calls of each saga have an order, consistent with real time, in which a
//! small model of the rules gives the same answers), P7 (a watcher's record equals the history) and P9 (tokens only grow).
//!
//! `SAGAD_HISTORY=file` writes the recorded lines to a file.

#![allow(dead_code, reason = "each of the targets that share this uses a part")]

pub mod call_order;
pub mod check;
pub mod recorder;
