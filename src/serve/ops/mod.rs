//! The operators' listener: `/metrics`, `/livez`, `/readyz`, and gRPC health without TLS for probes that can't do TLS. It
//! has its own port, so that it can be firewalled from clients, and answers when theirs is full.
//!
//! It has no authentication. It shows the names of queues, but no task ids. At shutdown it is the first to report it and
//! the last to end.

mod http_server;
mod metrics;
mod metrics_text;
mod readings;
mod routes;
mod state;
mod stats_cache;
mod system_metrics;

pub(super) use http_server::serve;
pub(super) use state::{OpsSettings, OpsState};
