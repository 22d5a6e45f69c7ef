//! [`Recorder`]: records calls with their times, which are written to a file and read back.

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

/// An operation on one saga.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "op")]
pub enum RecordedOp {
    /// With one compensation, at position 1, and compensated on failure.
    Create,
    /// A lease of so many microseconds. A `ClaimNext` has no saga until it is answered, so it is recorded for the saga that
    /// it got, or for none (see [`OpenCall::of`]).
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
    /// One more compensation, which no other call registers.
    Register {
        token: i64,
    },
    /// A final failure, after which the saga is compensated.
    Fail {
        token: i64,
    },
    /// The outcome of a compensation; a failed one is recorded once under a lease.
    Record {
        token: i64,
        position: i32,
        done: bool,
    },
    Compensate {
        token: i64,
    },
    /// A read.
    Get,
}

impl RecordedOp {
    /// The lease that it names.
    pub fn token(&self) -> Option<i64> {
        match self {
            RecordedOp::Heartbeat { token }
            | RecordedOp::Release { token }
            | RecordedOp::Complete { token, .. }
            | RecordedOp::Register { token }
            | RecordedOp::Fail { token }
            | RecordedOp::Record { token, .. }
            | RecordedOp::Compensate { token } => Some(*token),
            RecordedOp::Create | RecordedOp::Claim { .. } | RecordedOp::Get => None,
        }
    }

    /// True if it ends the lease.
    pub fn ends_lease(&self) -> bool {
        match self {
            RecordedOp::Release { .. }
            | RecordedOp::Complete { .. }
            | RecordedOp::Fail { .. }
            | RecordedOp::Compensate { .. } => true,
            RecordedOp::Create
            | RecordedOp::Claim { .. }
            | RecordedOp::Heartbeat { .. }
            | RecordedOp::Register { .. }
            | RecordedOp::Record { .. }
            | RecordedOp::Get => false,
        }
    }
}

/// The outcome of a call.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum CallOutcome {
    /// Accepted: the saga's state, the token of its last lease, and its revision in the answer (0: none).
    Ok {
        state: String,
        #[serde(rename = "answered_token")]
        token: i64,
        revision: i64,
    },
    /// Refused with this reason: it did not happen.
    Refused { reason: String },
    /// Unknown: it may have happened, or may still happen.
    Unknown,
}

/// One call.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RecordedCall {
    pub task: String,
    pub owner: String,
    #[serde(flatten)]
    pub op: RecordedOp,
    /// The time of its first sending, in microseconds since the begin of the recording.
    pub start_us: i64,
    /// The time of its answer; with an unknown outcome, the time at which its caller gave up.
    pub end_us: i64,
    #[serde(flatten)]
    pub outcome: CallOutcome,
}

/// A call without an answer so far.
#[must_use]
pub struct OpenCall {
    task: String,
    owner: String,
    op: RecordedOp,
    start_us: i64,
}

impl OpenCall {
    /// The same call for this saga, once the saga is known.
    pub fn of(self, task: &str) -> Self {
        OpenCall { task: task.into(), ..self }
    }
}

/// Records calls from any number of threads.
#[derive(Clone)]
pub struct Recorder {
    began: Instant,
    calls: Arc<Mutex<Vec<RecordedCall>>>,
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

    /// Records the begin of a call, before it is sent.
    pub fn begin(&self, task: &str, owner: &str, op: RecordedOp) -> OpenCall {
        OpenCall { task: task.into(), owner: owner.into(), op, start_us: self.now_us() }
    }

    /// Records the outcome of a call.
    pub fn end(&self, open: OpenCall, outcome: CallOutcome) {
        let OpenCall { task, owner, op, start_us } = open;
        let call = RecordedCall { task, owner, op, start_us, end_us: self.now_us(), outcome };
        self.calls.lock().unwrap().push(call);
    }

    /// All recorded calls with an outcome.
    pub fn calls(&self) -> Vec<RecordedCall> {
        self.calls.lock().unwrap().clone()
    }
}

/// Writes calls as JSON lines.
pub fn write(calls: &[RecordedCall], mut to: impl Write) -> io::Result<()> {
    for call in calls {
        writeln!(to, "{}", serde_json::to_string(call)?)?;
    }
    Ok(())
}

/// Reads them back.
pub fn read(from: impl BufRead) -> io::Result<Vec<RecordedCall>> {
    from.lines().map(|line| Ok(serde_json::from_str(&line?)?)).collect()
}
