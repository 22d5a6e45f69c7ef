//! Where a situation is played: a daemon of its own, a directory for what the work leaves behind, and the programs.

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

/// What a program's environment must not bring along from the one who tests.
const SETTINGS: &[&str] = &["SAGAD_SERVER", "SAGAD_QUEUES", "SAGAD_OWNER", "SAGAD_TTL", "SAGAD_REVISION_FILE"];

/// The place and what is in it.
pub struct Scene {
    pub language: &'static Language,
    pub daemon: Daemon,
    pub api: Api,
    own: TempDir,
    started: Mutex<u32>,
}

impl Scene {
    /// A daemon with a new store, and a client.
    pub async fn new(language: &'static Language) -> Self {
        let daemon = Daemon::start_with(&["--log", "warn"]);
        let api = daemon.api().await;
        Scene { language, daemon, api, own: tempfile::tempdir().unwrap(), started: Mutex::new(0) }
    }

    /// A path in the situation's own directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.own.path().join(name)
    }

    /// A saga to be created whose work is a report in the directory of its name.
    pub fn report(&self, task_id: &str, lines: &[&str], pause_ms: u64) -> CreateSagaRequest {
        let payload = json!({"dir": self.path(task_id), "lines": lines, "pause_ms": pause_ms});
        CreateSagaRequest { payload: payload.to_string().into(), ..create(task_id) }
    }

    /// The same, and it takes so long that something can happen meanwhile: so many lines, so much time for each.
    pub fn long(&self, task_id: &str, lines: usize, pause_ms: u64) -> CreateSagaRequest {
        self.report(task_id, &vec!["word"; lines], pause_ms)
    }

    /// Creates a saga.
    pub async fn make(&self, request: CreateSagaRequest) -> Saga {
        self.api.create_saga(request).await.unwrap()
    }

    /// Starts a program that calls itself `owner`, with further settings.
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

    /// A worker with leases of so many seconds, once it is ready.
    pub async fn worker(&self, owner: &str, ttl: &str) -> Program {
        self.ready(Role::Worker, owner, &[("SAGAD_TTL", ttl)]).await
    }

    /// A program, once it is ready.
    pub async fn ready(&self, role: Role, owner: &str, settings: &[(&str, &str)]) -> Program {
        let mut program = self.start_at(self.daemon.address(), role, owner, settings);
        program.until_event("ready").await;
        program
    }

    /// What a saga's report says now; empty while there is none.
    pub fn text(&self, task_id: &str) -> String {
        fs::read_to_string(self.path(task_id).join("report.txt")).unwrap_or_default()
    }

    /// A saga is completed, by the first claim for it or the one of that number, and its report is right and was written once.
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

    /// The history of a saga has one event of that type; that is it.
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

/// Makes a directory as the work of a task would.
pub fn make_dir(path: &Path, task_id: &str) {
    fs::create_dir(path).unwrap();
    fs::write(path.join(".sagad"), task_id).unwrap();
    fs::write(path.join("report.txt"), "something").unwrap();
}

/// Whose directory it is.
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
