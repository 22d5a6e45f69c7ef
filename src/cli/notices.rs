//! Writes messages to stderr on a separate thread, so that no command waits for the reader of stderr.
//!
//! A pipe that nobody reads, or a terminal stopped by Ctrl-S, blocks a thread that writes to it. A worker that waited
//! there would send no heartbeats and lose its leases. So messages go into a bounded queue, and only the queue's thread
//! can block. Messages that don't fit are dropped; a line before the next message says how many were.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::OnceLock,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use crate::domain::characters::printable_lines;

/// How much text can wait to be written: some thousand lines, more than anybody reads afterwards.
const QUEUE_BYTES: usize = 256 << 10;

/// What a waiting message counts in addition to its text, so that the number of empty messages is bounded too.
const MESSAGE_BYTES: usize = 64;

/// How long a command that must end soon waits at its end for its messages to be written.
pub const LAST_WAIT: Duration = Duration::from_secs(1);

/// Prints a message in the form `sagad: …`. Never blocks.
pub fn notice(text: &str) {
    line(&format!("sagad: {text}"));
}

/// Prints one or several lines that are formatted already. Never blocks. Unprintable characters are escaped as in text,
/// so JSON must not contain any.
pub fn line(text: &str) {
    shared().push(format!("{}\n", printable_lines(text)));
}

/// Waits until all messages are written, for at most `limit` if there is one.
pub fn finish(limit: Option<Duration>) {
    if let Some(queue) = QUEUE.get() {
        queue.wait_written(limit);
    }
}

/// The process's only queue. The first message starts its thread.
static QUEUE: OnceLock<NoticeQueue> = OnceLock::new();

fn shared() -> &'static NoticeQueue {
    let mut first = false;
    let queue = QUEUE.get_or_init(|| {
        first = true;
        NoticeQueue::default()
    });
    if first {
        let writer = || queue.write_to(io::stderr());
        // Without a thread no message would be written, so messages are dropped.
        if std::thread::Builder::new().name("notices".to_owned()).spawn(writer).is_err() {
            queue.state.lock().closed = true;
        }
    }
    queue
}

#[derive(Debug, Default)]
struct NoticeQueue {
    state: Mutex<State>,
    added: Condvar,
    written: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Notice>,
    bytes: usize,
    /// How many messages were dropped since the last one that was queued.
    dropped: u64,
    /// True while the thread writes a message that it has taken from the queue.
    writing: bool,
    /// True if the thread could not be started.
    closed: bool,
}

#[derive(Debug)]
struct Notice {
    /// How many messages were dropped between the previous one and this one.
    dropped_before: u64,
    text: String,
}

impl NoticeQueue {
    fn push(&self, text: String) {
        let mut state = self.state.lock();
        let size = text.len() + MESSAGE_BYTES;
        if state.closed || state.bytes + size > QUEUE_BYTES {
            state.dropped += 1;
            return;
        }
        state.bytes += size;
        let dropped_before = std::mem::take(&mut state.dropped);
        state.waiting.push_back(Notice { dropped_before, text });
        self.added.notify_one();
    }

    /// Writes messages in order, and never returns.
    fn write_to(&self, mut out: impl Write) {
        loop {
            let Notice { dropped_before, text } = self.take();
            if dropped_before > 0 {
                out.write_all(dropped_line(dropped_before).as_bytes()).ok();
            }
            // An error of stderr can't be reported anywhere.
            out.write_all(text.as_bytes()).ok();
            out.flush().ok();
        }
    }

    /// Waits for the next message. If the queue is empty and messages were dropped after the last one, it is a notice
    /// without text that only has their number.
    fn take(&self) -> Notice {
        let mut state = self.state.lock();
        state.writing = false;
        loop {
            if let Some(message) = state.waiting.pop_front() {
                state.bytes -= message.text.len() + MESSAGE_BYTES;
                state.writing = true;
                return message;
            }
            if state.dropped > 0 {
                state.writing = true;
                return Notice { dropped_before: std::mem::take(&mut state.dropped), text: String::new() };
            }
            self.written.notify_all();
            self.added.wait(&mut state);
        }
    }

    fn wait_written(&self, limit: Option<Duration>) {
        let mut state = self.state.lock();
        let unwritten =
            |state: &mut State| !state.closed && (state.writing || state.dropped > 0 || !state.waiting.is_empty());
        match limit {
            Some(limit) => {
                self.written.wait_while_for(&mut state, unwritten, limit);
            }
            None => self.written.wait_while(&mut state, unwritten),
        }
    }
}

fn dropped_line(count: u64) -> String {
    let messages = if count == 1 { "message was" } else { "messages were" };
    format!("sagad: {count} {messages} dropped here, because nobody read stderr\n")
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    };

    use super::*;

    /// A reader that takes a line only after a message on `go`.
    struct Slow {
        go: Receiver<()>,
        lines: Sender<String>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.go.recv().map_err(io::Error::other)?;
            self.lines.send(String::from_utf8_lossy(bytes).into_owned()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn start() -> (Arc<NoticeQueue>, Sender<()>, Receiver<String>) {
        let (queue, (go, may), (lines, read)) = (Arc::new(NoticeQueue::default()), channel(), channel());
        let writer = Arc::clone(&queue);
        std::thread::spawn(move || writer.write_to(Slow { go: may, lines }));
        (queue, go, read)
    }

    #[test]
    fn dropped_messages_are_counted_where_they_are_missing() {
        let (queue, go, read) = start();
        let long = "x".repeat(QUEUE_BYTES / 4);
        for _ in 0..10 {
            queue.push(long.clone());
        }
        // The wait ends though nothing was read. Three messages are queued, and the thread may have taken a fourth.
        queue.wait_written(Some(Duration::from_millis(50)));
        let mut kept = 0;
        let dropped = loop {
            go.send(()).expect("it writes");
            let text = read.recv().expect("it is written");
            if text != long {
                break text;
            }
            kept += 1;
        };
        assert!((3..=4).contains(&kept), "{kept}");
        assert_eq!(dropped, format!("sagad: {} messages were dropped here, because nobody read stderr\n", 10 - kept));
        queue.push("later\n".to_owned());
        // The notice with the number of dropped messages has no text besides that line.
        go.send(()).expect("it writes");
        assert_eq!(read.recv().expect("it is written"), "later\n");
        queue.wait_written(None);
    }

    #[test]
    fn the_wait_for_a_reader_is_bounded() {
        let (queue, _go, _read) = start();
        queue.push("one\n".to_owned());
        queue.wait_written(Some(Duration::from_millis(50)));
        assert!(queue.state.lock().writing, "the thread still waits for its reader");
    }
}
