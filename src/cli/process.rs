//! A command run under a lease: its environment, its process group, and its end.
//!
//! The command leads a process group of its own, so that an interrupt at the terminal reaches `sagad` alone, and so
//! that its children end with it.

use std::{
    ffi::OsString,
    io::Write,
    os::unix::process::ExitStatusExt,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tempfile::NamedTempFile;
use tokio::process::{Child, Command};

use crate::{
    client::{
        ClientOptions, LeaseKeeper,
        time::{self, Moment},
    },
    proto::Saga,
};

/// Between two looks at whether a process group has gone.
const GONE_POLL: Duration = Duration::from_millis(20);

/// A running command.
pub struct Running {
    child: Child,
    group: Option<Pid>,
    // Removed when the command has ended.
    _payload: NamedTempFile,
}

/// The environment that tells a command about its saga.
pub fn environment(saga: &Saga, lease: &LeaseKeeper, options: &ClientOptions) -> Vec<(&'static str, OsString)> {
    let key = lease.key();
    let mut environment = vec![
        ("SAGAD_TASK_ID", saga.task_id.clone().into()),
        ("SAGAD_SAGA_ID", saga.saga_id.clone().into()),
        ("SAGAD_QUEUE", saga.queue.clone().into()),
        ("SAGAD_ATTEMPT", saga.attempt.to_string().into()),
        ("SAGAD_ISSUE", saga.issue.map(|issue| issue.to_string()).unwrap_or_default().into()),
        ("SAGAD_BRANCH", saga.branch.clone().into()),
        ("SAGAD_WORKTREE", saga.worktree.clone().into()),
        ("SAGAD_OWNER", key.owner_id.clone().into()),
        ("SAGAD_TOKEN", key.fencing_token.to_string().into()),
        ("SAGAD_SERVER", options.server.clone().into()),
    ];
    environment.extend(credentials(options));
    environment
}

/// The files by which the command calls as its worker does, wherever it changes its directory to.
fn credentials(options: &ClientOptions) -> impl Iterator<Item = (&'static str, OsString)> {
    let ClientOptions { ca, cert, key, token_file, .. } = options;
    let files = [("SAGAD_CA", ca), ("SAGAD_CERT", cert), ("SAGAD_KEY", key), ("SAGAD_TOKEN_FILE", token_file)];
    files.into_iter().filter_map(|(variable, file)| {
        let file = file.as_ref()?;
        Some((variable, std::path::absolute(file).unwrap_or_else(|_| file.clone()).into()))
    })
}

/// Starts a command. Its output goes where ours goes; it has no input, as there may be several.
pub fn start(
    program: &str,
    arguments: &[String],
    environment: Vec<(&'static str, OsString)>,
    payload: &[u8],
) -> std::io::Result<Running> {
    let mut file = tempfile::Builder::new().prefix("sagad-payload-").tempfile()?;
    file.write_all(payload)?;
    file.flush()?;
    let child = Command::new(program)
        .args(arguments)
        .envs(environment)
        .env("SAGAD_PAYLOAD_FILE", file.path())
        .stdin(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    Ok(Running { child, group, _payload: file })
}

impl Running {
    /// Waits for the command to end by itself. Dropping the future loses nothing.
    pub async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Ends the command and all of its group: TERM now, KILL at `kill_at`. `None` when it can't be waited for.
    pub async fn end(&mut self, kill_at: Moment) -> Option<ExitStatus> {
        if kill_at > time::now() {
            self.signal(Signal::TERM);
            tokio::select! {
                () = self.gone() => {}
                () = time::sleep_until(kill_at) => {}
            }
        }
        self.signal(Signal::KILL);
        self.child.wait().await.ok()
    }

    /// Waits until the command has ended, and whatever it started in its group with it.
    async fn gone(&mut self) {
        // The leader has to be reaped first: until then its group exists.
        self.child.wait().await.ok();
        while self.group.is_some_and(|group| test_kill_process_group(group).is_ok()) {
            tokio::time::sleep(GONE_POLL).await;
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            // That it has gone already is what is wanted.
            kill_process_group(group, signal).ok();
        }
    }
}

/// An exit status in words.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Running {
        start("sh", &["-c".to_owned(), script.to_owned()], Vec::new(), b"payload").expect("sh is there")
    }

    #[tokio::test]
    async fn the_payload_is_a_file_that_goes_away() {
        let out = NamedTempFile::new().expect("a temporary file");
        let script =
            format!("cat \"$SAGAD_PAYLOAD_FILE\" > {0}; echo \" $SAGAD_PAYLOAD_FILE\" >> {0}", out.path().display());
        let mut running = shell(&script);
        assert!(running.wait().await.expect("it runs").success());
        let text = std::fs::read_to_string(out.path()).expect("written");
        let (content, path) = text.trim().split_once(' ').expect("both");
        assert_eq!(content, "payload");
        assert!(std::path::Path::new(path).exists());
        drop(running);
        assert!(!std::path::Path::new(path).exists());
    }

    #[tokio::test]
    async fn term_is_enough_for_most() {
        let mut running = shell("sleep 60 & sleep 60");
        let begun = time::now();
        let status = running.end(begun + Duration::from_secs(20)).await.expect("it ended");
        assert_eq!(describe(status), "killed by signal 15");
        assert!(time::now().since(begun) < Duration::from_secs(10));
    }

    #[tokio::test]
    async fn kill_comes_for_the_rest() {
        let mut running = shell("trap '' TERM; while :; do sleep 0.05; done");
        tokio::time::sleep(Duration::from_millis(200)).await;
        let status = running.end(time::now() + Duration::from_millis(200)).await.expect("it ended");
        assert_eq!(describe(status), "killed by signal 9");
    }

    #[tokio::test]
    async fn a_deadline_that_has_passed_leaves_no_time_for_term() {
        let mut running = shell("sleep 60");
        let status = running.end(time::now()).await.expect("it ended");
        assert_eq!(describe(status), "killed by signal 9");
    }
}
