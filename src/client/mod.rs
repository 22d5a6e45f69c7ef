//! The client library: what a program needs to work under a lease.
//!
//! The generated clients in [`crate::proto`] are enough to make calls. This module adds the parts that are easy to get
//! wrong:
//!
//! - [`connect`]: a channel that notices a dead peer, with a deadline on every unary call, over TLS and with a token if
//!   [`ClientOptions`] say so;
//! - [`status_details`]: an error's reason and metadata, and whether the call happened;
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

mod calls;
mod claimer;
pub mod connect;
pub mod convert;
mod credentials;
mod failed_starts;
pub mod follow;
mod heartbeat;
pub mod lease;
mod lease_key;
pub mod note;
mod options;
pub mod recovery;
pub mod retry;
pub mod session;
mod shutdown;
pub mod status_details;
pub mod time;
pub mod worker;

pub use connect::Client;
pub use credentials::AuthenticatedChannel;
pub use failed_starts::WorkerError;
pub use heartbeat::LeaseLost;
pub use lease::{HeartbeatOutcome, LeaseKeeper, LeaseStatus};
pub use lease_key::LeaseKey;
pub use note::{Note, Notes, ReportRpc};
pub use options::{ClientOptions, ConnectError};
pub use session::WorkerCall;
pub use shutdown::Shutdown;
pub use status_details::{CallEffect, StatusDetails};
