//! The client library: what a program needs to work under a lease.
//!
//! The generated clients in [`crate::proto`] are enough to make calls. This module adds the parts that are easy to get
//! wrong:
//!
//! - [`connect`]: a channel that notices a dead peer, with a deadline on every unary call, over TLS and with a token if
//!   [`ClientOptions`] say so;
//! - [`refusal`]: an error's reason and metadata, and whether the call happened;
//! - [`retry`]: trying again, jittered, with the same `request_id`;
//! - [`session`]: a worker's calls over one stream, where the coordinator has that;
//! - [`lease`]: heartbeats from a task of their own, and the moment from which work must stop;
//! - [`worker`]: claim, work, report;
//! - [`recovery`]: claim what is to be undone, undo it in reverse, report;
//! - [`follow`]: a watch that resumes where it broke;
//! - [`Shutdown`]: draining at SIGTERM.
//!
//! Start with [`worker::run`] for work, [`recovery::run`] for compensations, [`follow::Follow::stale`] for decisions
//! about stale sagas, and [`LeaseKeeper`] for a program that claims by itself. `examples/rust` shows all of them.
//!
//! `sagad work` and `sagad compensate` are thin layers over [`worker`] and [`recovery`].

mod claims;
pub mod connect;
pub mod convert;
mod credentials;
pub mod follow;
mod heartbeat;
pub mod lease;
pub mod note;
pub mod recovery;
pub mod refusal;
pub mod retry;
pub mod session;
mod shutdown;
mod starts;
pub mod time;
pub mod worker;

pub use connect::{Client, ConnectError};
pub use credentials::{ClientOptions, Wire};
pub use lease::{Beat, LeaseKeeper, LeaseKey, LeaseLost, LeaseStatus};
pub use note::{Note, Notes, Report};
pub use refusal::{Happened, Refusal};
pub use session::WorkerCall;
pub use shutdown::Shutdown;
pub use starts::WorkerError;
