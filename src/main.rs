//! The `sagad` binary: arguments → run → exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    sagad::cli::run(std::env::args_os())
}
