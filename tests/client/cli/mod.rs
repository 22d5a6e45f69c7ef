//! Every command of `sagad` that is a client, through the real binary, against a real daemon.

mod daemon;
mod running;

mod admin;
mod bench;
mod characters;
mod compensate;
mod config;
mod create;
mod import;
mod lease;
mod look;
mod operate;
mod takeover;
mod unread;
mod usage;
mod watch;
mod work;
mod work_end;
mod work_group;
mod work_lost;
mod work_output;
mod work_progress;
mod work_start;
