//! The languages, and how each is built and started: by the commands of its own README, so that these are known to work.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::support::now;

/// One language: a directory of `examples/`.
#[derive(Debug)]
pub struct Language {
    /// The directory's name, and how the owners begin that its programs call themselves.
    pub name: &'static str,
    /// As people write it.
    pub title: &'static str,
    /// What has to be installed.
    pub tools: &'static [&'static str],
    /// Whether its gRPC library reads `proto/service_config.json`.
    pub has_service_config: bool,
}

/// All of them.
pub const LANGUAGES: &[Language] = &[
    Language { name: "python", title: "Python", tools: &["bash", "python3"], has_service_config: true },
    Language { name: "go", title: "Go", tools: &["bash", "go"], has_service_config: true },
    Language { name: "typescript", title: "TypeScript", tools: &["bash", "node", "npm"], has_service_config: true },
    Language { name: "java", title: "Java", tools: &["bash", "java", "mvn"], has_service_config: true },
    Language { name: "rust", title: "Rust", tools: &["bash", "cargo"], has_service_config: false },
];

/// Which of a language's programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `worker`.
    Worker,
    /// `worker compensate`.
    Compensator,
    /// `watcher`.
    Watcher,
}

impl Language {
    /// Where it lies.
    pub fn directory(&self) -> PathBuf {
        let here = || Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
        std::env::var_os("POLYGLOT_EXAMPLES").map_or_else(here, PathBuf::from).join(self.name)
    }

    /// The one `sh` block under a heading of its README.
    fn block(&self, heading: &str) -> String {
        let path = self.directory().join("README.md");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let blocks = shell_blocks(&text, heading);
        assert_eq!(blocks.len(), 1, "{}: one `sh` block under `## {heading}`", path.display());
        blocks.into_iter().next().unwrap()
    }

    /// Builds it as its README tells to; returns how long that took, or what was said when it failed.
    pub fn build(&self) -> Result<Duration, String> {
        let begun = now();
        if !self.directory().join("README.md").exists() {
            return Err("it is not there".to_owned());
        }
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", &self.block("Install and generate")])
            .current_dir(self.directory())
            // What the library has been compiled to already is not compiled again.
            .env("CARGO_TARGET_DIR", target())
            .output()
            .map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(begun.elapsed());
        }
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Err(format!("{}\n{}\n{}", output.status, said(&output.stdout), said(&output.stderr)))
    }

    /// The command that starts one of its programs.
    pub fn command(&self, role: Role) -> Command {
        let block = self.block("Run");
        let lines: Vec<_> = block.lines().filter(|line| !line.trim().is_empty()).collect();
        assert_eq!(lines.len(), 3, "{}: the worker, `worker compensate` and the watcher, a line each", self.name);
        let line = match role {
            Role::Worker => lines[0],
            Role::Compensator => lines[1],
            Role::Watcher => lines[2],
        };
        // Whoever runs the tests in the background may have SIGINT ignored, which is inherited, and which Java then keeps.
        let mut command = Command::new("env");
        command
            // `exec`: signals are for the program, not for a shell around it.
            .args(["--default-signal=INT,TERM", "bash", "-c", &format!("exec {line}")])
            .current_dir(self.directory())
            .env("CARGO_TARGET_DIR", target());
        command
    }
}

/// Where this test was built: beside it lies what else cargo builds.
pub fn target() -> PathBuf {
    let binary = Path::new(env!("CARGO_BIN_EXE_sagad"));
    binary.parent().and_then(Path::parent).expect("a binary lies in target/<profile>").to_owned()
}

/// The `sh` blocks under the heading of that name.
fn shell_blocks(text: &str, heading: &str) -> Vec<String> {
    let (mut blocks, mut under, mut block) = (Vec::new(), false, None::<String>);
    let mut fenced = false;
    for line in text.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
            match block.take() {
                Some(done) => blocks.push(done),
                None if fenced && under && line.trim_end() == "```sh" => block = Some(String::new()),
                None => {}
            }
        } else if let Some(block) = &mut block {
            block.push_str(line);
            block.push('\n');
        } else if !fenced && line.starts_with("## ") {
            under = line.trim_start_matches("## ").trim() == heading;
        }
    }
    blocks
}

#[test]
fn blocks_are_found_under_their_heading() {
    let text = "## A\n```sh\none\n```\n```console\nno\n```\n## B\n```sh\n## A\ntwo\n```\n## A b\n```sh\nno\n```\n";
    assert_eq!(shell_blocks(text, "A"), ["one\n"]);
    assert_eq!(shell_blocks(text, "B"), ["## A\ntwo\n"]);
}

/// Another version would be built once more, and not be looked at by `cargo deny`.
#[test]
fn rust_uses_the_versions_that_the_daemon_uses() {
    let versions = |path: &str| -> std::collections::BTreeSet<(String, String)> {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
        let lock: toml::Table = text.parse().unwrap();
        let text = |package: &toml::Value, key: &str| package[key].as_str().unwrap().to_owned();
        let all = lock["package"].as_array().unwrap().iter();
        all.map(|package| (text(package, "name"), text(package, "version"))).collect()
    };
    let (ours, theirs) = (versions("Cargo.lock"), versions("examples/rust/Cargo.lock"));
    let others: Vec<_> = theirs.difference(&ours).filter(|(name, _)| name != "sagad-example").collect();
    assert!(others.is_empty(), "copy Cargo.lock to examples/rust/ and build there: {others:?}");
}
