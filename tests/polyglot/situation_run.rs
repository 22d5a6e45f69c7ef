//! [`SituationRun`]: a situation in one language, with its own daemon, a directory for the work, and the programs.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Mutex,
};

use sagad::proto::*;
use serde_json::json;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::{
    languages::{Language, Role},
    program::Program,
    support::{Api, Daemon, api, create},
};

/// Variables that programs must not inherit.
const SETTINGS: &[&str] = &["SAGAD_SERVER", "SAGAD_QUEUES", "SAGAD_OWNER", "SAGAD_TTL", "SAGAD_REVISION_FILE"];

/// A situation in one language.
pub struct SituationRun {
    pub language: &'static Language,
    pub daemon: Daemon,
    pub api: Api,
    own: TempDir,
    started: Mutex<u32>,
}

impl SituationRun {
    /// Starts a daemon with a new store.
    pub async fn new(language: &'static Language) -> Self {
        let daemon = Daemon::start_with(&["--log", "warn"]);
        let api = daemon.api().await;
        SituationRun { language, daemon, api, own: tempfile::tempdir().unwrap(), started: Mutex::new(0) }
    }

    /// A path in the situation's own directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.own.path().join(name)
    }

    /// A creation of a saga whose work is to write a report into the directory of its name.
    pub fn report(&self, task_id: &str, lines: &[&str], pause_ms: u64) -> CreateSagaRequest {
        let payload = json!({"dir": self.path(task_id), "lines": lines, "pause_ms": pause_ms});
        CreateSagaRequest { payload: payload.to_string().into(), ..create(task_id) }
    }

    /// The same with this many lines and this pause after each, so that something can happen meanwhile.
    pub fn long(&self, task_id: &str, lines: usize, pause_ms: u64) -> CreateSagaRequest {
        self.report(task_id, &vec!["word"; lines], pause_ms)
    }

    /// Creates a saga.
    pub async fn create(&self, request: CreateSagaRequest) -> Saga {
        self.api.create_saga(request).await.unwrap()
    }

    /// Starts a program with this owner and further settings.
    pub fn start_at(&self, address: SocketAddr, role: Role, owner: &str, settings: &[(&str, &str)]) -> Program {
        let mut command = self.language.command(role);
        for name in SETTINGS {
            command.env_remove(name);
        }
        command.env("SAGAD_SERVER", format!("http://{address}")).envs(settings.iter().copied());
        if !owner.is_empty() {
            command.env("SAGAD_OWNER", owner);
        }
        let mut started = self.started.lock().unwrap();
        *started += 1;
        Program::start(format!("{} {role:?} {} `{owner}`", self.language.name, *started), command)
    }

    /// Starts a worker with leases of this many seconds; returns when it is ready.
    pub async fn worker(&self, owner: &str, ttl: &str) -> Program {
        self.ready(Role::Worker, owner, &[("SAGAD_TTL", ttl)]).await
    }

    /// Starts a program; returns when it is ready.
    pub async fn ready(&self, role: Role, owner: &str, settings: &[(&str, &str)]) -> Program {
        let mut program = self.start_at(self.daemon.address(), role, owner, settings);
        program.until_event("ready").await;
        program
    }

    /// The present report of a saga; empty without one.
    pub fn text(&self, task_id: &str) -> String {
        fs::read_to_string(self.path(task_id).join("report.txt")).unwrap_or_default()
    }

    /// Waits until a saga is completed by this attempt, and asserts that its report is correct and was written once.
    pub async fn assert_completed(&self, task_id: &str, lines: &[&str], attempt: i32) {
        let saga = self.api.get(task_id).await;
        assert_eq!(saga.state(), SagaState::Completed, "{saga:?}");
        assert_eq!(saga.attempt, attempt, "{saga:?}");
        let text = self.text(task_id);
        let wanted: String = lines.iter().enumerate().map(|(index, line)| written(index + 1, line)).collect();
        assert_eq!(text, wanted, "the report of {task_id}");
        assert_eq!(String::from_utf8_lossy(&saga.result), digest(text.as_bytes()), "the result is the report's digest");
        assert_eq!(mark(&self.path(task_id)).trim(), task_id);
        let compensations: Vec<_> = saga.compensations.iter().map(|c| (c.kind.as_str(), c.target.as_str())).collect();
        assert_eq!(compensations, [("remove-dir", self.path(task_id).to_str().unwrap())]);
    }

    /// The only event of this type in a saga's history.
    pub async fn event(&self, task_id: &str, wanted: EventType) -> SagaEvent {
        let history = self.api.history(task_id).await;
        let found: Vec<_> = history.iter().filter(|event| event.r#type() == wanted).collect();
        assert_eq!(found.len(), 1, "{wanted:?} in {history:?}");
        found[0].clone()
    }
}

/// A compensation that removes a directory.
pub fn remove_dir(path: &Path) -> CompensationSpec {
    CompensationSpec { target: path.to_str().unwrap().to_owned(), ..api::compensation("remove-dir") }
}

/// Creates a directory as the work of a task does.
pub fn make_dir(path: &Path, task_id: &str) {
    fs::create_dir(path).unwrap();
    fs::write(path.join(".sagad"), task_id).unwrap();
    fs::write(path.join("report.txt"), "something").unwrap();
}

/// The task of a directory.
pub fn mark(path: &Path) -> String {
    fs::read_to_string(path.join(".sagad")).unwrap_or_default()
}

fn written(number: usize, line: &str) -> String {
    let text = line.to_uppercase();
    format!("{number} {} {text}\n", digest(text.as_bytes()))
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
