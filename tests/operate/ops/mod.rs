//! Metrics, probes, logs and traces of the real daemon, and the alerts and the dashboard in `deploy/`.

mod alerts_and_dashboard;
mod blocked_outputs;
mod logs;
mod metrics;
mod probes;
mod sample_load;
mod traces;
mod watched_daemon;
