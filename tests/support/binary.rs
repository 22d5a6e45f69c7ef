//! The binary under test, run as a shell would run it.

use std::process::{Command, Output, Stdio};

pub const SAGAD: &str = env!("CARGO_BIN_EXE_sagad");

/// Variables that set up the commands: those of whoever runs the tests are removed.
const SETTINGS: [&str; 6] = ["SAGAD_SERVER", "SAGAD_OWNER", "SAGAD_TOKEN", "SAGAD_TASK_ID", "SAGAD_ACTOR", "NO_COLOR"];

/// The binary, with an empty standard input and without these variables.
pub fn sagad() -> Command {
    let mut command = Command::new(SAGAD);
    command.stdin(Stdio::null());
    for name in SETTINGS {
        command.env_remove(name);
    }
    command
}

/// Runs the binary with these arguments until it ends.
pub fn run(args: &[&str]) -> Output {
    sagad().args(args).output().expect("the binary under test can be run")
}

/// The exit code and the output of a command.
#[derive(Debug)]
pub struct CommandOutput {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl CommandOutput {
    pub fn of(mut command: Command) -> Self {
        command.output().unwrap().into()
    }
}

impl From<Output> for CommandOutput {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        CommandOutput { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }
}
