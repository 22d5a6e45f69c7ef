//! [`PromiseChecker`]: verifies the promises from the history, the answers, and its own record of leases. It shares no code with
//! the rules except their types.

use std::collections::{HashMap, HashSet};

use sagad::{
    domain::{
        command::{Answer, Command, Holder, HolderOperation, Operation, Request, UnleasedOperation},
        compensation::CompensationSpec,
        event::{Event, EventType},
        ids::{FencingToken, OwnerId, Revision, TaskId},
        lease::RestartGrace,
        rejection::Rejection,
        saga::{Saga, State},
        time::Timestamp,
    },
    store::{CallOutcome, StoreError, memory::StoredData},
};

/// The last lease of a saga, until something ends it.
struct LeaseRecord {
    owner: OwnerId,
    token: FencingToken,
    /// When it was last renewed: the arrival time of the claim or heartbeat.
    renewed: Timestamp,
    expire: Timestamp,
    /// The true time of the renewal.
    renewed_true: i64,
    reported: bool,
}

/// One saga, as known from the history and the answers.
struct SagaRecord {
    state: State,
    last_token: FencingToken,
    lease: Option<LeaseRecord>,
    /// By position: whether the compensation is settled.
    settled: Vec<bool>,
    revision: Revision,
    /// The acknowledged revision, and the acknowledged lease with its expiry.
    acknowledged: Revision,
    promised: Option<(FencingToken, Timestamp)>,
    /// The operations of earlier leases, to recognize repeats.
    done: Vec<(FencingToken, String)>,
}

/// One executed command: its time, its outcome, and the events it made.
pub struct ExecutedCommand<'a> {
    pub request: &'a Request,
    pub outcome: &'a CallOutcome,
    pub events: &'a [Event],
    pub now: Timestamp,
    /// The true time of `now`.
    pub true_time: i64,
}

/// How often each kind of event happened: each has to happen in a long simulation.
#[derive(Clone, Debug, Default)]
pub struct EventCounts {
    pub commands: u64,
    pub refused: u64,
    pub events: u64,
    pub claims: u64,
    pub heartbeats: u64,
    pub repeats: u64,
    pub replays: u64,
    pub expired: u64,
    pub late: u64,
    pub revoked: u64,
    /// Sagas that were purged.
    pub purged: u64,
    pub by_state: HashMap<&'static str, u64>,
    pub by_refusal: HashMap<String, u64>,
}

#[derive(Default)]
pub struct PromiseChecker {
    index: HashMap<TaskId, usize>,
    sagas: Vec<SagaRecord>,
    head: Revision,
    newest: Timestamp,
    requests: HashSet<[u8; 16]>,
    /// Every event that was committed, in order.
    history: Vec<Event>,
    /// Live leases that were ended by an operator: their holders may not know it yet.
    pub revoked: HashSet<FencingToken>,
    pub grace: RestartGrace,
    pub counts: EventCounts,
}

impl PromiseChecker {
    pub fn place(&self, task: &TaskId) -> Option<usize> {
        self.index.get(task).copied()
    }

    /// How many sagas were ever created.
    pub fn created_so_far(&self) -> usize {
        self.sagas.len()
    }

    /// The events after a revision, in order.
    pub fn after(&self, revision: Revision) -> &[Event] {
        &self.history[self.history.partition_point(|event| event.revision <= revision)..]
    }

    /// When a lease may count as expired.
    fn reaches(&self, held: &LeaseRecord) -> Timestamp {
        if held.reported {
            // An absence does not shorten a lease.
            return Timestamp::ZERO;
        }
        let RestartGrace { returned_at, length } = self.grace;
        if held.renewed < returned_at { held.expire.max(returned_at.plus(length)) } else { held.expire }
    }

    /// Checks a committed command, or a sweep.
    pub fn executed(&mut self, done: &ExecutedCommand<'_>) {
        self.counts.commands += 1;
        let mut others = 0;
        for event in done.events {
            self.event(event, done);
            others += u32::from(event.actor.as_ref().is_none_or(|actor| actor.as_str() != "sagad"));
        }
        match done.outcome {
            Ok(answer) => self.accepted(done, answer, others),
            Err(StoreError::Refused(refusal)) => {
                self.counts.refused += 1;
                assert_eq!(others, 0, "a refused command left events: {:?} {:?}", done.request, done.events);
                let name = format!("{:?}", refusal.why);
                let name = name.split([' ', '(', '{']).next().unwrap_or_default().to_owned();
                *self.counts.by_refusal.entry(name).or_default() += 1;
                if refusal.why == Rejection::RequestIdReused {
                    assert!(done.request.key.is_some());
                }
            }
            Err(other) => panic!("a committed command was answered with {other:?}"),
        }
    }

    /// Checks held calls that were answered: the events of all of them, then the answers.
    pub fn served(&mut self, served: &[(Request, CallOutcome)], events: &[Event], now: Timestamp, true_time: i64) {
        let Some((first, _)) = served.first() else {
            return self.swept(events, now, true_time, false);
        };
        let outcome = Ok(Answer::Sagas(Vec::new()));
        let done = ExecutedCommand { request: first, outcome: &outcome, events, now, true_time };
        events.iter().for_each(|event| self.event(event, &done));
        let mut claims = events.iter().filter(|event| event.kind == EventType::Claimed).count();
        for (request, outcome) in served {
            let Ok(answer @ Answer::Sagas(sagas)) = outcome else { panic!("{outcome:?}") };
            let used = request.key.is_some_and(|key| self.requests.contains(&key.id));
            if !used {
                claims -= sagas.len();
            }
            self.accepted(&ExecutedCommand { request, outcome, events: &[], now, true_time }, answer, 0);
        }
        assert_eq!(claims, 0, "a request_id took effect twice: {served:?}");
    }

    /// Checks a sweep: it does only what is due.
    pub fn swept(&mut self, events: &[Event], now: Timestamp, true_time: i64, complete: bool) {
        let request = Request { command: Command::Create(Vec::new()), key: None, by: None };
        let outcome = Ok(Answer::Sagas(Vec::new()));
        let done = ExecutedCommand { request: &request, outcome: &outcome, events, now, true_time };
        for event in events {
            assert!(event.actor.as_ref().is_some_and(|actor| actor.as_str() == "sagad"), "a sweep decides: {event:?}");
            self.event(event, &done);
        }
        if complete {
            let overdue = |record: &&SagaRecord| {
                record.lease.as_ref().is_some_and(|held| !held.reported && self.reaches(held) <= now)
            };
            assert!(self.sagas.iter().filter(overdue).count() == 0, "P6: a due lease was not reported by the sweep");
        }
    }

    fn event(&mut self, event: &Event, done: &ExecutedCommand<'_>) {
        self.counts.events += 1;
        self.history.push(event.clone());
        assert!(event.revision > self.head, "revisions only grow: {} after {}", event.revision, self.head);
        assert!(event.time >= self.newest, "time goes back: {} after {}", event.time, self.newest);
        (self.head, self.newest) = (event.revision, event.time);
        if event.kind == EventType::Created {
            return self.created(event);
        }
        let place = self.index[&event.task_id];
        let record = &self.sagas[place];
        assert_eq!(event.from_state, Some(record.state), "the history has no gaps: {event:?}");
        if record.state.is_terminal() {
            assert!(event.kind == EventType::Annotated, "a terminal saga changed: {event:?}");
        }
        match event.kind {
            EventType::Claimed => self.claimed(place, event, done),
            EventType::LeaseExpired => self.expired(place, event, done),
            EventType::CompensationRegistered => self.sagas[place].settled.push(false),
            EventType::CompensationSettled => self.settled(place, event),
            EventType::Released
            | EventType::Requeued
            | EventType::RetryScheduled
            | EventType::Compensating
            | EventType::Completed
            | EventType::Failed
            | EventType::Compensated
            | EventType::Quarantined => self.ended(place, event, done),
            EventType::Created
            | EventType::Dispatched
            | EventType::RecoveryDecided
            | EventType::CancelRequested
            | EventType::Annotated => {}
        }
        let record = &mut self.sagas[place];
        if event.to_state == State::Compensated {
            assert!(record.settled.iter().all(|settled| *settled), "compensated, but not all is settled: {event:?}");
        }
        if event.to_state != record.state && event.to_state.is_terminal() {
            *self.counts.by_state.entry(event.to_state.name()).or_default() += 1;
        }
        record.state = event.to_state;
        record.revision = event.revision;
    }

    fn created(&mut self, event: &Event) {
        let place = self.sagas.len();
        assert!(self.index.insert(event.task_id.clone(), place).is_none(), "created twice: {event:?}");
        let compensations = event.details["compensations"].parse().unwrap();
        self.sagas.push(SagaRecord {
            state: State::Planned,
            last_token: FencingToken(0),
            lease: None,
            settled: vec![false; compensations],
            revision: event.revision,
            acknowledged: Revision::ZERO,
            promised: None,
            done: Vec::new(),
        });
    }

    fn claimed(&mut self, place: usize, event: &Event, done: &ExecutedCommand<'_>) {
        self.counts.claims += 1;
        let token = event.token.expect("a claim has a token");
        assert_eq!(token, FencingToken::from(event.revision), "a token is its event's revision");
        let record = &self.sagas[place];
        assert!(token > record.last_token, "P9: tokens only grow: {token} after {}", record.last_token);
        if let Some(held) = &record.lease {
            assert!(held.reported, "P5: {} lost a lease that was not over: {event:?}", held.owner);
        }
        let owner = OwnerId::parse(event.actor.as_ref().unwrap().as_str()).unwrap();
        let (renewed, renewed_true) = (done.now, done.true_time);
        let record = &mut self.sagas[place];
        record.last_token = token;
        // The expiry is in the answer.
        record.lease =
            Some(LeaseRecord { owner, token, renewed, expire: Timestamp::MAX, renewed_true, reported: false });
    }

    fn expired(&mut self, place: usize, event: &Event, done: &ExecutedCommand<'_>) {
        self.counts.expired += 1;
        let held = self.sagas[place].lease.as_ref().expect("only a lease can expire");
        assert_eq!(event.token, Some(held.token));
        assert!(!held.reported, "expired twice: {event:?}");
        let until = self.reaches(held);
        assert!(event.time >= until, "P6: {} expired early, before {until}: {event:?}", held.owner);
        let length = held.expire.since(held.renewed).micros();
        assert!(
            done.true_time >= held.renewed_true + length,
            "P6: {} expired after {} of {length} us in true time",
            held.owner,
            done.true_time - held.renewed_true,
        );
        self.sagas[place].lease.as_mut().unwrap().reported = true;
    }

    fn settled(&mut self, place: usize, event: &Event) {
        let position: usize = event.details["position"].parse().unwrap();
        let settled = &mut self.sagas[place].settled;
        assert!(!settled[position - 1], "settled is final: {event:?}");
        if event.details["outcome"] != "FAILED" {
            let in_reverse = settled[position..].iter().all(|later| *later);
            assert!(in_reverse || event.details["outcome"] == "WAIVED", "undo runs in reverse: {event:?}");
            settled[position - 1] = true;
        }
    }

    fn ended(&mut self, place: usize, event: &Event, done: &ExecutedCommand<'_>) {
        let Some(held) = &self.sagas[place].lease else { return };
        let by_holder = event.actor.as_ref().is_some_and(|actor| actor.as_str() == held.owner.as_str());
        if !by_holder && done.now < self.reaches(held) {
            let revoked = match &done.request.command {
                Command::Change(change) => match &change.operation {
                    Operation::Unleased(
                        UnleasedOperation::Quarantine { revoke_lease, .. }
                        | UnleasedOperation::RequestCancel { revoke_lease, .. },
                    ) => *revoke_lease,
                    Operation::Unleased(_) | Operation::ByHolder(..) => false,
                },
                Command::Create(_) | Command::ClaimNext(_) | Command::SetPaused(_) | Command::Purge(_) => false,
            };
            assert!(revoked, "P5: a live lease of {} was ended: {event:?}", held.owner);
            self.counts.revoked += 1;
            self.revoked.insert(held.token);
        }
        self.sagas[place].lease = None;
    }

    fn accepted(&mut self, done: &ExecutedCommand<'_>, answer: &Answer, others: u32) {
        if let Some(key) = done.request.key {
            let sagas = match answer {
                Answer::Sagas(sagas) => !sagas.is_empty(),
                Answer::Saga(_) => others > 0,
                Answer::Lease(_) | Answer::Queue(_) | Answer::Purged(_) => false,
            };
            if self.requests.contains(&key.id) {
                self.counts.replays += 1;
                assert_eq!(others, 0, "a request_id took effect twice: {:?} {:?}", done.request, done.events);
            } else if sagas {
                self.requests.insert(key.id);
            }
        }
        match &done.request.command {
            Command::Change(change) => {
                let place = self.index[&change.task_id];
                if let Operation::ByHolder(holder, operation) = &change.operation {
                    self.accepted_of_lease(place, holder, operation, done, others);
                }
                match answer {
                    Answer::Saga(saga) => self.renewed(place, saga, done),
                    Answer::Lease(answer) => self.extended(place, answer.lease.expire_time, done),
                    Answer::Sagas(_) | Answer::Queue(_) | Answer::Purged(_) => panic!("{answer:?}"),
                }
            }
            Command::ClaimNext(wish) => {
                let Answer::Sagas(sagas) = answer else { panic!("{answer:?}") };
                for saga in sagas {
                    let place = self.index[saga.task_id()];
                    let lease = saga.lease.as_ref().expect("claimed");
                    assert_eq!(lease.owner, wish.owner);
                    assert_eq!(lease.token, self.sagas[place].last_token, "P5: an answer gives a lease that is over");
                    self.renewed(place, saga, done);
                }
            }
            Command::Purge(purge) => {
                let Answer::Purged(purged) = answer else { panic!("{answer:?}") };
                assert!(purged.sagas <= purge.max_sagas && purged.through <= self.head);
                self.counts.purged += if purge.validate_only { 0 } else { purged.sagas as u64 };
            }
            Command::Create(_) | Command::SetPaused(_) => {}
        }
    }

    /// P5: an operation is accepted only under the last lease; under an earlier one, only as a repeat.
    fn accepted_of_lease(
        &mut self,
        place: usize,
        holder: &Holder,
        operation: &HolderOperation,
        done: &ExecutedCommand<'_>,
        others: u32,
    ) {
        let name = fingerprint(operation);
        let reaches = self.sagas[place].lease.as_ref().map(|held| self.reaches(held));
        let record = &mut self.sagas[place];
        let heartbeat = matches!(operation, HolderOperation::Heartbeat { .. });
        if others > 0 || heartbeat {
            assert_eq!(holder.token, record.last_token, "P5: accepted from a lease that is over: {:?}", done.request);
            if let (Some(reaches), false) = (reaches, accepted_late(operation)) {
                assert!(done.now < reaches, "accepted from an expired lease: {:?}", done.request);
            }
            if heartbeat {
                let held = record.lease.as_ref().expect("a heartbeat is for a lease that stands");
                assert!(held.owner == holder.owner && !held.reported, "{:?}", done.request);
                self.counts.heartbeats += 1;
            } else {
                self.counts.late += u64::from(reaches.is_some_and(|reaches| done.now >= reaches));
                record.done.push((holder.token, name));
                // A failure registers its compensations, so registering them later is a repeat.
                if let HolderOperation::Fail { compensations, .. } = operation {
                    let register = |spec: &CompensationSpec| (holder.token, registering(std::slice::from_ref(spec)));
                    record.done.extend(compensations.iter().map(register));
                }
            }
        } else {
            self.counts.repeats += 1;
            // The current lease may register again what an earlier lease registered.
            let known =
                matches!(operation, HolderOperation::RegisterCompensation { .. }) && holder.token == record.last_token;
            assert!(
                known || record.done.iter().any(|(token, earlier)| *token == holder.token && *earlier == name),
                "accepted as a repeat of what was never done: {:?}",
                done.request
            );
        }
    }

    /// Records the expiry of the lease in an answer.
    fn renewed(&mut self, place: usize, saga: &Saga, done: &ExecutedCommand<'_>) {
        let record = &mut self.sagas[place];
        assert_eq!((saga.state, saga.revision), (record.state, record.revision), "an answer is the saga as it is");
        if let (Some(held), Some(lease)) = (&mut record.lease, &saga.lease)
            && held.expire == Timestamp::MAX
        {
            assert_eq!((held.token, &held.owner), (lease.token, &lease.owner));
            assert!(lease.expire_time > done.now, "a lease never ends where it begins");
            held.expire = lease.expire_time;
        }
    }

    fn extended(&mut self, place: usize, expire: Timestamp, done: &ExecutedCommand<'_>) {
        let held = self.sagas[place].lease.as_mut().expect("extended");
        assert!(expire >= held.expire, "a heartbeat shortens no lease");
        (held.expire, held.renewed, held.renewed_true) = (expire, done.now, done.true_time);
    }

    /// An answer is sent: from now on the client may rely on it.
    pub fn acknowledged(&mut self, outcome: &CallOutcome, task: Option<&TaskId>) {
        let Ok(answer) = outcome else { return };
        match answer {
            Answer::Saga(saga) => self.promise(saga),
            Answer::Sagas(sagas) => sagas.iter().for_each(|saga| self.promise(saga)),
            Answer::Lease(answer) => {
                let place = task.and_then(|task| self.place(task)).expect("a heartbeat is for a saga");
                self.sagas[place].promised = Some((answer.lease.token, answer.lease.expire_time));
            }
            Answer::Queue(_) | Answer::Purged(_) => {}
        }
    }

    fn promise(&mut self, saga: &Saga) {
        let place = self.index[saga.task_id()];
        let record = &mut self.sagas[place];
        record.acknowledged = record.acknowledged.max(saga.revision);
        if let Some(lease) = &saga.lease {
            let promised = record.promised.filter(|(token, _)| *token >= lease.token);
            let until = promised.map_or(lease.expire_time, |(_, until)| until.max(lease.expire_time));
            record.promised = Some((lease.token, until));
        }
    }

    /// P1: the stored data agrees with the acknowledged answers and the history. Checked after a crash and from time to time.
    pub fn compare(&self, facts: &StoredData) {
        assert_eq!(
            facts.len() + self.counts.purged as usize,
            self.sagas.len(),
            "sagas were lost or appeared without a creation"
        );
        let there: HashSet<_> = facts.sagas().map(Saga::task_id).collect();
        let mut gone = self.index.iter().filter(|(id, _)| !there.contains(id)).map(|(_, place)| &self.sagas[*place]);
        assert!(gone.all(|record| record.state.is_terminal()), "a saga was purged that had not ended");
        for saga in facts.sagas() {
            let record = &self.sagas[self.index[saga.task_id()]];
            let id = saga.task_id();
            assert!(saga.revision >= record.acknowledged, "P1: an acknowledged change of {id:?} is lost");
            assert_eq!((saga.state, saga.revision), (record.state, record.revision), "{id:?}");
            let settled: Vec<bool> = saga.compensations.iter().map(|c| c.is_settled()).collect();
            assert_eq!(settled, record.settled, "{id:?}");
            if let (Some((token, until)), Some(lease)) = (record.promised, &saga.lease) {
                assert!(lease.token >= token, "P1: an acknowledged lease of {id:?} is lost");
                assert!(lease.token > token || lease.expire_time >= until, "P1: an acknowledged heartbeat is lost");
            }
            let stale = record.lease.as_ref().is_some_and(|held| held.reported) && !record.state.is_terminal();
            assert_eq!(saga.reported_stale().is_some(), stale, "{id:?}");
        }
    }
}

fn accepted_late(operation: &HolderOperation) -> bool {
    !matches!(
        operation,
        HolderOperation::Heartbeat { .. }
            | HolderOperation::Release { .. }
            | HolderOperation::RegisterCompensation { .. }
    )
}

fn registering(specs: &[CompensationSpec]) -> String {
    format!("register {specs:?}")
}

/// A text that is equal for a call under a lease and its repeats.
fn fingerprint(operation: &HolderOperation) -> String {
    match operation {
        HolderOperation::Heartbeat { .. } => "heartbeat".into(),
        HolderOperation::Release { .. } => "release".into(),
        HolderOperation::RegisterCompensation { compensations } => registering(compensations),
        HolderOperation::Complete { result, .. } => format!("complete {result:?}"),
        HolderOperation::Fail { .. } => "fail".into(),
        HolderOperation::RecordCompensation { position, outcome, .. } => format!("record {position} {outcome:?}"),
        HolderOperation::Compensate { .. } => "compensate".into(),
        HolderOperation::Quarantine { .. } => "quarantine".into(),
    }
}
