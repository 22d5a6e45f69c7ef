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

use super::handle::Message;

/// How long the writer spins before it sleeps: a little longer than a round trip on one machine.
const LOOKING: Span = match Span::from_micros(200) {
    Some(span) => span,
    None => Span::ZERO,
};
/// Most iterations of the spin, in case the clock stands still.
const LOOKS: usize = 20_000;

/// The receiving end of the queue.
pub(super) struct Inbox {
    messages: Receiver<Message>,
    clock: Arc<dyn Clock>,
    /// True if the last turn was one change that arrived soon after the turn before; then the next one may, too.
    brisk: bool,
    /// True if the last message arrived soon.
    soon: bool,
    /// False with one processor: nobody could send while the writer spins.
    may_look: bool,
}

impl Inbox {
    pub(super) fn new(messages: Receiver<Message>, clock: Arc<dyn Clock>) -> Self {
        let may_look = std::thread::available_parallelism().is_ok_and(|processors| processors.get() > 1);
        Inbox { messages, clock, brisk: false, soon: false, may_look }
    }

    /// Waits for a message until `until`. If all senders are gone, returns [`Message::Close`].
    pub(super) fn wait(&mut self, until: Timestamp) -> Option<Message> {
        let began = self.clock.now();
        let message = match self.look(until.min(began.plus(LOOKING))) {
            Some(message) => Some(message),
            None => self.sleep(until),
        };
        // Waking up takes about as long as the spin.
        self.soon = self.clock.now() < began.plus(LOOKING).plus(LOOKING);
        message
    }

    /// A message that is already queued.
    pub(super) fn take(&self) -> Option<Message> {
        self.messages.try_recv().ok()
    }

    /// Refuses all further messages until all senders are gone. Otherwise a message sent just before the receiver was
    /// dropped would stay in the channel, and its caller would wait as long as there are senders.
    pub(super) fn refuse_until_nobody_is_left(self) {
        self.messages.into_iter().for_each(Message::refuse);
    }

    /// True if no message waits.
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Records how many changes the turn had that started with the last message.
    pub(super) fn turned(&mut self, changes: usize) {
        self.brisk = self.may_look && self.soon && changes == 1;
    }

    fn look(&self, until: Timestamp) -> Option<Message> {
        if !self.brisk {
            return None;
        }
        for _ in 0..LOOKS {
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

    fn sleep(&self, until: Timestamp) -> Option<Message> {
        let left = until.since(self.clock.now()).to_std();
        // At least a microsecond, so that queued messages come before what is due.
        match self.messages.recv_timeout(left.max(std::time::Duration::from_micros(1))) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Message::Close),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use crossbeam_channel::unbounded;

    use super::*;
    use crate::clock::{ManualClock, SystemClock};

    fn brisk(messages: Receiver<Message>, clock: Arc<dyn Clock>) -> Inbox {
        let mut inbox = Inbox::new(messages, clock);
        inbox.may_look = true;
        inbox.soon = true;
        inbox.turned(1);
        assert!(inbox.brisk);
        inbox
    }

    #[test]
    fn a_message_that_comes_while_it_looks_is_taken() {
        let (sender, messages) = unbounded();
        // The clock stands still: it spins the most iterations, then sleeps.
        let mut inbox = brisk(messages, Arc::new(ManualClock::default()));
        let sending = thread::spawn(move || {
            thread::sleep(Duration::from_micros(50));
            sender.send(Message::Drain).unwrap();
            sender
        });
        let message = inbox.wait(Timestamp::from_micros(10_000_000));
        assert!(matches!(message, Some(Message::Drain)));
        drop(sending.join());
    }

    #[test]
    fn it_looks_no_further_than_it_is_to_wait_and_sleeps_when_nobody_is_brisk() {
        let clock = Arc::new(SystemClock::start());
        let (_sender, messages) = unbounded();
        let mut inbox = brisk(messages, Arc::clone(&clock) as Arc<dyn Clock>);
        let until = clock.now().plus(Span::from_millis(2));
        assert!(inbox.wait(until).is_none());
        assert!(clock.now() >= until);
        assert!(!inbox.soon);
        inbox.turned(1);
        assert!(!inbox.brisk, "what came late is not awaited awake");
        inbox.soon = true;
        inbox.turned(2);
        assert!(!inbox.brisk, "with several callers there is something to do anyway");
    }

    #[test]
    fn without_anybody_who_could_ask_it_is_to_close() {
        let (sender, messages) = unbounded();
        drop(sender);
        let mut inbox = brisk(messages, Arc::new(ManualClock::default()));
        assert!(matches!(inbox.wait(Timestamp::MAX), Some(Message::Close)));
        assert!(inbox.take().is_none() && inbox.is_empty());
    }
}
