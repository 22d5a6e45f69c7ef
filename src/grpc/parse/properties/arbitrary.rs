//! [`ArbitraryFields`]: request fields made of random numbers.

use std::collections::BTreeMap;

use prost_types::Duration;

use crate::proto::{CompensationSpec, CreateSagaRequest, Policy};

/// Makes request fields out of random numbers: valid ones, absent ones, and each kind of invalid one.
///
/// Half of the requests are valid except for a field here and there; otherwise hardly any would get past the parser.
pub struct ArbitraryFields {
    numbers: std::vec::IntoIter<u64>,
    valid: bool,
}

impl ArbitraryFields {
    pub fn new(numbers: Vec<u64>) -> Self {
        let mut arbitrary = ArbitraryFields { numbers: numbers.into_iter(), valid: false };
        arbitrary.valid = arbitrary.flag();
        arbitrary
    }

    /// Whether the next field gets an ordinary value.
    fn ordinary(&mut self) -> bool {
        self.valid && self.next_below(8) != 7
    }

    fn next_below(&mut self, bound: u64) -> u64 {
        self.numbers.next().unwrap_or(0) % bound
    }

    pub fn text(&mut self) -> String {
        if self.ordinary() {
            return "t".to_owned();
        }
        const TEXTS: [&str; 14] = [
            "",
            "t",
            "task-1",
            "a/b@c",
            "-",
            "..",
            "a..b",
            "ä",
            " ",
            "\0",
            "\u{202e}x",
            "0190d7f0-0000-7000-8000-000000000000",
            "%",
            "a\nb",
        ];
        match self.next_below(16) {
            14 => "x".repeat(201 + self.next_below(5000) as usize),
            15 => "💥".repeat(self.next_below(20_000) as usize),
            i => TEXTS[i as usize].to_owned(),
        }
    }

    /// A field that is usually absent and needs a special form: a `request_id`, a page token.
    pub fn absent(&mut self) -> String {
        if self.ordinary() { String::new() } else { self.text() }
    }

    pub fn texts(&mut self) -> Vec<String> {
        (0..self.count()).map(|_| self.text()).collect()
    }

    pub fn count(&mut self) -> u64 {
        if self.ordinary() {
            return 1;
        }
        [0, 1, 2, 5, 130][self.next_below(5) as usize]
    }

    pub fn number(&mut self) -> i64 {
        if self.ordinary() {
            return 1;
        }
        [0, 1, -1, 2, 7, 100, 1001, i64::MIN, i64::MAX, 1 << 53, (1 << 53) - 1][self.next_below(11) as usize]
    }

    pub fn small(&mut self) -> i32 {
        if self.ordinary() {
            return 1;
        }
        [0, 1, -1, 2, 3, 5, 8, 9, 101, i32::MIN, i32::MAX][self.next_below(11) as usize]
    }

    pub fn smalls(&mut self) -> Vec<i32> {
        (0..self.count()).map(|_| self.small()).collect()
    }

    pub fn length(&mut self) -> Option<Duration> {
        match self.next_below(6) {
            0 => None,
            1 => Some(Duration { seconds: 30, nanos: 0 }),
            // A little too long for a lease, and for a delay.
            2 => Some(Duration { seconds: 24 * 3600 + 1, nanos: 0 }),
            3 => Some(Duration { seconds: 30 * 24 * 3600, nanos: 1000 }),
            _ => Some(Duration { seconds: self.number(), nanos: self.small().wrapping_mul(100_000_001) }),
        }
    }

    pub fn bytes(&mut self) -> bytes::Bytes {
        vec![7; [0, 3, 65_536, 65_537][self.next_below(4) as usize]].into()
    }

    pub fn pairs(&mut self) -> BTreeMap<String, String> {
        (0..self.count()).map(|_| (self.text(), self.text())).collect()
    }

    pub fn specs(&mut self) -> Vec<CompensationSpec> {
        (0..self.count())
            .map(|_| CompensationSpec { kind: self.text(), target: self.text(), reason: self.text() })
            .collect()
    }

    pub fn flag(&mut self) -> bool {
        self.next_below(2) == 1
    }

    pub fn policy(&mut self) -> Option<Policy> {
        self.flag().then(|| Policy {
            on_stale: self.small(),
            max_expirations: self.small(),
            on_failure: self.small(),
            max_attempts: self.small(),
            retry_backoff: self.length(),
            retry_backoff_max: self.length(),
            execution_timeout: self.length(),
            progress_timeout: self.length(),
            settle: self.length(),
            compensation_timeout: self.length(),
        })
    }

    pub fn create(&mut self) -> CreateSagaRequest {
        CreateSagaRequest {
            task_id: self.text(),
            saga_id: self.text(),
            queue: self.text(),
            priority: self.small(),
            issue: Some(self.number()),
            branch: self.text(),
            worktree: self.text(),
            labels: self.pairs(),
            payload: self.bytes(),
            compensations: self.specs(),
            policy: self.policy(),
            delay: self.length(),
            retry_of: self.text(),
            request_id: self.absent(),
        }
    }
}
