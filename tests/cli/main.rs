//! Every command of `sagad` that is a client, through the real binary, against a real daemon.

#![allow(missing_docs)]

mod daemon;
mod running;

mod admin;
mod compensate;
mod create;
mod import;
mod lease;
mod look;
mod operate;
mod takeover;
mod usage;
mod watch;
mod work;
mod work_end;
mod work_lost;
