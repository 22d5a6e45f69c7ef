//! The language's README, as its reader follows it.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command, time::Duration};

use rustix::process::Signal;

use crate::{
    languages::{Language, Role, target},
    pages::{OWN, RUN, ShownCommand, session},
    program::{Program, wait_max},
    situation_run::SituationRun,
    support::{SAGAD, now, tools},
};

/// Large parts of a language's directory that the page's commands don't change: they are linked, the rest is copied.
const LINKED: &[&str] = &[".venv", "node_modules", "target"];

/// Runs every block except those that build: the three programs get work, then a program of the reader's own is made from the
/// page, started, and gets work.
pub async fn shown(language: &'static Language) {
    let run = SituationRun::new(language).await;
    let mut programs = Vec::new();
    for role in [Role::Worker, Role::Compensator, Role::Watcher] {
        programs.push(run.ready(role, "", &[]).await);
    }
    let console = fill(&run, &language.block(RUN, "console").text);
    run_commands(&run, session(&console)).await;
    for program in &mut programs {
        program.drain().await;
    }

    let project = run.path("project");
    copy(&language.directory(), &project, LINKED);
    let code = language.block(OWN, language.code);
    let name = code.before.split('`').nth(1).expect("the line before the program says what to save it as");
    let file = project.join(name);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, fill(&run, &code.text)).unwrap();
    let commands = language.block(OWN, "sh").text;
    let (building, starting) = commands.trim_end().rsplit_once('\n').unwrap_or(("", &commands));
    tools::must_succeed(
        Command::new("bash")
            .args(["-euo", "pipefail", "-c", building])
            .current_dir(&project)
            .env("CARGO_TARGET_DIR", target()),
    );
    let mut command = language.start(starting);
    command.current_dir(&project).env_remove("SAGAD_SERVER");
    let mut own = Program::start(format!("{} {name}", language.name), command);
    let console = fill(&run, &language.block(OWN, "console").text);
    run_commands(&run, session(&console)).await;
    own.signal(Signal::TERM);
    let code = own.end_of_any().await;
    assert_eq!(code, 0, "{}", own.all_output());
}

/// The page's text with the address of this run's coordinator, and this run's directory instead of `/tmp`.
fn fill(run: &SituationRun, text: &str) -> String {
    let directory = format!("{}/", run.path("").to_str().unwrap().trim_end_matches('/'));
    text.replace("127.0.0.1:7420", &run.daemon.address().to_string()).replace("/tmp/", &directory)
}

/// Runs the commands in order; each must print what the page shows. Reads are repeated until they do, because a reader pauses
/// between two commands, in which the worker works.
async fn run_commands(run: &SituationRun, commands: Vec<ShownCommand>) {
    for ShownCommand { command, output: shown } in commands {
        let begun = now();
        loop {
            let output = Command::new("bash")
                .args(["-c", &command])
                .current_dir(run.path(""))
                .env("PATH", tools::path_with(SAGAD))
                .env("SAGAD_SERVER", format!("http://{}", run.daemon.address()))
                .output()
                .expect("bash is there");
            let printed =
                String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            if output.status.success() && printed == shown {
                break;
            }
            let changes = command.contains("sagad create");
            let spent = changes || begun.elapsed() > wait_max();
            assert!(!spent, "$ {command}\n--- shown:\n{shown}--- printed ({}):\n{printed}", output.status);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Copies a language's directory, so that new files are removed after the test. Entries in `linked` are linked.
fn copy(from: &Path, to: &Path, linked: &[&str]) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, copied) = (entry.path(), to.join(entry.file_name()));
        if linked.iter().any(|name| entry.file_name() == *name) {
            symlink(path, copied).unwrap();
        } else if path.is_dir() {
            copy(&path, &copied, &[]);
        } else if path.ends_with("rust/Cargo.toml") {
            let library = fs::canonicalize(path.parent().unwrap().join("../..")).unwrap();
            let text = fs::read_to_string(&path).unwrap();
            fs::write(copied, text.replace("\"../..\"", &format!("{library:?}"))).unwrap();
        } else {
            fs::copy(path, copied).unwrap();
        }
    }
}
