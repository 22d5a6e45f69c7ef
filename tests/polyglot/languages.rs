//! The languages. Each is built and started by the commands of its README, which are tested that way.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    pages::{self, Block, INSTALL, RUN},
    support::{SAGAD, now},
};

/// One language: a directory of `examples/`.
#[derive(Debug)]
pub struct Language {
    /// The directory's name, with which the default owners of its programs begin.
    pub name: &'static str,
    /// The language's name.
    pub title: &'static str,
    /// The tools that it needs.
    pub tools: &'static [&'static str],
    /// The name of its code blocks.
    pub code: &'static str,
    /// True if its gRPC library reads `proto/service_config.json`.
    pub has_service_config: bool,
}

/// All of them.
pub const LANGUAGES: &[Language] = &[
    Language { name: "python", title: "Python", tools: &["bash", "python3"], code: "python", has_service_config: true },
    Language { name: "go", title: "Go", tools: &["bash", "go"], code: "go", has_service_config: true },
    Language {
        name: "typescript",
        title: "TypeScript",
        tools: &["bash", "node", "npm"],
        code: "ts",
        has_service_config: true,
    },
    Language { name: "java", title: "Java", tools: &["bash", "java", "mvn"], code: "java", has_service_config: true },
    Language { name: "rust", title: "Rust", tools: &["bash", "cargo"], code: "rust", has_service_config: false },
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
    pub fn directory(&self) -> PathBuf {
        let here = || Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
        std::env::var_os("POLYGLOT_EXAMPLES").map_or_else(here, PathBuf::from).join(self.name)
    }

    /// The only block of this kind under a heading of its README.
    pub fn block(&self, heading: &str, kind: &str) -> Block {
        let path = self.directory().join("README.md");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut blocks = pages::blocks(&text);
        blocks.retain(|block| block.heading == heading && block.kind == kind);
        assert_eq!(blocks.len(), 1, "{}: one `{kind}` block under `## {heading}`", path.display());
        blocks.remove(0)
    }

    /// Builds it by its README; returns the time, or the output of a failure.
    pub fn build(&self) -> Result<Duration, String> {
        let begun = now();
        if !self.directory().join("README.md").exists() {
            return Err("it is not there".to_owned());
        }
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", &self.block(INSTALL, "sh").text])
            .current_dir(self.directory())
            // Reuses the target directory, so that the library is not compiled again.
            .env("CARGO_TARGET_DIR", target())
            .output()
            .map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(begun.elapsed());
        }
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Err(format!("{}\n{}\n{}", output.status, said(&output.stdout), said(&output.stderr)))
    }

    /// The command that starts a program.
    pub fn command(&self, role: Role) -> Command {
        let block = self.block(RUN, "sh");
        let lines: Vec<_> = block.text.lines().filter(|line| !line.trim().is_empty()).collect();
        assert_eq!(lines.len(), 3, "{}: the worker, `worker compensate` and the watcher, a line each", self.name);
        let line = match role {
            Role::Worker => lines[0],
            Role::Compensator => lines[1],
            Role::Watcher => lines[2],
        };
        self.start(line)
    }

    /// The command that runs a line of its README, so that signals reach the program.
    pub fn start(&self, line: &str) -> Command {
        // In the background SIGINT may be ignored, which is inherited, and which Java keeps.
        let mut command = Command::new("env");
        command
            // `exec`, so that signals reach the program and not a shell around it.
            .args(["--default-signal=INT,TERM", "bash", "-c", &format!("exec {line}")])
            .current_dir(self.directory())
            .env("CARGO_TARGET_DIR", target());
        command
    }
}

/// Cargo's target directory, where this test was built.
pub fn target() -> PathBuf {
    let binary = Path::new(SAGAD);
    binary.parent().and_then(Path::parent).expect("a binary lies in target/<profile>").to_owned()
}

/// Another version would be compiled again, and not be checked by `cargo deny`.
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
