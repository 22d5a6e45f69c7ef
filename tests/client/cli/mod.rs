//! Every client command of the real binary, with a real daemon.

mod cli_fixture;
mod running_command;

mod admin_commands;
mod bench;
mod compensate;
mod compensate_interrupted;
mod config;
mod control_characters;
mod create;
mod full_stderr;
mod import;
mod lease_commands;
mod lost_output;
mod operator_commands;
mod read_commands;
mod usage;
mod watch;
mod work;
mod work_end;
mod work_group;
mod work_lost;
mod work_progress;
mod work_start;
