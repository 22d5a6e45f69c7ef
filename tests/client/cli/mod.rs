//! Every client command of the real binary, with a real daemon.

mod cli_fixture;
mod running_command;

mod admin_commands;
mod bench;
mod control_characters;
mod compensate;
mod config;
mod create;
mod import;
mod lease_commands;
mod read_commands;
mod operator_commands;
mod compensate_interrupted;
mod lost_output;
mod usage;
mod watch;
mod work;
mod work_end;
mod work_group;
mod work_lost;
mod full_stderr;
mod work_progress;
mod work_start;
