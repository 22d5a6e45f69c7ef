//! Parses a trace of the daemon's system calls: writes and syncs of the log, and answers.

use std::collections::HashMap;

/// A relevant system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelCall {
    /// A write to the write-ahead log began, of these bytes.
    LogWrite(Vec<u8>),
    /// A sync of the write-ahead log was done.
    LogSynced,
    /// A send to a client with the begin of the answers of these HTTP/2 streams.
    Answer(Vec<u32>),
}

/// The relevant calls in a trace of `strace -f -y`, in order. Of a call that was interrupted in the trace by another thread's, a
/// write and a send count when they begin, a sync when it is done.
///
/// Strings must be complete in the trace (`-s`), and there must be only one HTTP/2 client.
pub fn kernel_calls(trace: &str) -> Vec<KernelCall> {
    // The unfinished sync of the log of each thread.
    let mut syncing: HashMap<&str, bool> = HashMap::new();
    let mut kernel_calls = Vec::new();
    for line in trace.lines() {
        let Some((thread, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        if call.starts_with("<... f") {
            if syncing.remove(thread) == Some(true) && call.ends_with("= 0") {
                kernel_calls.push(KernelCall::LogSynced);
            }
            continue;
        }
        let is_log = call.contains("sagad.db-wal>");
        if call.starts_with("pwrite64(") && is_log {
            kernel_calls.push(KernelCall::LogWrite(strings(call)));
        } else if call.starts_with("fdatasync(") || call.starts_with("fsync(") {
            if call.ends_with("<unfinished ...>") {
                syncing.insert(thread, is_log);
            } else if is_log && call.ends_with("= 0") {
                kernel_calls.push(KernelCall::LogSynced);
            }
        } else if ["sendto(", "sendmsg(", "writev(", "write("].iter().any(|name| call.starts_with(name))
            && (call.contains("<socket:") || call.contains("<TCP"))
        {
            let streams = answered_streams(&strings(call));
            if !streams.is_empty() {
                kernel_calls.push(KernelCall::Answer(streams));
            }
        }
    }
    kernel_calls
}

/// The bytes of all strings of a call, concatenated.
fn strings(call: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), call.bytes().peekable());
    let mut within = false;
    while let Some(byte) = rest.next() {
        match byte {
            b'"' => within = !within,
            _ if !within => {}
            b'\\' => match rest.next() {
                Some(digit @ b'0'..=b'7') => {
                    let mut value = u32::from(digit - b'0');
                    for _ in 0..2 {
                        let Some(digit) = rest.next_if(|digit| (b'0'..=b'7').contains(digit)) else { break };
                        value = value * 8 + u32::from(digit - b'0');
                    }
                    bytes.push(value as u8);
                }
                Some(letter) => bytes.push(match letter {
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'r' => b'\r',
                    b'v' => 0x0b,
                    b'f' => 0x0c,
                    itself => itself,
                }),
                None => {}
            },
            plain => bytes.push(plain),
        }
    }
    bytes
}

/// The streams whose HEADERS are among the frames that a send begins.
fn answered_streams(mut sent: &[u8]) -> Vec<u32> {
    const HEADERS: u8 = 1;
    let mut streams = Vec::new();
    while let [a, b, c, kind, _flags, w, x, y, z, rest @ ..] = sent {
        if *kind == HEADERS {
            streams.push(u32::from_be_bytes([*w, *x, *y, *z]) & 0x7fff_ffff);
        }
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        sent = rest.get(length..).unwrap_or_default();
    }
    streams
}

/// An acknowledged change: its mark in the log, and the stream of its answer.
#[derive(Clone, Debug)]
pub struct Change {
    /// Bytes that no other change wrote.
    pub mark: String,
    /// The stream of its call.
    pub stream: u32,
}

/// The changes that were answered before their write was synced, or whose write or answer was not found. Each change is found by
/// its own mark, so that the sync of another transaction does not count for it.
pub fn answered_early(kernel_calls: &[KernelCall], changes: &[Change]) -> Vec<String> {
    let early = changes.iter().filter(|Change { mark, stream }| {
        let holds_mark = |act: &KernelCall| match act {
            KernelCall::LogWrite(bytes) => bytes.windows(mark.len()).any(|window| window == mark.as_bytes()),
            KernelCall::LogSynced | KernelCall::Answer(_) => false,
        };
        let answers = |act: &KernelCall| match act {
            KernelCall::Answer(streams) => streams.contains(stream),
            KernelCall::LogWrite(_) | KernelCall::LogSynced => false,
        };
        let written = kernel_calls.iter().position(holds_mark);
        let synced = written
            .and_then(|at| kernel_calls[at..].iter().position(|act| *act == KernelCall::LogSynced).map(|n| at + n));
        match (synced, kernel_calls.iter().position(answers)) {
            (Some(synced), Some(answered)) => answered < synced,
            (None, _) | (_, None) => true,
        }
    });
    early.map(|change| change.mark.clone()).collect()
}

#[test]
fn strace_output_is_parsed() {
    // A WINDOW_UPDATE before the HEADERS of stream 1, of which the send has only a part; and the answer to a ping alone.
    let trace = "7 pwrite64(9</d/sagad.db-wal>, \"\\0one\\1772\\\"\\n\"..., 24, 32) = 24\n\
                 7 fdatasync(9</d/sagad.db-wal> <unfinished ...>\n\
                 8 writev(11<TCP:[1->2]>, [{iov_base=\"\\0\\0\\4\\10\\0\\0\\0\\0\\0\\0\\0\\0\\1\", iov_len=13}, \
                 {iov_base=\"\\0\\0\\5\\1\\4\\0\\0\\0\\1\\210\", iov_len=10}], 2) = 23\n\
                 7 <... fdatasync resumed>) = 0\n\
                 8 sendto(11<socket:[5]>, \"\\0\\0\\10\\6\\1\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\", 17, 0, NULL, 0) = 17\n\
                 8 sendto(11<socket:[5]>, \"\\0\\0\\0\\1\\5\\0\\0\\0\\3\", 9, 0, NULL, 0) = 9\n\
                 7 pwrite64(4</d/sagad.db>, \"\"..., 24, 32) = 24\n\
                 7 fdatasync(9</d/sagad.db-wal>) = -1 EIO (Input/output error) (INJECTED)\n";
    let kernel_calls = kernel_calls(trace);
    let written = b"\0one\x7f2\"\n".to_vec();
    assert_eq!(
        kernel_calls,
        [
            KernelCall::LogWrite(written),
            KernelCall::Answer(vec![1]),
            KernelCall::LogSynced,
            KernelCall::Answer(vec![3])
        ]
    );
    let early = |mark: &str, stream| !answered_early(&kernel_calls, &[Change { mark: mark.into(), stream }]).is_empty();
    assert!(early("one", 1), "answered before the sync");
    assert!(!early("one", 3), "answered after the sync");
    assert!(early("two", 3), "never written");
    assert!(early("one", 5), "never answered");
}
