//! Histories: what clients asked and were answered, recorded as JSON lines, and checked against what is promised.
//!
//! Any client of any kind can be recorded. Before each call [`Recorder::begin`], after it [`Recorder::end`] with what
//! came of it; a call that is repeated with the same `request_id` until it is answered is *one* call, from its first
//! sending to its last answer. An outcome that is not known is told as such: [`Outcome::Unknown`]. Times are those of one
//! monotonic clock of the recording process. Then
//!
//! ```text
//! let complaints = check::all(&recorder.calls(), &history, &watched);
//! ```
//!
//! looks for violations of P1 (what was acknowledged is in the coordinator's history), of P5 (leases exclude each other;
//! what a lease does is never accepted after a later lease was given; the calls of each saga can be put into one order,
//! consistent with real time, in which a small model of the rules gives just these answers), of P7 (a watcher's record is
//! the history) and of P9 (tokens only grow). An empty list of complaints means that none was found.
//!
//! `SAGAD_HISTORY=file` keeps the recorded lines, for looking at them afterwards.

#![allow(dead_code, reason = "each of the targets that share this uses a part")]

pub mod check;
pub mod linear;
pub mod record;
