//! `sagad`: a lease coordinator for long-running work that leaves things behind.

pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod coordinator;
pub mod domain;
pub mod grpc;
pub mod listen;
pub mod logs;
pub mod metrics;
pub mod mutants;
pub mod private_files;
pub mod proto;
pub mod serve;
pub mod store;
pub mod watch;
