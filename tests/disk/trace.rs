//! A trace of the daemon's calls to the kernel, taken apart: which file a call is about, when it began and when it was done.

use std::collections::HashMap;

/// Something that the daemon did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// A write to the write-ahead log began.
    LogWrite,
    /// A sync of the write-ahead log was done.
    LogSynced,
    /// Something was sent to a client.
    Send,
}

/// The acts in a trace of `strace -f -y`, in order. Of a call that was interrupted in the trace by another thread's, a
/// write and a send count when they begin, a sync when it is done.
pub fn acts(trace: &str) -> Vec<Act> {
    // What each thread has begun and not done, as far as it is a sync of the log.
    let mut syncing: HashMap<&str, bool> = HashMap::new();
    let mut acts = Vec::new();
    for line in trace.lines() {
        let Some((thread, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        if call.starts_with("<... f") {
            if syncing.remove(thread) == Some(true) && call.ends_with("= 0") {
                acts.push(Act::LogSynced);
            }
            continue;
        }
        let is_log = call.contains("sagad.db-wal>");
        if call.starts_with("pwrite64(") && is_log {
            acts.push(Act::LogWrite);
        } else if call.starts_with("fdatasync(") || call.starts_with("fsync(") {
            if call.ends_with("<unfinished ...>") {
                syncing.insert(thread, is_log);
            } else if is_log && call.ends_with("= 0") {
                acts.push(Act::LogSynced);
            }
        } else if ["sendto(", "sendmsg(", "writev(", "write("].iter().any(|name| call.starts_with(name))
            && (call.contains("<socket:") || call.contains("<TCP"))
        {
            acts.push(Act::Send);
        }
    }
    acts
}

/// Sends that came after a write to the log that was not yet synced: there may be none. With the number of times that a
/// sync stood between the two, as it should.
pub fn unsynced_sends(acts: &[Act]) -> (usize, usize) {
    let (mut unsynced, mut synced) = (0, 0);
    let mut dirty = false;
    let mut fresh = false;
    for act in acts {
        match act {
            Act::LogWrite => dirty = true,
            Act::LogSynced => {
                fresh |= dirty;
                dirty = false;
            }
            Act::Send if dirty => unsynced += 1,
            Act::Send => {
                synced += usize::from(fresh);
                fresh = false;
            }
        }
    }
    (unsynced, synced)
}

#[test]
fn a_trace_is_read_as_strace_writes_it() {
    let trace = "7 pwrite64(9</d/sagad.db-wal>, \"\"..., 24, 32) = 24\n\
                 7 fdatasync(9</d/sagad.db-wal> <unfinished ...>\n\
                 8 sendto(11<TCP:[1->2]>, \"\"..., 9, 0, NULL, 0) = 9\n\
                 7 <... fdatasync resumed>) = 0\n\
                 8 writev(11<socket:[5]>, [], 1) = 9\n\
                 7 pwrite64(4</d/sagad.db>, \"\"..., 24, 32) = 24\n\
                 7 fdatasync(9</d/sagad.db-wal>) = -1 EIO (Input/output error) (INJECTED)\n";
    let acts = acts(trace);
    assert_eq!(acts, [Act::LogWrite, Act::Send, Act::LogSynced, Act::Send]);
    assert_eq!(unsynced_sends(&acts), (1, 1));
}
