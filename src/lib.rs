//! `sagad`: a lease coordinator for long-running work that leaves things behind.

pub mod clock;
pub mod domain;
pub mod grpc;
pub mod proto;
pub mod store;
pub mod watch;
