//! [`RunningCommand`]: a command that runs under a lease: its environment, its files, and its end. Between it and this process
//! there is a supervisor, which ends the command whatever happens to this process: [`supervise`].

use std::{
    ffi::OsString,
    io::Write,
    os::unix::{ffi::OsStrExt, net::UnixStream as StdUnixStream, process::ExitStatusExt},
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    process::{Child, Command},
    sync::watch,
};

use super::supervise::{self, SupervisorArgs};
use crate::{
    client::{
        ClientOptions, LeaseKeeper,
        time::{self, Moment},
    },
    private_files,
    proto::Saga,
};

/// How long after the moment of a KILL its outcome may stay away. Then the supervisor is taken for frozen, and the group is killed
/// from here.
const SUPERVISOR_PATIENCE: Duration = Duration::from_secs(2);

/// A program and its arguments.
#[derive(Clone, Debug)]
pub struct CommandLine {
    /// The program: a path, or a name to be looked up in `PATH`.
    pub program: OsString,
    /// What it is given.
    pub arguments: Vec<OsString>,
    /// How long it has between TERM and KILL.
    pub kill_after: Duration,
}

/// A running command.
pub struct RunningCommand {
    from_supervisor: OwnedReadHalf,
    received: Vec<u8>,
    to_supervisor: watch::Sender<Option<Moment>>,
    supervisor: Child,
    /// The group that the command leads.
    group: Option<Pid>,
    // Removed when this is dropped.
    files: CommandFiles,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandExit {
    /// The status of the command itself.
    pub status: ExitStatus,
    /// Whether it was killed because the lease's deadline had come.
    pub by_deadline: bool,
    /// Whether it left processes running, which were ended.
    pub leftovers: bool,
}

/// The files of one command, in a directory of their own that nobody else can read.
struct CommandFiles {
    directory: TempDir,
}

impl CommandFiles {
    fn new(payload: &[u8], progress: &[u8]) -> std::io::Result<Self> {
        let files = CommandFiles { directory: private_files::temporary_directory(&std::env::temp_dir(), "sagad-")? };
        for (path, content) in [(files.payload(), payload), (files.progress(), progress)] {
            private_files::create_new(&path)?.write_all(content)?;
        }
        Ok(files)
    }

    fn payload(&self) -> PathBuf {
        self.directory.path().join("payload")
    }

    fn progress(&self) -> PathBuf {
        self.directory.path().join("progress")
    }
}

/// Whether the files that a command is given can be made at all. To be asked before anything is claimed.
pub fn can_make_files() -> Result<(), String> {
    let why = |error| {
        let directory = std::env::temp_dir();
        format!("can't make files in {} (TMPDIR names another directory): {error}", directory.display())
    };
    CommandFiles::new(b"", b"").map(|_| ()).map_err(why)
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

/// What of an environment no program can be given, in a sentence about the saga's field. Such text was accepted by coordinators
/// up to 0.1.0, and may be stored.
pub fn unpassable(environment: &[(&'static str, OsString)]) -> Option<String> {
    let (variable, _) = environment.iter().find(|(_, value)| value.as_bytes().contains(&0))?;
    let field = variable.trim_start_matches("SAGAD_").to_ascii_lowercase();
    Some(format!("its {field} holds a NUL character, which can't be in a program's environment"))
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

/// Starts a command. Its output goes where ours goes; it has no input, as there may be several. `deadlines` says until when its
/// lease reaches, now and later. An error says why it did not start.
pub async fn start(
    command: &CommandLine,
    environment: Vec<(&'static str, OsString)>,
    saga: &Saga,
    deadlines: watch::Receiver<Moment>,
) -> Result<RunningCommand, String> {
    let could_not = |why: String| format!("could not start {}: {why}", command.program.display());
    let mut running = spawn(command, environment, saga, deadlines).map_err(|error| could_not(error.to_string()))?;
    loop {
        let line = running.line().await;
        let (word, rest) = line.as_deref().map(|line| line.split_once(' ').unwrap_or((line, ""))).unwrap_or_default();
        match word {
            "starting" => running.group = rest.parse().ok().and_then(Pid::from_raw),
            "started" => return Ok(running),
            "failed" => return Err(could_not(rest.to_owned())),
            // It may have let the command run, and not come to say so: waiting for its end ends the group.
            _ if running.group.is_some() => return Ok(running),
            _ => {
                let status = running.supervisor.wait().await;
                let status = status.map_or_else(|error| error.to_string(), describe);
                return Err(could_not(format!("the process that watches over it ended ({status})")));
            }
        }
    }
}

fn spawn(
    command: &CommandLine,
    environment: Vec<(&'static str, OsString)>,
    saga: &Saga,
    deadlines: watch::Receiver<Moment>,
) -> std::io::Result<RunningCommand> {
    let files = CommandFiles::new(&saga.payload, &saga.progress)?;
    let (ours, theirs) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let order = SupervisorArgs {
        program: &command.program,
        arguments: &command.arguments,
        directory: files.directory.path(),
        kill_after: command.kill_after,
        until: *deadlines.borrow(),
    };
    let mut supervisor = supervise::command(&order);
    supervisor
        .envs(environment)
        .env("SAGAD_PAYLOAD_FILE", files.payload())
        .env("SAGAD_PROGRESS_FILE", files.progress())
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)));
    let (from_supervisor, socket) = UnixStream::from_std(ours)?.into_split();
    let supervisor = Command::from(supervisor).spawn()?;
    let (to_supervisor, orders) = watch::channel(None);
    tokio::spawn(send_orders(socket, deadlines, orders));
    Ok(RunningCommand { from_supervisor, received: Vec::new(), to_supervisor, supervisor, group: None, files })
}

/// Sends the supervisor each deadline and the order to end, until [`RunningCommand`] is dropped or the supervisor has gone.
async fn send_orders(
    mut socket: OwnedWriteHalf,
    mut deadlines: watch::Receiver<Moment>,
    mut orders: watch::Receiver<Option<Moment>>,
) {
    let mut kept = true;
    loop {
        let line = tokio::select! {
            changed = orders.changed() => {
                if changed.is_err() {
                    return;
                }
                match *orders.borrow_and_update() {
                    Some(kill_at) => format!("end {}\n", kill_at.as_micros()),
                    None => continue,
                }
            }
            changed = deadlines.changed(), if kept => {
                kept = changed.is_ok();
                format!("until {}\n", deadlines.borrow_and_update().as_micros())
            }
        };
        if socket.write_all(line.as_bytes()).await.is_err() {
            return;
        }
    }
}

impl RunningCommand {
    /// The file by which the command says how far it is. It goes away with this.
    pub fn progress_file(&self) -> PathBuf {
        self.files.progress()
    }

    /// Waits for the command and its process group to end. Dropping the future loses nothing. An error says what became of the
    /// supervisor, in whose place the group has been killed then.
    pub async fn wait(&mut self) -> Result<CommandExit, String> {
        let line = self.line().await;
        // It has said its last; what is left is to reap it.
        let status = self.supervisor.wait().await;
        if let Some(ended) = line.as_deref().and_then(parse_ended) {
            return Ok(ended);
        }
        self.kill_group();
        let status = status.map_or_else(|error| error.to_string(), describe);
        Err(format!("the process that watches over the command ended ({status}), and the command was killed"))
    }

    /// Ends the command and all of its group: TERM now, KILL at `kill_at`.
    pub async fn end(&mut self, kill_at: Moment) -> Result<CommandExit, String> {
        self.to_supervisor.send_replace(Some(kill_at));
        tokio::select! {
            ended = self.wait() => return ended,
            () = time::sleep_until(kill_at + SUPERVISOR_PATIENCE) => {}
        }
        self.kill_group();
        self.supervisor.start_kill().ok();
        self.wait().await
    }

    fn kill_group(&self) {
        if let Some(group) = self.group {
            // That it has gone already is what is wanted.
            kill_process_group(group, Signal::KILL).ok();
        }
    }

    /// The next line of the supervisor; `None` when it has gone.
    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return Some(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            if !matches!(self.from_supervisor.read_buf(&mut self.received).await, Ok(1..)) {
                return None;
            }
        }
    }
}

fn parse_ended(line: &str) -> Option<CommandExit> {
    let mut numbers = line.strip_prefix("ended ")?.split(' ').map(|number| number.parse::<i32>().ok());
    let (status, by_deadline, leftovers) = (numbers.next()??, numbers.next()??, numbers.next()??);
    Some(CommandExit { status: ExitStatus::from_raw(status), by_deadline: by_deadline != 0, leftovers: leftovers != 0 })
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
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn the_payload_file_is_private_and_removed() {
        let files = CommandFiles::new(b"payload", b"half").expect("there is room");
        let path = files.payload();
        assert_eq!(fs::read(&path).expect("it is there"), b"payload");
        let mode = |path: &std::path::Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(files.directory.path())), (0o600, 0o700));
        drop(files);
        assert!(!path.exists());
    }

    #[test]
    fn a_variable_with_a_nul_character_is_named() {
        let environment = |branch: &str| vec![("SAGAD_TASK_ID", "t".into()), ("SAGAD_BRANCH", branch.into())];
        assert_eq!(unpassable(&environment("fix-7")), None);
        assert!(unpassable(&environment("fix\0-7")).is_some_and(|told| told.starts_with("its branch holds a NUL")));
    }

    #[test]
    fn the_supervisors_end_message_is_parsed() {
        let ended = parse_ended("ended 768 0 1").expect("an end");
        assert_eq!(describe(ended.status), "exit code 3");
        assert!(ended.leftovers && !ended.by_deadline);
        assert_eq!(
            parse_ended("ended 9 1 0").map(|ended| describe(ended.status)).as_deref(),
            Some("killed by signal 9")
        );
        for wrong in ["", "ended", "ended 9", "ended x 0 0", "started 5"] {
            assert_eq!(parse_ended(wrong), None, "{wrong}");
        }
    }
}
