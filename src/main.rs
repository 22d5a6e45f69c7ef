//! The `sagad` binary: arguments → config → run → exit code.

fn main() {}
