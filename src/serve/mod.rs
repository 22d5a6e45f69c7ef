//! FLOOR 5: the daemon from start to exit: what listens, what answers, and in which order they end.
//!
//! The port answers from the beginning: until the store is open, health checks report `NOT_SERVING` and calls fail with
//! `STORE_UNAVAILABLE`. Shutdown has an order, too, and each step has its part of `drain_grace`:
//!
//! 1. Health reports `NOT_SERVING` and its watches end, so that load balancers and scripts go elsewhere.
//! 2. Nothing is accepted any more. Connections in their handshake are closed; clients are told to go away (GOAWAY).
//! 3. Held `ClaimNext` calls are answered with nothing, streams end with `UNAVAILABLE`, calls in flight are answered.
//! 4. Connections close when their peers see this. Those that don't within a second are cut.
//! 5. The store is closed after the last answer: no request that was accepted is left without one.

pub mod auth;
mod bind;
mod call_service;
mod calls;
mod error;
mod export_directory;
mod grpc_server;
mod health;
mod http2_server;
mod liveness;
mod network_threads;
mod observe;
mod ops;
mod path_map;
mod process;
mod retention;
mod run;
mod served_store;
mod service_manager;
mod session_trackers;
mod trace;

pub use error::ServeError;
pub use process::{command, serve};
pub use run::run;
