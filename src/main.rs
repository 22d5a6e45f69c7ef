//! The `sagad` binary: arguments → run → exit code.

use std::process::ExitCode;

/// Messages, sagas and statements are many short-lived pieces of memory, taken on one thread and given back on another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    sagad::cli::run(std::env::args_os())
}
