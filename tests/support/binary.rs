//! The binary under test, run as a shell would run it.

use std::process::{Command, Output, Stdio};

/// Where it is.
pub const SAGAD: &str = env!("CARGO_BIN_EXE_sagad");

/// Variables by which a person sets up the commands.
const SETTINGS: [&str; 6] = ["SAGAD_SERVER", "SAGAD_OWNER", "SAGAD_TOKEN", "SAGAD_TASK_ID", "SAGAD_ACTOR", "NO_COLOR"];

/// The binary, with an empty standard input and without the settings of whoever runs the tests.
pub fn sagad() -> Command {
    let mut command = Command::new(SAGAD);
    command.stdin(Stdio::null());
    for name in SETTINGS {
        command.env_remove(name);
    }
    command
}

/// Runs it with these arguments to its end.
pub fn run(args: &[&str]) -> Output {
    sagad().args(args).output().expect("the binary under test can be run")
}

/// How a command ended, and what it printed.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Runs a command to its end.
    pub fn of(mut command: Command) -> Self {
        command.output().unwrap().into()
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }
}
