//! The client's side of the contract: what a program needs to work under a lease, written once.
//!
//! The generated clients in [`crate::proto`] are enough to make calls. What they don't give is the part that is
//! easy to get wrong, and that lives here:
//!
//! - [`connect`]: a channel that notices a dead peer, with a deadline on every unary call;
//! - [`refusal`]: an error's reason and metadata, and whether the call happened;
//! - [`retry`]: trying again, jittered, with the same `request_id`;
//! - [`lease`]: heartbeats from a task of their own, and the moment from which work must stop;
//! - [`worker`]: claim, work, report;
//! - [`recovery`]: claim what is to be undone, undo it in reverse, report;
//! - [`follow`]: a watch that resumes where it broke.
//!
//! `sagad work` and `sagad compensate` are thin layers over [`worker`] and [`recovery`].

mod claims;
pub mod connect;
pub mod convert;
pub mod follow;
mod heartbeat;
pub mod lease;
pub mod note;
pub mod recovery;
pub mod refusal;
pub mod retry;
pub mod time;
pub mod worker;

pub use connect::Client;
pub use lease::{LeaseKeeper, LeaseKey, LeaseStatus};
pub use note::{Note, Notes};
pub use refusal::{Happened, Refusal};

use tokio_util::sync::CancellationToken;

/// How a running worker is told to end; cloning it gives another handle on the same two switches.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Set: nothing new is claimed, what runs is let run to its end.
    pub drain: CancellationToken,
    /// Set: what runs is ended too, and its leases are given back.
    pub kill: CancellationToken,
}
