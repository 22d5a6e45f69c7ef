//! [`CommandQueue`]: the writer's end of the queue.
//!
//! A sleeping thread takes tens of microseconds to wake, and a caller that sends one change at a time would pay this
//! for each. So while such a caller sends one change soon after the other, the writer spins for a while before it
//! sleeps. With more callers there is always something to do, and with none it sleeps at once. (Adaptive mutexes spin
//! before they sleep for the same reason.)

use std::{hint, sync::Arc};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::{
    clock::Clock,
    domain::time::{Span, Timestamp},
};

use super::writer_message::WriterMessage;

/// How long the writer spins before it sleeps: a little longer than a round trip on one machine.
const SPIN_TIME: Span = match Span::from_micros(200) {
    Some(span) => span,
    None => Span::ZERO,
};
/// Most iterations of the spin, in case the clock stands still.
const SPINS: usize = 20_000;

/// The receiving end of the queue.
pub(super) struct CommandQueue {
    messages: Receiver<WriterMessage>,
    clock: Arc<dyn Clock>,
    /// True if the last turn was one change that arrived soon after the turn before; then the next one may, too.
    expects_next: bool,
    /// True if the last message arrived soon.
    arrived_soon: bool,
    /// False with one processor: nobody could send while the writer spins.
    may_spin: bool,
}

impl CommandQueue {
    pub(super) fn new(messages: Receiver<WriterMessage>, clock: Arc<dyn Clock>) -> Self {
        let may_spin = std::thread::available_parallelism().is_ok_and(|processors| processors.get() > 1);
        CommandQueue { messages, clock, expects_next: false, arrived_soon: false, may_spin }
    }

    /// Waits for a message until `until`. If all senders are gone, returns [`WriterMessage::Close`].
    pub(super) fn wait(&mut self, until: Timestamp) -> Option<WriterMessage> {
        let began = self.clock.now();
        let message = match self.spin(until.min(began.plus(SPIN_TIME))) {
            Some(message) => Some(message),
            None => self.sleep(until),
        };
        // Waking up takes about as long as the spin.
        self.arrived_soon = self.clock.now() < began.plus(SPIN_TIME).plus(SPIN_TIME);
        message
    }

    /// A message that is already queued.
    pub(super) fn take(&self) -> Option<WriterMessage> {
        self.messages.try_recv().ok()
    }

    /// Refuses all further messages until all senders are gone. Otherwise a message sent just before the receiver was
    /// dropped would stay in the channel, and its caller would wait as long as there are senders.
    pub(super) fn refuse_the_rest(self) {
        self.messages.into_iter().for_each(WriterMessage::refuse);
    }

    /// True if no message waits.
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Records how many changes the turn had that started with the last message.
    pub(super) fn turn_done(&mut self, changes: usize) {
        self.expects_next = self.may_spin && self.arrived_soon && changes == 1;
    }

    fn spin(&self, until: Timestamp) -> Option<WriterMessage> {
        if !self.expects_next {
            return None;
        }
        for _ in 0..SPINS {
            if let Ok(message) = self.messages.try_recv() {
                return Some(message);
            }
            if self.clock.now() >= until {
                break;
            }
            hint::spin_loop();
        }
        None
    }

    fn sleep(&self, until: Timestamp) -> Option<WriterMessage> {
        let left = until.since(self.clock.now()).to_std();
        // At least a microsecond, so that queued messages come before what is due.
        match self.messages.recv_timeout(left.max(std::time::Duration::from_micros(1))) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(WriterMessage::Close),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use crossbeam_channel::unbounded;

    use super::*;
    use crate::clock::{ManualClock, SystemClock};

    fn queue_that_expects_next(messages: Receiver<WriterMessage>, clock: Arc<dyn Clock>) -> CommandQueue {
        let mut command_queue = CommandQueue::new(messages, clock);
        command_queue.may_spin = true;
        command_queue.arrived_soon = true;
        command_queue.turn_done(1);
        assert!(command_queue.expects_next);
        command_queue
    }

    #[test]
    fn a_message_that_arrives_while_spinning_is_received() {
        let (sender, messages) = unbounded();
        // The clock stands still, so the queue spins `SPINS` times and then sleeps.
        let mut command_queue = queue_that_expects_next(messages, Arc::new(ManualClock::default()));
        let sending = thread::spawn(move || {
            thread::sleep(Duration::from_micros(50));
            sender.send(WriterMessage::Drain).unwrap();
            sender
        });
        let message = command_queue.wait(Timestamp::from_micros(10_000_000));
        assert!(matches!(message, Some(WriterMessage::Drain)));
        drop(sending.join());
    }

    #[test]
    fn spinning_ends_at_the_deadline_and_needs_a_single_quick_caller() {
        let clock = Arc::new(SystemClock::start());
        let (_sender, messages) = unbounded();
        let mut command_queue = queue_that_expects_next(messages, Arc::clone(&clock) as Arc<dyn Clock>);
        let until = clock.now().plus(Span::from_millis(2));
        assert!(command_queue.wait(until).is_none());
        assert!(clock.now() >= until);
        assert!(!command_queue.arrived_soon);
        command_queue.turn_done(1);
        assert!(!command_queue.expects_next, "it doesn't spin after a late message");
        command_queue.arrived_soon = true;
        command_queue.turn_done(2);
        assert!(!command_queue.expects_next, "it doesn't spin with several callers");
    }

    #[test]
    fn a_queue_without_senders_returns_close() {
        let (sender, messages) = unbounded();
        drop(sender);
        let mut command_queue = queue_that_expects_next(messages, Arc::new(ManualClock::default()));
        assert!(matches!(command_queue.wait(Timestamp::MAX), Some(WriterMessage::Close)));
        assert!(command_queue.take().is_none() && command_queue.is_empty());
    }
}
