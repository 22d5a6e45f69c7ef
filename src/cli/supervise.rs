//! The process between a worker and the command that it runs: `sagad` itself, started anew for each command.
//!
//! It ends the command's process group when the worker dies, by whatever signal, and when the lease's deadline passes while the
//! worker is frozen. It ends what the command leaves running before the worker learns that the command has ended. It adopts and
//! reaps the orphans of its command, so that a group of zombies counts as gone, also where process 1 reaps nothing.
//!
//! The worker holds the other end of a socket, which is this process' standard input. Its end is what tells that the worker is
//! gone: a parent-death signal would come when the *thread* ends that started this process. The messages are lines:
//!
//! | from the worker | meaning |
//! |---|---|
//! | `until MOMENT` | the lease reaches until then; at that moment the group is killed |
//! | `end MOMENT` | TERM to the group now, KILL at that moment |
//!
//! | to the worker | meaning |
//! |---|---|
//! | `starting PID` | the process group of that number is there; nothing of the command runs in it yet |
//! | `failed WHY` | the command could not be started; the last message |
//! | `started` | it runs, and leads that group |
//! | `ended STATUS DEADLINE LEFTOVERS` | it has ended, and its group with it; the last message |
//!
//! Whatever moment this process is killed at, the worker knows which group to end. So the command is not started directly: its
//! process begins as a third `sagad`, [`become_command`], which waits for a byte on a socket. It gets it once the worker has been
//! told its number, becomes the command then, and ends if this process is gone before.
//!
//! As process 1 of a container, `sagad work` and `sagad compensate` run as a child of a second such process, [`as_init`].

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::{self, Read, Write, stdin},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStrExt, net::UnixStream as StdUnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    time::Duration,
};

use rustix::{
    io::Errno,
    process::{
        Pid, Signal, WaitOptions, getpid, kill_process, kill_process_group, set_child_subreaper,
        test_kill_process_group, wait,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    signal::unix::{Signal as SignalStream, SignalKind, signal},
};

use super::errors;
use crate::{
    client::time::{self, Moment},
    mutants::{self, Mutant},
};

/// The first argument by which the binary is this process. No command has such a name.
const SUPERVISE: &str = "__supervise";
/// The same for the process that becomes the command.
const BECOME: &str = "__become";
/// What it waits for.
const GO: &[u8] = b"\n";
/// The longest answer that says why it could not become the command.
const WHY_BYTES: u64 = 4096;

/// Between two looks at whether a process group is gone, where no signal tells: the first, and the longest after doubling.
const GONE_POLL: Duration = Duration::from_millis(10);
const GONE_POLL_MAX: Duration = Duration::from_millis(200);

/// Longer lines are none of a worker's.
const LINE_BYTES: usize = 256;

/// What a supervisor is told at its start.
#[derive(Debug)]
pub struct SupervisorArgs<'a> {
    /// The program, as it was given.
    pub program: &'a OsStr,
    /// Its arguments.
    pub arguments: &'a [OsString],
    /// Where its files are; removed when the worker is gone.
    pub directory: &'a Path,
    /// How long the group has between TERM and KILL when nobody says so.
    pub kill_after: Duration,
    /// Until when the lease reaches.
    pub until: Moment,
}

/// The command that starts a supervisor. Its standard input is to be the socket.
pub fn command(order: &SupervisorArgs<'_>) -> Command {
    let mut command = Command::new(own_program());
    command
        .arg0("sagad")
        .arg(SUPERVISE)
        .arg(order.kill_after.as_micros().to_string())
        .arg(order.until.as_micros().to_string())
        .arg(order.directory)
        .arg(order.program)
        .args(order.arguments)
        // Signals at the terminal are the worker's, which decides what they mean for the command.
        .process_group(0);
    command
}

/// This very program, even where its file has been replaced or removed since.
fn own_program() -> PathBuf {
    let running = PathBuf::from("/proc/self/exe");
    if running.exists() { running } else { std::env::current_exe().unwrap_or_else(|_| "sagad".into()) }
}

/// Runs as a supervisor, if that is what the arguments say.
pub fn run(arguments: &[OsString]) -> Option<ExitCode> {
    let [_, mode, rest @ ..] = arguments else { return None };
    if mode == BECOME {
        return Some(become_command(rest));
    }
    if mode != SUPERVISE {
        return None;
    }
    let result = parse(rest).and_then(|order| {
        let control = control().map_err(|_| "its standard input is no worker's socket".to_owned())?;
        block_on(supervise(&order, control)).map_err(|error| error.to_string())
    });
    Some(match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            super::notices::notice(&format!("this is how `sagad work` starts itself, and nothing else: {why}"));
            super::notices::finish(Some(super::notices::LAST_WAIT));
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

/// Waits until it may go on, and becomes the command. What keeps it from that it tells on the socket that is its standard input.
fn become_command(arguments: &[OsString]) -> ExitCode {
    let [program, arguments @ ..] = arguments else { return ExitCode::from(errors::USAGE) };
    // A copy that a program does not inherit: so its end tells that this has become one.
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

/// A process that waits to become the command, at the head of a group of its own.
struct PendingCommand {
    leader: Pid,
    socket: UnixStream,
}

impl PendingCommand {
    fn start(order: &SupervisorArgs<'_>) -> io::Result<Self> {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let socket = UnixStream::from_std(ours)?;
        let mut command = Command::new(own_program());
        command.arg0("sagad").arg(BECOME).arg(order.program).args(order.arguments);
        let child = command.stdin(Stdio::from(OwnedFd::from(theirs))).process_group(0).spawn()?;
        Ok(PendingCommand { leader: pid_of(&child), socket })
    }

    /// Lets it become the command; an error says why it did not.
    async fn go(mut self) -> Result<(), String> {
        let mut why = Vec::new();
        if let Err(error) = self.socket.write_all(GO).await {
            return Err(error.to_string());
        }
        // A read that fails tells as much as the end: it is no longer there to say that it failed.
        self.socket.take(WHY_BYTES).read_to_end(&mut why).await.ok();
        if why.is_empty() { Ok(()) } else { Err(String::from_utf8_lossy(&why).into_owned()) }
    }
}

fn control() -> io::Result<StdUnixStream> {
    let control = StdUnixStream::from(stdin().as_fd().try_clone_to_owned()?);
    // Fails on what is no socket.
    control.peer_addr()?;
    control.set_nonblocking(true)?;
    Ok(control)
}

fn block_on<T>(future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

/// Adopts the orphans of all that it starts, so that they are reaped.
fn adopt_orphans() {
    // Where the system has no such thing, process 1 reaps them.
    set_child_subreaper(Some(getpid())).ok();
}

/// The signals by which processes are told to end.
fn ending_signals() -> io::Result<[SignalStream; 4]> {
    Ok([
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::hangup())?,
        signal(SignalKind::quit())?,
    ])
}

async fn supervise(order: &SupervisorArgs<'_>, control: StdUnixStream) -> io::Result<()> {
    // A service manager sends them to all processes of a service. The worker says what becomes of the command.
    let _ignored = ending_signals()?;
    let mut children = signal(SignalKind::child())?;
    adopt_orphans();
    let mut control = ControlChannel { socket: UnixStream::from_std(control)?, received: Vec::new() };
    let waiting = match PendingCommand::start(order) {
        Ok(waiting) => waiting,
        Err(error) => {
            control.send(&format!("failed {error}\n")).await;
            return Ok(());
        }
    };
    let leader = waiting.leader;
    if !control.send(&format!("starting {}\n", leader.as_raw_nonzero())).await {
        // The worker is gone; so is, with its socket, what waits.
        fs::remove_dir_all(order.directory).ok();
        return Ok(());
    }
    if let Err(why) = waiting.go().await {
        control.send(&format!("failed {why}\n")).await;
        return Ok(());
    }
    control.send("started\n").await;
    let mut group =
        ProcessGroup { leader, until: order.until, kill_at: None, killed: None, status: None, leftovers: false };
    let mut worker_gone = false;
    let mut poll = GONE_POLL;
    let status = loop {
        group.reap();
        if let Some(status) = group.status {
            if group.is_gone() {
                break status;
            }
            if group.kill_at.is_none() {
                group.leftovers = true;
                group.end(time::now() + order.kill_after);
            }
        }
        group.kill_if_due();
        tokio::select! {
            _ = children.recv() => {}
            message = control.next(), if !worker_gone => match message {
                Some(WorkerMessage::Until(until)) => group.until = until,
                Some(WorkerMessage::End(kill_at)) => group.end(kill_at),
                None => {
                    worker_gone = true;
                    if !mutants::on(Mutant::CommandOutlivesWorker) {
                        group.end(time::now() + order.kill_after);
                    }
                }
            },
            () = time::sleep_until(group.next_kill()), if group.killed.is_none() => {}
            () = tokio::time::sleep(poll), if group.status.is_some() => poll = (poll * 2).min(GONE_POLL_MAX),
        }
    };
    let by_deadline = group.killed == Some(KillCause::Deadline);
    let ended = format!("ended {status} {} {}\n", u8::from(by_deadline), u8::from(group.leftovers));
    if worker_gone || !control.send(&ended).await {
        // The worker removes its files itself, unless it was killed.
        fs::remove_dir_all(order.directory).ok();
    }
    Ok(())
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// What a worker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WorkerMessage {
    Until(Moment),
    End(Moment),
}

struct ControlChannel {
    socket: UnixStream,
    received: Vec<u8>,
}

impl ControlChannel {
    /// Whether it could be sent.
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

/// Why a group was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KillCause {
    /// The lease's deadline had come, and nobody had asked for the end.
    Deadline,
    /// It did not end by itself after TERM.
    Slow,
}

/// The command's process group.
struct ProcessGroup {
    leader: Pid,
    until: Moment,
    /// Set when it has to end: TERM has been sent.
    kill_at: Option<Moment>,
    killed: Option<KillCause>,
    /// The leader's status as `waitpid` tells it, once it has ended.
    status: Option<i32>,
    leftovers: bool,
}

impl ProcessGroup {
    /// Reaps the leader and all adopted orphans that have ended.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid == self.leader {
                self.status = Some(status.as_raw());
            }
        }
    }

    /// Sends TERM, unless that has been done, and sees to KILL at `kill_at`, or earlier if that was said before.
    fn end(&mut self, kill_at: Moment) {
        if self.kill_at.is_none() && kill_at > time::now() {
            self.signal(Signal::TERM);
        }
        self.kill_at = Some(self.kill_at.map_or(kill_at, |before| before.min(kill_at)));
    }

    fn next_kill(&self) -> Moment {
        self.kill_at.map_or(self.until, |kill_at| kill_at.min(self.until))
    }

    fn kill_if_due(&mut self) {
        if self.killed.is_none() && time::now() >= self.next_kill() {
            self.killed = Some(if self.kill_at.is_some() { KillCause::Slow } else { KillCause::Deadline });
            self.signal(Signal::KILL);
        }
    }

    fn signal(&self, signal: Signal) {
        // That it has gone already is what is wanted.
        kill_process_group(self.leader, signal).ok();
    }

    /// Whether nothing of it runs. To be asked once the leader has been reaped.
    fn is_gone(&self) -> bool {
        match test_kill_process_group(self.leader) {
            Ok(()) => !has_living_member(self.leader),
            // What belongs to another user can't be ended by us, so it is not waited for once all has been tried.
            Err(Errno::PERM) => self.killed.is_some(),
            Err(_) => true,
        }
    }
}

/// Whether a process group has a member that is no zombie. Without `/proc`, every member counts.
fn has_living_member(group: Pid) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else { return true };
    processes.flatten().any(|process| {
        let named_by_number = process.file_name().as_bytes().first().is_some_and(u8::is_ascii_digit);
        named_by_number
            && fs::read_to_string(process.path().join("stat")).is_ok_and(|stat| is_living_member(&stat, group))
    })
}

/// Of `PID (NAME) STATE PARENT GROUP …`; the name may contain anything.
fn is_living_member(stat: &str, group: Pid) -> bool {
    let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let (state, its_group) = (fields.next(), fields.nth(1));
    its_group.and_then(|its| its.parse().ok()) == Some(group.as_raw_nonzero().get())
        && !matches!(state, Some("Z" | "X"))
}

/// As process 1: runs the same command line as a child, passes signals on, and reaps whatever is left to it, which a worker with
/// its own children to wait for can't. `None` for any other process.
pub fn as_init(arguments: &[OsString]) -> Option<ExitCode> {
    if !getpid().is_init() {
        return None;
    }
    Some(block_on(init(arguments)).unwrap_or_else(|error| {
        super::notices::notice(&format!("can't run as process 1: {error}"));
        super::notices::finish(Some(super::notices::LAST_WAIT));
        ExitCode::from(errors::FAILED)
    }))
}

async fn init(arguments: &[OsString]) -> io::Result<ExitCode> {
    let [mut terminate, mut interrupt, mut hangup, mut quit] = ending_signals()?;
    let mut children = signal(SignalKind::child())?;
    let mut command = Command::new(own_program());
    // A group of its own: a terminal sends its signals to ours, and they are passed on once.
    command.arg0("sagad").args(arguments.get(1..).unwrap_or_default()).process_group(0);
    let worker = pid_of(&command.spawn()?);
    loop {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid == worker {
                return Ok(exit_code(status.as_raw()));
            }
        }
        let passed_on = tokio::select! {
            _ = children.recv() => continue,
            _ = terminate.recv() => Signal::TERM,
            _ = interrupt.recv() => Signal::INT,
            _ = hangup.recv() => Signal::HUP,
            _ = quit.recv() => Signal::QUIT,
        };
        kill_process(worker, passed_on).ok();
    }
}

/// A child's end as ours: its exit code, or 128 and the number of the signal, as shells have it.
fn exit_code(status: i32) -> ExitCode {
    use std::os::unix::process::ExitStatusExt;
    let status = ExitStatus::from_raw(status);
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(errors::FAILED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_none_of_its_arguments_is_no_supervisor() {
        let arguments = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert!(run(&arguments("sagad work --queue q -- __supervise")).is_none());
        assert!(run(&arguments("sagad")).is_none());
        for wrong in ["1 2 /dir", "x 2 /dir true", "1 -2 /dir true"] {
            assert!(parse(&arguments(wrong)).is_err(), "{wrong}");
        }
        let words = arguments("5000000 7 /dir sh -c true");
        let order = parse(&words).expect("these are right");
        assert_eq!((order.kill_after, order.program), (Duration::from_secs(5), OsStr::new("sh")));
        assert_eq!((order.until, order.arguments.len()), (Moment::from_micros(7), 2));
    }

    #[test]
    fn messages_are_read() {
        assert_eq!(parse_message(b"until 5\n"), Some(WorkerMessage::Until(Moment::from_micros(5))));
        assert_eq!(parse_message(b"end 0\n"), Some(WorkerMessage::End(Moment::from_micros(0))));
        for wrong in ["", "end", "end x", "stop 5", "until -1"] {
            assert_eq!(parse_message(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn zombies_and_other_groups_are_no_living_members() {
        let group = Pid::from_raw(42).expect("a number");
        assert!(is_living_member("7 (a (b) c) S 1 42 42 0 -1", group));
        assert!(!is_living_member("7 (sh) Z 1 42 42 0 -1", group));
        assert!(!is_living_member("42 (sh) S 1 41 42 0 -1", group));
        assert!(!is_living_member("", group));
    }
}
