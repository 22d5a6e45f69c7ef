//! The language's own page, as its reader goes through it.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command, time::Duration};

use rustix::process::Signal;

use crate::{
    languages::{Language, Role, target},
    pages::{OWN, RUN, Shown, session},
    program::{Program, wait_max},
    scene::Scene,
    support::{SAGAD, now, tools},
};

/// What is large in a language's directory, and not written to by what its page says: linked to, where the rest is copied.
const LINKED: &[&str] = &[".venv", "node_modules", "target"];

/// Every block but those that build: the three programs are given something to do, then a program of the reader's own is made
/// out of the page, started, and given something to do.
pub async fn shown(language: &'static Language) {
    let scene = Scene::new(language).await;
    let mut programs = Vec::new();
    for role in [Role::Worker, Role::Compensator, Role::Watcher] {
        programs.push(scene.ready(role, "", &[]).await);
    }
    let console = fill(&scene, &language.block(RUN, "console").text);
    plays(&scene, session(&console)).await;
    for program in &mut programs {
        program.drain().await;
    }

    let project = scene.path("project");
    copy(&language.directory(), &project, LINKED);
    let code = language.block(OWN, language.code);
    let name = code.before.split('`').nth(1).expect("the line before the program says what to save it as");
    let file = project.join(name);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, fill(&scene, &code.text)).unwrap();
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
    let console = fill(&scene, &language.block(OWN, "console").text);
    plays(&scene, session(&console)).await;
    own.signal(Signal::TERM);
    let code = own.end_of_any().await;
    assert_eq!(code, 0, "{}", own.story());
}

/// The page's text, with the address of the scene's coordinator and the scene's directory in place of `/tmp`.
fn fill(scene: &Scene, text: &str) -> String {
    let directory = format!("{}/", scene.path("").to_str().unwrap().trim_end_matches('/'));
    text.replace("127.0.0.1:7420", &scene.daemon.address().to_string()).replace("/tmp/", &directory)
}

/// Runs the commands in order; each has to print what the page shows. What only looks is run again until it does: a reader
/// takes a moment between two commands, in which the worker works.
async fn plays(scene: &Scene, commands: Vec<Shown>) {
    for Shown { command, output: shown } in commands {
        let begun = now();
        loop {
            let output = Command::new("bash")
                .args(["-c", &command])
                .current_dir(scene.path(""))
                .env("PATH", tools::path_with(SAGAD))
                .env("SAGAD_SERVER", format!("http://{}", scene.daemon.address()))
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

/// Copies a language's directory, so that what is made in it is gone after the test. What is `linked` in it is linked to.
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
