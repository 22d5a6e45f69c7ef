//! [`RefusalLog`]: limits how often refusals are logged, by caller. A refused caller can ask again as fast as it likes, and
//! must neither fill the disk nor hide other callers' refusals.

use std::{collections::HashMap, fmt, net::IpAddr, sync::Arc};

use parking_lot::Mutex;

use crate::{
    clock::Clock,
    domain::{
        principal::PrincipalName,
        time::{Span, Timestamp},
    },
};

/// Refusals per caller and reason that are logged in one window; the others are counted.
const LOGGED_PER_CALLER: u64 = 10;
/// Length of a window.
const WINDOW: Span = Span::from_secs(10);
/// Lines of all callers in a window: 20 a second, 400 MB a day if that goes on. The second half is for the first line of
/// each caller and reason, so that a few who are refused often don't use up all lines.
const LINES_PER_WINDOW: u64 = 200;
/// Most callers and reasons that are kept apart, more than a window has lines for: 128 KiB. The others are counted
/// together.
const KEYS_MAX: usize = 1024;

/// The caller that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RefusedCaller {
    Principal(PrincipalName),
    /// An unauthenticated peer at this address; for IPv6 its first 64 bits, because one host usually has a whole /64.
    Address(IpAddr),
    /// An unauthenticated peer on this machine, through a Unix socket.
    Local,
}

impl RefusedCaller {
    /// An unauthenticated peer.
    pub fn at(network: Option<IpAddr>) -> Self {
        network.map_or(RefusedCaller::Local, RefusedCaller::Address)
    }
}

impl fmt::Display for RefusedCaller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RefusedCaller::Principal(name) => write!(f, "{name}"),
            RefusedCaller::Address(address) => write!(f, "{address}"),
            RefusedCaller::Local => f.write_str("unix"),
        }
    }
}

/// How many refusals were not logged since the last one that was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SuppressedCount {
    /// Of the same caller for the same reason.
    pub own: u64,
    /// Of callers beyond [`KEYS_MAX`], for any reason.
    pub others: u64,
}

/// The log of refusals of one service.
pub struct RefusalLog {
    clock: Arc<dyn Clock>,
    refusals: Mutex<RefusalCounts>,
}

#[derive(Default)]
struct RefusalCounts {
    since: Option<Timestamp>,
    /// Lines in this window.
    lines: u64,
    by_caller: HashMap<(RefusedCaller, &'static str), CallerCount>,
    others_left_out: u64,
}

#[derive(Default)]
struct CallerCount {
    in_window: u64,
    /// Refusals that were not logged since the last one that was.
    left_out: u64,
}

impl RefusalLog {
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(RefusalLog { clock, refusals: Mutex::default() })
    }

    /// Records a refusal. Returns how many before it were not logged if this one should be, else none. Reasons are
    /// constants of the program, so there are few.
    pub fn record(&self, caller: RefusedCaller, reason: &'static str) -> Option<SuppressedCount> {
        self.refusals.lock().record(caller, reason, self.clock.now())
    }
}

impl RefusalCounts {
    fn record(&mut self, caller: RefusedCaller, reason: &'static str, now: Timestamp) -> Option<SuppressedCount> {
        if self.since.is_none_or(|since| now.since(since) >= WINDOW) {
            self.begin_window(now);
        }
        let key = (caller, reason);
        if self.by_caller.len() >= KEYS_MAX && !self.by_caller.contains_key(&key) {
            self.others_left_out += 1;
            return None;
        }
        let count = self.by_caller.entry(key).or_default();
        count.in_window += 1;
        let first = count.in_window == 1 && self.lines < LINES_PER_WINDOW;
        if first || (count.in_window <= LOGGED_PER_CALLER && self.lines < LINES_PER_WINDOW / 2) {
            self.lines += 1;
            let (own, others) = (std::mem::take(&mut count.left_out), std::mem::take(&mut self.others_left_out));
            return Some(SuppressedCount { own, others });
        }
        count.left_out += 1;
        None
    }

    /// Forgets callers that were not refused in the last window. Their unlogged refusals are added to the common count.
    fn begin_window(&mut self, now: Timestamp) {
        (self.since, self.lines) = (Some(now), 0);
        let others = &mut self.others_left_out;
        self.by_caller.retain(|_, count| {
            let stays = count.in_window > 0 && count.left_out > 0;
            if !stays {
                *others += count.left_out;
            }
            count.in_window = 0;
            stays
        });
        // A flood grows the table; give the memory back once it is over.
        self.by_caller.shrink_to(KEYS_MAX / 8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    fn from(number: u32) -> RefusedCaller {
        RefusedCaller::Address(std::net::Ipv4Addr::from(number).into())
    }

    fn left_out(own: u64, others: u64) -> Option<SuppressedCount> {
        Some(SuppressedCount { own, others })
    }

    #[test]
    fn a_flood_of_refusals_logs_a_few_lines_of_each_caller_and_reason() {
        let mut refusals = RefusalCounts::default();
        let logged = (0..1000).filter(|_| refusals.record(from(1), "A", at(100)).is_some()).count();
        assert_eq!(logged as u64, LOGGED_PER_CALLER);
        assert_eq!(refusals.record(from(1), "B", at(100)), left_out(0, 0), "another reason is not hidden by it");
        assert_eq!(refusals.record(from(2), "A", at(100)), left_out(0, 0), "nor is another caller");
        assert_eq!(refusals.record(from(1), "A", at(111)), left_out(990, 0), "what was left out is told with the next");
        assert_eq!(refusals.record(from(1), "A", at(111)), left_out(0, 0));
    }

    #[test]
    fn one_caller_with_many_reasons_does_not_suppress_others() {
        let mut refusals = RefusalCounts::default();
        let reasons: Vec<&'static str> = (0..40).map(|n: u32| &*Box::leak(format!("R{n}").into_boxed_str())).collect();
        for _ in 0..100 {
            for reason in &reasons {
                refusals.record(from(1), reason, at(0));
            }
        }
        assert!(refusals.lines < LINES_PER_WINDOW);
        assert_eq!(refusals.record(from(2), "R0", at(0)), left_out(0, 0));
    }

    #[test]
    fn p10_the_counts_of_many_addresses_are_bounded_and_complete() {
        let mut refusals = RefusalCounts::default();
        let (mut asked, mut told) = (0, 0);
        for (second, numbers) in [(0, 0..100_000), (10, 100_000..100_003), (20, 200_000..200_001)] {
            let mut lines = 0;
            for number in numbers {
                asked += 1;
                if let Some(SuppressedCount { own, others }) = refusals.record(from(number), "A", at(second)) {
                    (lines, told) = (lines + 1, told + 1 + own + others);
                }
            }
            assert!(lines <= LINES_PER_WINDOW);
            assert!(refusals.by_caller.len() <= KEYS_MAX);
        }
        assert_eq!(told, asked, "each was logged or counted");
        assert!(refusals.by_caller.capacity() < KEYS_MAX);
    }
}
