//! [`Output`]: stderr or stdout, written by a thread of its own.
//!
//! A pipe that nobody reads, or a terminal stopped with Ctrl-S, blocks writers indefinitely. So only this thread
//! writes; everything else appends to a bounded buffer and never waits. Lines that find the buffer full are dropped
//! and counted.
//!
//! `tracing-appender` (0.2.5) has such a writer, but it prints to stdout when it ends while its file is blocked, and
//! to stderr when a write fails, and either may be what blocks. It bounds the number of lines, not their bytes, so its
//! memory has no bound.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use tracing_subscriber::fmt::MakeWriter;

use crate::{
    domain::characters,
    mutants::{self, Mutant},
};

/// Most bytes that wait to be written; as many again may be in the thread. The busiest daemon logs about 8 MB a second
/// at `debug`, so this covers a pause of half a second.
const CAPACITY: usize = 4 << 20;
/// A buffer larger than this is shrunk once it is written.
const MAX_IDLE_CAPACITY: usize = 64 << 10;
/// Most bytes in one write: a pipe takes this much atomically, so that lines of several processes don't mix.
const CHUNK: usize = 4096;
/// How long to wait if the file is non-blocking (its other end made it so) and takes nothing.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// How often [`Output::flush`] checks for progress.
const FLUSH_POLL_INTERVAL: Duration = Duration::from_millis(25);
/// Checks without progress after which `flush` gives up: 250 ms. A reader that reads at all has read something by
/// then.
const MAX_STALLED_POLLS: u32 = 10;
/// Most checks of one `flush`: a second in all, by which a slow reader can delay the end of the process.
const MAX_FLUSH_POLLS: u32 = 40;

/// Callbacks of an output.
#[derive(Clone, Copy, Debug)]
pub struct OutputEvents {
    /// Called with the number of lines dropped since the last report. It may write lines itself.
    pub dropped: fn(u64),
    /// A write failed.
    pub failed: fn(&io::Error),
}

/// A file that may block, with a buffer before it. Cheap to clone.
#[derive(Clone)]
pub struct Output(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Wakes the thread that writes.
    filled: Condvar,
    /// Wakes callers of `flush` when everything is written.
    empty: Condvar,
    dropped: AtomicU64,
}

#[derive(Default)]
struct State {
    /// Whole lines.
    waiting: Vec<u8>,
    /// Lines that were dropped and not reported yet.
    missed: u64,
    /// True while the thread holds lines that are not written yet.
    writing: bool,
    /// Chunks that were written, or failed to be.
    chunks: u64,
}

impl Output {
    /// Starts writing to a file. If no thread can be started, everything is dropped; the process can't serve then
    /// anyway.
    pub fn start(name: &str, file: impl Write + Send + 'static, reports: OutputEvents) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            filled: Condvar::new(),
            empty: Condvar::new(),
            dropped: AtomicU64::new(0),
        });
        let output = Output(shared.clone());
        let writer = Writer { shared, file, reports, failing: false };
        // Not joined: it may be in a write that never returns.
        drop(thread::Builder::new().name(name.to_owned()).spawn(move || writer.run()));
        output
    }

    /// Appends lines, each with its end. Never waits for the file.
    pub fn push(&self, lines: &[u8]) {
        let shared = &*self.0;
        let mut state = shared.state.lock();
        if state.waiting.len() + lines.len() > CAPACITY {
            state.missed += 1;
            drop(state);
            shared.dropped.fetch_add(1, Relaxed);
            return;
        }
        state.waiting.extend_from_slice(lines);
        drop(state);
        shared.filled.notify_one();
        while mutants::on(Mutant::LogWaits) && !shared.state.lock().waiting.is_empty() {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lines dropped since the start because the file took them too slowly or not at all.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Relaxed)
    }

    /// Waits until everything is written: at most 250 ms without progress, and a second in all.
    pub fn flush(&self) {
        let mut state = self.0.state.lock();
        let (mut seen, mut stalled) = (state.chunks, 0);
        for _ in 0..MAX_FLUSH_POLLS {
            if state.waiting.is_empty() && !state.writing {
                return;
            }
            self.0.empty.wait_for(&mut state, FLUSH_POLL_INTERVAL);
            stalled = if state.chunks == seen { stalled + 1 } else { 0 };
            seen = state.chunks;
            if stalled == MAX_STALLED_POLLS {
                return;
            }
        }
    }
}

/// The state of the writing thread.
struct Writer<F> {
    shared: Arc<Shared>,
    file: F,
    reports: OutputEvents,
    /// True if the last write failed. Then nothing is reported, since the report would fail too and be reported again.
    failing: bool,
}

impl<F: Write> Writer<F> {
    fn run(mut self) {
        let mut lines = Vec::new();
        loop {
            let missed = self.next(&mut lines);
            if missed > 0 {
                // Reported before anything else gets into the new buffer, so that the report stands where the lines
                // are missing.
                (self.reports.dropped)(missed);
            }
            for chunk in chunks(&lines) {
                let written = write_all(&mut self.file, chunk);
                self.failing = written.is_err();
                let mut state = self.shared.state.lock();
                state.chunks += 1;
                if let Err(error) = written {
                    let lost = chunk.iter().filter(|byte| **byte == b'\n').count() as u64;
                    state.missed += lost;
                    drop(state);
                    self.shared.dropped.fetch_add(lost, Relaxed);
                    (self.reports.failed)(&error);
                }
            }
            lines.clear();
            lines.shrink_to(MAX_IDLE_CAPACITY);
        }
    }

    /// Waits for lines and takes all of them; returns how many were dropped before them and must be reported.
    fn next(&self, lines: &mut Vec<u8>) -> u64 {
        let mut state = self.shared.state.lock();
        loop {
            if !state.waiting.is_empty() {
                break;
            }
            if state.missed > 0 && !self.failing {
                break;
            }
            state.writing = false;
            self.shared.empty.notify_all();
            self.shared.filled.wait(&mut state);
        }
        state.writing = true;
        std::mem::swap(&mut state.waiting, lines);
        if self.failing { 0 } else { std::mem::take(&mut state.missed) }
    }
}

/// Splits lines into parts of at most [`CHUNK`] bytes that end with a line; a longer line is a part by itself.
fn chunks(mut lines: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        if lines.is_empty() {
            return None;
        }
        let head = &lines[..lines.len().min(CHUNK)];
        let end = if head.len() == lines.len() { Some(head.len() - 1) } else { head.iter().rposition(|b| *b == b'\n') };
        let end = end.or_else(|| lines.iter().position(|b| *b == b'\n')).unwrap_or(lines.len() - 1);
        let (chunk, rest) = lines.split_at(end + 1);
        lines = rest;
        Some(chunk)
    })
}

fn write_all(file: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(RETRY_INTERVAL),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A separate file handle, without the standard library's lock: a write that blocks under that lock would block
/// everything else that writes.
pub(super) fn without_lock(standard: impl AsFd + Write + Send + 'static) -> Box<dyn Write + Send> {
    match standard.as_fd().try_clone_to_owned() {
        Ok(own) => Box::new(File::from(own)),
        // Out of file descriptors.
        Err(_) => Box::new(standard),
    }
}

impl<'a> MakeWriter<'a> for Output {
    type Writer = TextLine<'a>;

    fn make_writer(&'a self) -> TextLine<'a> {
        TextLine(self)
    }
}

/// An output for lines of JSON, in which unprintable characters are escaped.
#[derive(Clone)]
pub struct JsonLines(pub Output);

impl<'a> MakeWriter<'a> for JsonLines {
    type Writer = JsonLine<'a>;

    fn make_writer(&'a self) -> JsonLine<'a> {
        JsonLine(&self.0)
    }
}

/// Writes one line of JSON, which arrives in one piece.
pub struct JsonLine<'a>(&'a Output);

impl Write for JsonLine<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(characters::json(&String::from_utf8_lossy(line)).as_bytes());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes one log line, which arrives in one piece.
pub struct TextLine<'a>(&'a Output);

impl Write for TextLine<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const QUIET: OutputEvents = OutputEvents { dropped: |_| {}, failed: |_| {} };

    /// Takes a write only for each permit that it gets.
    struct Gate {
        permits: mpsc::Receiver<()>,
        written: Arc<Mutex<Vec<Vec<u8>>>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.permits.recv();
            self.written.lock().push(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn p13_a_blocked_file_loses_lines_but_delays_nobody() {
        static REPORTED: AtomicU64 = AtomicU64::new(0);
        let reports = OutputEvents {
            dropped: |lines| {
                REPORTED.fetch_add(lines, Relaxed);
            },
            failed: |_| {},
        };
        let (permits, waits) = mpsc::channel();
        let written = Arc::new(Mutex::default());
        let output = Output::start("gate", Gate { permits: waits, written: Arc::clone(&written) }, reports);
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        // What is being written, what waits, and more.
        let lines = 2 * CAPACITY / line.len() + 77;
        for _ in 0..lines {
            output.push(&line);
        }
        let dropped = output.dropped();
        assert!(dropped >= 77 && dropped < lines as u64, "{dropped} of {lines}");
        output.flush();
        drop(permits);
        while written.lock().iter().map(Vec::len).sum::<usize>() < (lines - dropped as usize) * line.len() {
            thread::sleep(FLUSH_POLL_INTERVAL);
        }
        output.flush();
        assert_eq!(REPORTED.load(Relaxed), dropped, "what was dropped is reported once");
        assert!(written.lock().iter().all(|bytes| bytes.len() <= CHUNK && bytes.ends_with(b"\n")));
    }

    #[test]
    fn p13_a_closed_output_causes_no_repeated_reports() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        static REPORTED: AtomicU64 = AtomicU64::new(0);
        let reports = OutputEvents {
            dropped: |_| {
                REPORTED.fetch_add(1, Relaxed);
            },
            failed: |_| {},
        };
        let output = Output::start("gone", Gone, reports);
        for _ in 0..3 {
            output.push(b"one\ntwo\n");
            output.flush();
        }
        assert_eq!((output.dropped(), REPORTED.load(Relaxed)), (6, 0));
    }

    #[test]
    fn chunks_consist_of_whole_lines() {
        let long = [&[b'l'; 2 * CHUNK][..], b"\n"].concat();
        let lines = [&b"a\nbc\n"[..], &long, &[b'm'; CHUNK - 2], b"\n", b"d\ne"].concat();
        let parts: Vec<_> = chunks(&lines).collect();
        assert_eq!(parts.concat(), lines);
        assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [5, long.len(), CHUNK - 1, 3]);
        assert_eq!(chunks(b"").count(), 0);
        drop(Output::start("none", io::sink(), QUIET));
    }
}
