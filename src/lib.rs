//! `sagad`: a lease coordinator for long-running work that leaves things behind.

pub mod cli;
pub mod client;
pub mod proto;
