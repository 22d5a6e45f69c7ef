//! What operators are told, by the real daemon: metrics, probes, logs, traces, and what is made of them in `deploy/`.

mod deployed;
mod load;
mod logs;
mod metrics;
mod outputs;
mod page;
mod probes;
mod traces;
