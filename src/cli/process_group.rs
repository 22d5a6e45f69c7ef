//! [`ProcessGroup`]: the process group of a command, and when and why it is killed.

use std::{fs, os::unix::ffi::OsStrExt};

use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitOptions, kill_process_group, test_kill_process_group, wait},
};

use crate::client::time::{self, Moment};

/// Why a group was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillCause {
    /// The lease's deadline passed, and the worker had not told it to end.
    Deadline,
    /// It did not end by itself after TERM.
    Slow,
}

/// The command's process group.
pub struct ProcessGroup {
    leader: Pid,
    /// The lease's deadline: the group is killed then.
    pub deadline: Moment,
    /// Set when the group has to end: TERM has been sent.
    kill_at: Option<Moment>,
    /// Why it was killed, once it was.
    pub killed: Option<KillCause>,
    /// The leader's status as `waitpid` returns it, once it has ended.
    pub status: Option<i32>,
}

impl ProcessGroup {
    /// The group of `leader`, under a lease with this deadline.
    pub fn new(leader: Pid, deadline: Moment) -> Self {
        ProcessGroup { leader, deadline, kill_at: None, killed: None, status: None }
    }

    /// Reaps the leader and all adopted orphans that have ended.
    pub fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid == self.leader {
                self.status = Some(status.as_raw());
            }
        }
    }

    /// Sends TERM, if that was not done yet, and sets the moment of KILL; an earlier moment that was set before stays.
    pub fn end(&mut self, kill_at: Moment) {
        if self.kill_at.is_none() && kill_at > time::now() {
            self.signal(Signal::TERM);
        }
        self.kill_at = Some(self.kill_at.map_or(kill_at, |before| before.min(kill_at)));
    }

    /// True once [`Self::end`] was called.
    pub fn is_ending(&self) -> bool {
        self.kill_at.is_some()
    }

    /// When [`Self::kill_if_due`] has something to do.
    pub fn next_kill(&self) -> Moment {
        self.kill_at.map_or(self.deadline, |kill_at| kill_at.min(self.deadline))
    }

    /// Sends KILL, once, if it is due.
    pub fn kill_if_due(&mut self) {
        if self.killed.is_none() && time::now() >= self.next_kill() {
            self.killed = Some(if self.kill_at.is_some() { KillCause::Slow } else { KillCause::Deadline });
            self.signal(Signal::KILL);
        }
    }

    fn signal(&self, signal: Signal) {
        // It fails if the group is gone already, which is fine.
        kill_process_group(self.leader, signal).ok();
    }

    /// True if no process of it runs. Only meaningful after the leader was reaped.
    pub fn is_gone(&self) -> bool {
        match test_kill_process_group(self.leader) {
            Ok(()) => !has_living_member(self.leader),
            // Processes of another user can't be killed from here, so they are not waited for after KILL was tried.
            Err(Errno::PERM) => self.killed.is_some(),
            Err(_) => true,
        }
    }
}

/// True if a process group has a member that is not a zombie. Without `/proc`, zombies count too.
fn has_living_member(group: Pid) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else { return true };
    processes.flatten().any(|process| {
        let named_by_number = process.file_name().as_bytes().first().is_some_and(u8::is_ascii_digit);
        named_by_number
            && fs::read_to_string(process.path().join("stat")).is_ok_and(|stat| is_living_member(&stat, group))
    })
}

/// Reads `PID (NAME) STATE PARENT GROUP …`; the name may contain anything.
fn is_living_member(stat: &str, group: Pid) -> bool {
    let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let (state, its_group) = (fields.next(), fields.nth(1));
    its_group.and_then(|its| its.parse().ok()) == Some(group.as_raw_nonzero().get())
        && !matches!(state, Some("Z" | "X"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zombies_and_other_groups_are_not_living_members() {
        let group = Pid::from_raw(42).expect("a number");
        assert!(is_living_member("7 (a (b) c) S 1 42 42 0 -1", group));
        assert!(!is_living_member("7 (sh) Z 1 42 42 0 -1", group));
        assert!(!is_living_member("42 (sh) S 1 41 42 0 -1", group));
        assert!(!is_living_member("", group));
    }
}
