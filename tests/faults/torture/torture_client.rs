//! [`TortureClient`]: a client with its own sagas and a record of them. It records each call before it is sent, and the answer
//! after it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use sagad::proto::*;

use super::{
    op::{Answer, Op},
    random_ops,
};
use crate::support::{self, Sagas};

/// The number of sagas that a client works on at once.
const ACTIVE: usize = 12;

/// A client with its record.
pub struct TortureClient {
    pub owner: String,
    pub queue: String,
    rng: StdRng,
    made: u32,
    active: Vec<String>,
    /// Each saga as it was last acknowledged.
    pub known: HashMap<String, Saga>,
    /// The call that was sent and not answered.
    pub pending: Option<Op>,
    /// How often each call was acknowledged, and how often it was refused.
    pub acknowledged: BTreeMap<&'static str, u64>,
    pub refused: BTreeMap<String, u64>,
    /// The highest revision that any client has received.
    highest: Arc<AtomicI64>,
}

impl TortureClient {
    pub fn new(seed: u64, number: usize, highest: Arc<AtomicI64>) -> Self {
        TortureClient {
            owner: format!("owner-{number}"),
            queue: format!("queue-{number}"),
            rng: StdRng::seed_from_u64(seed ^ (number as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)),
            made: 0,
            active: Vec::new(),
            known: HashMap::new(),
            pending: None,
            acknowledged: BTreeMap::new(),
            refused: BTreeMap::new(),
            highest,
        }
    }

    /// Makes calls until the daemon has ended.
    pub async fn work(mut self, address: std::net::SocketAddr) -> Self {
        let Ok(channel) = support::channel(address).await else { return self };
        let mut sagas = Sagas::new(channel);
        while self.pending.is_none() {
            let op = self.choose();
            self.call(&mut sagas, op).await;
        }
        self
    }

    /// Makes one call and records it.
    async fn call(&mut self, sagas: &mut Sagas, op: Op) {
        let told_before = self.highest.load(Ordering::SeqCst);
        self.pending = Some(op.clone());
        match op.send(sagas).await {
            Ok(answer) => {
                self.check_growth(&op, &answer, told_before);
                self.acknowledge(&op, answer);
                self.pending = None;
            }
            // An error with a reason of the daemon says that the call did not happen, which is verified later.
            Err(status) => match support::reason(&status).as_str() {
                "" | "OUTCOME_UNKNOWN" => {}
                reason => {
                    let what = format!("{}: {reason}", op.name());
                    assert!(!what.ends_with("INVALID_ARGUMENT"), "the test makes no bad requests: {status:?} {op:?}");
                    *self.refused.entry(what).or_default() += 1;
                    self.pending = None;
                    let stuck = self.refused.values().sum::<u64>() > 100 + self.acknowledged.values().sum::<u64>();
                    assert!(!stuck, "more calls are refused than accepted: {:?}", self.refused);
                }
            },
        }
    }

    /// A changed saga must have a revision above all that any client had received before the call.
    fn check_growth(&self, op: &Op, answer: &Answer, told_before: i64) {
        let Answer::Sagas(sagas) = answer else { return };
        for saga in sagas {
            // Such a call may be accepted without a change.
            let repeated = matches!(op, Op::Cancel(_) | Op::Register(_) | Op::Release(_) | Op::Record(_));
            assert!(
                saga.revision > told_before || repeated,
                "{} returned revision {}, although {told_before} was assigned before",
                op.name(),
                saga.revision
            );
            if matches!(op, Op::Claim(_) | Op::ClaimNext(..)) {
                let token = saga.lease.as_ref().map_or(0, |lease| lease.fencing_token);
                assert!(token > told_before, "token {token} is not above {told_before}");
            }
        }
    }

    /// Records an answer.
    fn acknowledge(&mut self, op: &Op, answer: Answer) {
        *self.acknowledged.entry(op.name()).or_default() += 1;
        match answer {
            Answer::Sagas(sagas) => {
                for saga in sagas {
                    self.highest.fetch_max(saga.revision, Ordering::SeqCst);
                    self.learn(saga);
                }
            }
            Answer::Lease(lease) => {
                let Op::Heartbeat(request) = op else { unreachable!("only heartbeats are answered with a lease") };
                let saga = self.known.get_mut(&request.task_id).expect("the saga is this client's");
                saga.lease = Some(lease);
                if let Some(progress) = &request.progress {
                    saga.progress = progress.clone();
                }
            }
        }
    }

    /// Records the present state of a saga.
    pub fn learn(&mut self, saga: Saga) {
        let task_id = saga.task_id.clone();
        let terminal = saga.end_time.is_some();
        let new = self.known.insert(task_id.clone(), saga).is_none();
        if new && !terminal {
            self.active.push(task_id);
        }
    }

    fn choose(&mut self) -> Op {
        if self.active.len() < ACTIVE / 2 || self.active.len() < ACTIVE && self.rng.random_bool(0.3) {
            return self.make();
        }
        let place = self.rng.random_range(0..self.active.len());
        let task_id = self.active[place].clone();
        if self.known[&task_id].end_time.is_some() {
            self.active.swap_remove(place);
            if self.rng.random_bool(0.7) {
                return self.choose();
            }
        }
        let planned = |id: &&String| matches!(self.known[*id].state(), SagaState::Planned | SagaState::Dispatched);
        let planned: Vec<String> = self.active.iter().filter(planned).cloned().collect();
        random_ops::change(&mut self.rng, &self.known[&task_id], &self.owner, &planned)
    }

    fn make(&mut self) -> Op {
        let one = |client: &mut TortureClient| {
            client.made += 1;
            let task_id = format!("{}-{}", client.owner, client.made);
            random_ops::create(&mut client.rng, &client.queue, task_id)
        };
        if self.rng.random_bool(0.8) {
            return Op::Create(one(self));
        }
        let requests = (0..self.rng.random_range(2..6))
            .map(|_| CreateSagaRequest { request_id: String::new(), ..one(self) })
            .collect();
        Op::Batch(BatchCreateSagasRequest { requests, request_id: random_ops::uuid(&mut self.rng) })
    }
}
