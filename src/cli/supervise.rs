//! The supervisor: a process between a worker and the command that it runs. It is `sagad` itself, started anew for each command.
//!
//! It ends the command's process group when the worker dies, by whatever signal, and at the lease's deadline, also if the worker
//! is frozen. It ends the processes that the command leaves running, before the worker learns that the command has ended. It adopts
//! and reaps the command's orphans; otherwise, where process 1 reaps nothing, a group of zombies would never count as gone.
//!
//! ```text
//! worker (running_command.rs)  <-- socket: lines -->  supervisor  <-- socket: one byte -->  the command, in its own process group
//! ```
//!
//! The socket to the worker is the supervisor's standard input. When it is closed, the worker is gone. A parent-death signal would
//! come when the *thread* ends that started the supervisor. The messages are lines:
//!
//! | from the worker | meaning |
//! |---|---|
//! | `until MOMENT` | the lease now lasts until this moment; then the group is killed |
//! | `end MOMENT` | TERM to the group now, KILL at this moment |
//!
//! | to the worker | meaning |
//! |---|---|
//! | `starting PID` | the process group with this number exists; nothing of the command runs in it yet |
//! | `failed WHY` | the command could not be started; the last message |
//! | `started` | the command runs, and leads that group |
//! | `ended STATUS DEADLINE LEFTOVERS` | the command and its group have ended; the last message |
//!
//! At whatever moment the supervisor is killed, the worker knows which group to kill. For this the command is not started directly:
//! a third `sagad` process, [`become_command`], waits for a byte from the supervisor. The supervisor sends the byte once the worker
//! has its process number. Then the process becomes the command. If the supervisor is gone before, the process ends.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::{self, Read, Write, stdin},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixStream as StdUnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use rustix::process::{Pid, getpid, set_child_subreaper};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    signal::unix::{Signal as SignalStream, SignalKind, signal},
};

use super::{
    errors, notices,
    process_group::{KillCause, ProcessGroup},
};
use crate::{
    client::time::{self, Moment},
    mutants::{self, Mutant},
};

/// The first argument that makes the binary a supervisor. No command has this name.
const SUPERVISE: &str = "__supervise";
/// The first argument of the process that becomes the command.
const BECOME: &str = "__become";
/// What that process waits for.
const GO: &[u8] = b"\n";
/// The longest message about why it could not become the command.
const WHY_BYTES: u64 = 4096;

/// The first and the longest pause between two checks whether a process group is gone, which no signal reports. It doubles.
const GONE_POLL: Duration = Duration::from_millis(10);
const GONE_POLL_MAX: Duration = Duration::from_millis(200);

/// A longer line is not a worker's message.
const LINE_BYTES: usize = 256;

/// The arguments of a supervisor.
#[derive(Debug)]
pub struct SupervisorArgs<'a> {
    /// The program, as it was given.
    pub program: &'a OsStr,
    /// Its arguments.
    pub arguments: &'a [OsString],
    /// The directory of its files; the supervisor removes it if the worker is gone.
    pub directory: &'a Path,
    /// The time between TERM and KILL, unless the worker sends the moment of KILL.
    pub kill_after: Duration,
    /// The lease's deadline.
    pub until: Moment,
}

/// The command that starts a supervisor. The caller makes the socket its standard input.
pub fn command(args: &SupervisorArgs<'_>) -> Command {
    let mut command = Command::new(own_program());
    command
        .arg0("sagad")
        .arg(SUPERVISE)
        .arg(args.kill_after.as_micros().to_string())
        .arg(args.until.as_micros().to_string())
        .arg(args.directory)
        .arg(args.program)
        .args(args.arguments)
        // The terminal's signals reach the worker alone, which decides what they mean for the command.
        .process_group(0);
    command
}

/// This program, also if its file was replaced or removed since its start.
pub fn own_program() -> PathBuf {
    let running = PathBuf::from("/proc/self/exe");
    if running.exists() { running } else { std::env::current_exe().unwrap_or_else(|_| "sagad".into()) }
}

/// Runs as a supervisor, or becomes a command, if the arguments say so.
pub fn run(arguments: &[OsString]) -> Option<ExitCode> {
    let [_, mode, rest @ ..] = arguments else { return None };
    if mode == BECOME {
        return Some(become_command(rest));
    }
    if mode != SUPERVISE {
        return None;
    }
    let result = parse(rest).and_then(|args| {
        let control = control().map_err(|_| "standard input is not a worker's socket".to_owned())?;
        block_on(supervise(&args, control)).map_err(|error| error.to_string())
    });
    Some(match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            notices::notice(&format!("only `sagad work` and `sagad compensate` start this process: {why}"));
            notices::finish(Some(notices::LAST_WAIT));
            ExitCode::from(errors::USAGE)
        }
    })
}

fn parse(arguments: &[OsString]) -> Result<SupervisorArgs<'_>, String> {
    let [kill_after, until, directory, program, arguments @ ..] = arguments else {
        return Err("arguments are missing".to_owned());
    };
    let number = |text: &OsStr| text.to_str().and_then(|text| text.parse().ok()).ok_or("a number is expected");
    Ok(SupervisorArgs {
        program,
        arguments,
        directory: Path::new(directory),
        kill_after: Duration::from_micros(number(kill_after)?),
        until: Moment::from_micros(number(until)?),
    })
}

/// Waits for the byte, and becomes the command. If that fails, it writes why to the socket that is its standard input.
fn become_command(arguments: &[OsString]) -> ExitCode {
    let [program, arguments @ ..] = arguments else { return ExitCode::from(errors::USAGE) };
    // A copy that is closed on exec: so the supervisor sees the end of the socket once this has become the command.
    let Ok(mut supervisor) = stdin().as_fd().try_clone_to_owned().map(StdUnixStream::from) else {
        return ExitCode::from(errors::USAGE);
    };
    let mut told = [0; GO.len()];
    if supervisor.read_exact(&mut told).is_err() || told != GO {
        return ExitCode::from(errors::USAGE);
    }
    let error = Command::new(program).args(arguments).stdin(Stdio::null()).exec();
    supervisor.write_all(error.to_string().as_bytes()).ok();
    ExitCode::from(errors::FAILED)
}

/// A process that waits to become the command, and leads a process group of its own.
struct PendingCommand {
    leader: Pid,
    socket: UnixStream,
}

impl PendingCommand {
    fn start(args: &SupervisorArgs<'_>) -> io::Result<Self> {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let socket = UnixStream::from_std(ours)?;
        let mut command = Command::new(own_program());
        command.arg0("sagad").arg(BECOME).arg(args.program).args(args.arguments);
        let child = command.stdin(Stdio::from(OwnedFd::from(theirs))).process_group(0).spawn()?;
        Ok(PendingCommand { leader: Pid::from_child(&child), socket })
    }

    /// Lets it become the command; an error says why it did not.
    async fn go(mut self) -> Result<(), String> {
        let mut why = Vec::new();
        if let Err(error) = self.socket.write_all(GO).await {
            return Err(error.to_string());
        }
        // A failed read means the same as the end of the socket: the process can't report a failure any more.
        self.socket.take(WHY_BYTES).read_to_end(&mut why).await.ok();
        if why.is_empty() { Ok(()) } else { Err(String::from_utf8_lossy(&why).into_owned()) }
    }
}

fn control() -> io::Result<StdUnixStream> {
    let control = StdUnixStream::from(stdin().as_fd().try_clone_to_owned()?);
    // Fails if it is not a socket.
    control.peer_addr()?;
    control.set_nonblocking(true)?;
    Ok(control)
}

/// Runs a future on a runtime of its own, in this thread.
pub fn block_on<T>(future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

/// Makes this process the parent of all orphans among its descendants, so that they are reaped.
fn adopt_orphans() {
    // On systems without this, process 1 reaps them.
    set_child_subreaper(Some(getpid())).ok();
}

/// The signals that ask a process to end.
pub fn ending_signals() -> io::Result<[SignalStream; 4]> {
    Ok([
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::hangup())?,
        signal(SignalKind::quit())?,
    ])
}

async fn supervise(args: &SupervisorArgs<'_>, control: StdUnixStream) -> io::Result<()> {
    // A service manager sends them to all processes of a service. Only the worker decides when the command ends.
    let _ignored = ending_signals()?;
    let mut children = signal(SignalKind::child())?;
    adopt_orphans();
    let mut control = ControlChannel { socket: UnixStream::from_std(control)?, received: Vec::new() };
    let waiting = match PendingCommand::start(args) {
        Ok(waiting) => waiting,
        Err(error) => {
            control.send(&format!("failed {error}\n")).await;
            return Ok(());
        }
    };
    let leader = waiting.leader;
    if !control.send(&format!("starting {}\n", leader.as_raw_nonzero())).await {
        // The worker is gone. The waiting process ends with its socket.
        fs::remove_dir_all(args.directory).ok();
        return Ok(());
    }
    if let Err(why) = waiting.go().await {
        control.send(&format!("failed {why}\n")).await;
        return Ok(());
    }
    control.send("started\n").await;
    let mut group = ProcessGroup::new(leader, args.until);
    let (mut worker_gone, mut leftovers) = (false, false);
    let mut poll = GONE_POLL;
    let status = loop {
        group.reap();
        if let Some(status) = group.status {
            if group.is_gone() {
                break status;
            }
            if !group.is_ending() {
                leftovers = true;
                group.end(time::now() + args.kill_after);
            }
        }
        group.kill_if_due();
        tokio::select! {
            _ = children.recv() => {}
            message = control.next(), if !worker_gone => match message {
                Some(WorkerMessage::Until(until)) => group.deadline = until,
                Some(WorkerMessage::End(kill_at)) => group.end(kill_at),
                None => {
                    worker_gone = true;
                    if !mutants::on(Mutant::CommandOutlivesWorker) {
                        group.end(time::now() + args.kill_after);
                    }
                }
            },
            () = time::sleep_until(group.next_kill()), if group.killed.is_none() => {}
            () = tokio::time::sleep(poll), if group.status.is_some() => poll = (poll * 2).min(GONE_POLL_MAX),
        }
    };
    let by_deadline = group.killed == Some(KillCause::Deadline);
    let ended = format!("ended {status} {} {}\n", u8::from(by_deadline), u8::from(leftovers));
    if worker_gone || !control.send(&ended).await {
        // The worker removes its files itself, unless it was killed.
        fs::remove_dir_all(args.directory).ok();
    }
    Ok(())
}

/// A message from the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WorkerMessage {
    Until(Moment),
    End(Moment),
}

/// The socket to the worker.
struct ControlChannel {
    socket: UnixStream,
    received: Vec<u8>,
}

impl ControlChannel {
    /// Sends a line; true if that succeeded.
    async fn send(&mut self, line: &str) -> bool {
        self.socket.write_all(line.as_bytes()).await.is_ok()
    }

    /// The next message; `None` when the worker is gone. Dropping the future loses nothing.
    async fn next(&mut self) -> Option<WorkerMessage> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return parse_message(&line);
            }
            if self.received.len() > LINE_BYTES || !matches!(self.socket.read_buf(&mut self.received).await, Ok(1..)) {
                return None;
            }
        }
    }
}

fn parse_message(line: &[u8]) -> Option<WorkerMessage> {
    let (word, moment) = std::str::from_utf8(line).ok()?.trim_end().split_once(' ')?;
    let moment = Moment::from_micros(moment.parse().ok()?);
    match word {
        "until" => Some(WorkerMessage::Until(moment)),
        "end" => Some(WorkerMessage::End(moment)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_supervisors_own_arguments_start_it() {
        let arguments = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert!(run(&arguments("sagad work --queue q -- __supervise")).is_none());
        assert!(run(&arguments("sagad")).is_none());
        for wrong in ["1 2 /dir", "x 2 /dir true", "1 -2 /dir true"] {
            assert!(parse(&arguments(wrong)).is_err(), "{wrong}");
        }
        let words = arguments("5000000 7 /dir sh -c true");
        let args = parse(&words).expect("these are right");
        assert_eq!((args.kill_after, args.program), (Duration::from_secs(5), OsStr::new("sh")));
        assert_eq!((args.until, args.arguments.len()), (Moment::from_micros(7), 2));
    }

    #[test]
    fn worker_messages_are_parsed() {
        assert_eq!(parse_message(b"until 5\n"), Some(WorkerMessage::Until(Moment::from_micros(5))));
        assert_eq!(parse_message(b"end 0\n"), Some(WorkerMessage::End(Moment::from_micros(0))));
        for wrong in ["", "end", "end x", "stop 5", "until -1"] {
            assert_eq!(parse_message(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
