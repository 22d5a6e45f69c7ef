//! The recorder: calls with their times, as they are written to a file and read back.

use std::{
    io::{self, BufRead, Write},
    sync::{Arc, Mutex},
    time::Instant,
};

use serde::{Deserialize, Serialize};

/// What a lease is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    #[default]
    Execute,
    Compensate,
}

/// What was asked of one saga.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "op")]
pub enum Op {
    /// With one compensation, at position 1, and to be undone when it fails.
    Create,
    /// A lease of so many microseconds. One by `ClaimNext` has no saga until it is answered; so it is recorded under the
    /// one that it got, or under none (see [`Open::of`]).
    Claim {
        ttl_us: i64,
        #[serde(default)]
        purpose: Purpose,
    },
    Heartbeat {
        token: i64,
    },
    Release {
        token: i64,
    },
    Complete {
        token: i64,
        result: String,
    },
    /// One more compensation, which nobody else registers.
    Register {
        token: i64,
    },
    /// For good: it is to be undone.
    Fail {
        token: i64,
    },
    /// How an attempt to undo went; a failed one is recorded once under a lease.
    Record {
        token: i64,
        position: i32,
        done: bool,
    },
    Compensate {
        token: i64,
    },
    /// A look at it.
    Get,
}

impl Op {
    /// The lease that it names.
    pub fn token(&self) -> Option<i64> {
        match self {
            Op::Heartbeat { token }
            | Op::Release { token }
            | Op::Complete { token, .. }
            | Op::Register { token }
            | Op::Fail { token }
            | Op::Record { token, .. }
            | Op::Compensate { token } => Some(*token),
            Op::Create | Op::Claim { .. } | Op::Get => None,
        }
    }

    /// Whether the lease is given back with it, one way or the other.
    pub fn ends_lease(&self) -> bool {
        match self {
            Op::Release { .. } | Op::Complete { .. } | Op::Fail { .. } | Op::Compensate { .. } => true,
            Op::Create
            | Op::Claim { .. }
            | Op::Heartbeat { .. }
            | Op::Register { .. }
            | Op::Record { .. }
            | Op::Get => false,
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Outcome {
    /// Accepted: the saga's state, its last lease's token and its revision in the answer (0: not told).
    Ok {
        state: String,
        #[serde(rename = "answered_token")]
        token: i64,
        revision: i64,
    },
    /// Refused with this reason: it did not happen.
    Refused { reason: String },
    /// It may have happened, may yet happen, or never will.
    Unknown,
}

/// One call.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Call {
    pub task: String,
    pub owner: String,
    #[serde(flatten)]
    pub op: Op,
    /// When it was first sent, in microseconds since the recording began.
    pub start_us: i64,
    /// When its last answer came; for one whose outcome is unknown, when its caller gave up.
    pub end_us: i64,
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// A call that is under way.
#[must_use]
pub struct Open {
    task: String,
    owner: String,
    op: Op,
    start_us: i64,
}

impl Open {
    /// The same, now that it is known which saga it was about.
    pub fn of(self, task: &str) -> Self {
        Open { task: task.into(), ..self }
    }
}

/// Takes calls down, from any number of threads.
#[derive(Clone)]
pub struct Recorder {
    began: Instant,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Recorder {
    #[allow(clippy::disallowed_methods, reason = "a record of real calls has real times")]
    pub fn start() -> Self {
        Recorder { began: Instant::now(), calls: Arc::default() }
    }

    /// Microseconds since the recording began.
    pub fn now_us(&self) -> i64 {
        self.began.elapsed().as_micros() as i64
    }

    /// To be called before the call is first sent.
    pub fn begin(&self, task: &str, owner: &str, op: Op) -> Open {
        Open { task: task.into(), owner: owner.into(), op, start_us: self.now_us() }
    }

    /// To be called once what came of it is known, or will not be.
    pub fn end(&self, open: Open, outcome: Outcome) {
        let Open { task, owner, op, start_us } = open;
        let call = Call { task, owner, op, start_us, end_us: self.now_us(), outcome };
        self.calls.lock().unwrap().push(call);
    }

    /// All that has ended so far.
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }
}

/// Writes calls as JSON lines.
pub fn write(calls: &[Call], mut to: impl Write) -> io::Result<()> {
    for call in calls {
        writeln!(to, "{}", serde_json::to_string(call)?)?;
    }
    Ok(())
}

/// Reads them back.
pub fn read(from: impl BufRead) -> io::Result<Vec<Call>> {
    from.lines().map(|line| Ok(serde_json::from_str(&line?)?)).collect()
}
