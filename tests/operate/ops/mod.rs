//! Metrics, probes, logs and traces of the real daemon, and the alerts and the dashboard in `deploy/`.

mod alerts_and_dashboard;
mod sample_load;
mod logs;
mod metrics;
mod blocked_outputs;
mod watched_daemon;
mod probes;
mod traces;
