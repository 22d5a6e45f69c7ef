//! [`TestSaga`]: a saga with its history, on a clock that the test moves.

use sagad::domain::{
    command::{Creation, Holder, Operation},
    draft::Draft,
    event::{Event, EventType},
    ids::{FencingToken, QueueName, Revision, TaskId},
    lease::{Lease, RestartGrace},
    policy::Policy,
    rejection::Rejection,
    saga::{Saga, State},
    time::{Span, Timestamp},
    transition::{EarlierLease, TransitionEffect, apply_due, create, transition},
};

pub use crate::values::*;

/// When each test's saga is created.
pub const START: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);
/// How long a lease lasts unless a test says otherwise.
pub const TTL: Span = Span::from_secs(30);
/// A token that no lease in these tests gets.
pub const UNKNOWN_TOKEN: FencingToken = FencingToken(1 << 40);

/// The contract's name of a refusal.
pub fn reason(rejection: &Rejection) -> &'static str {
    match rejection {
        Rejection::SagaNotFound => "SAGA_NOT_FOUND",
        Rejection::CompensationNotFound { .. } => "COMPENSATION_NOT_FOUND",
        Rejection::QueueNotFound { .. } => "QUEUE_NOT_FOUND",
        Rejection::SagaExists { .. } => "SAGA_EXISTS",
        Rejection::RequestIdReused => "REQUEST_ID_REUSED",
        Rejection::SagaTerminal => "SAGA_TERMINAL",
        Rejection::LeaseHeld { .. } => "LEASE_HELD",
        Rejection::DispatchedElsewhere { .. } => "DISPATCHED_ELSEWHERE",
        Rejection::NotReady { .. } => "NOT_READY",
        Rejection::Settling { .. } => "SETTLING",
        Rejection::WrongState { .. } => "WRONG_STATE",
        Rejection::NotStale { .. } => "NOT_STALE",
        Rejection::CompensationRequired => "COMPENSATION_REQUIRED",
        Rejection::CompensationPending { .. } => "COMPENSATION_PENDING",
        Rejection::CompensationOrder { .. } => "COMPENSATION_ORDER",
        Rejection::CompensationLimit => "COMPENSATION_LIMIT",
        Rejection::LeaseNotExtended(_) => "LEASE_NOT_EXTENDED",
        Rejection::ExecutionTimeout(_) => "EXECUTION_TIMEOUT",
        Rejection::ProgressTimeout(_) => "PROGRESS_TIMEOUT",
        Rejection::LeaseExpired { .. } => "LEASE_EXPIRED",
        Rejection::LeaseSuperseded => "LEASE_SUPERSEDED",
        Rejection::NotOwner { .. } => "NOT_OWNER",
        Rejection::NoLease => "NO_LEASE",
        Rejection::NotPermitted { .. } => "PERMISSION_DENIED",
    }
}

#[derive(Clone, Debug)]
pub struct TestSaga {
    pub saga: Saga,
    pub now: Timestamp,
    pub grace: RestartGrace,
    /// The saga's whole history.
    pub events: Vec<Event>,
}

impl TestSaga {
    /// A planned saga with these compensations.
    pub fn with(policy: Policy, kinds: &[&str], delay: Span) -> Self {
        let creation = Creation {
            branch: text("fix"),
            worktree: text("/tmp/fix"),
            compensations: specs(kinds),
            policy,
            delay,
            ..Creation::new(TaskId::parse("task").unwrap(), QueueName::default())
        };
        let (saga, event) = create(creation, START, Revision(1));
        TestSaga { saga, now: START, grace: RestartGrace::default(), events: vec![event] }
    }

    /// A planned saga with two compensations: `worktree` at position 1, `branch` at position 2.
    pub fn new(policy: Policy) -> Self {
        Self::with(policy, &["worktree", "branch"], Span::ZERO)
    }

    /// A planned saga without compensations.
    pub fn bare(policy: Policy) -> Self {
        Self::with(policy, &[], Span::ZERO)
    }

    /// Executes a command as a store does: applies what is due, then the command. A command that is refused, or accepted as
    /// a repeat, must change nothing.
    pub fn attempt(&mut self, operation: &Operation) -> Result<TransitionEffect, Rejection> {
        let mut draft = self.draft();
        apply_due(&mut draft);
        let before = draft.clone();
        let outcome = transition(&mut draft, operation, self.earlier(operation).as_ref());
        if outcome != Ok(TransitionEffect::Changed) {
            assert_eq!(draft, before, "{operation:?} was answered with {outcome:?} but changed something");
        }
        self.commit(draft);
        outcome
    }

    /// A command that must be accepted and change something; returns the events of it and of what was due.
    pub fn ok(&mut self, operation: Operation) -> Vec<Event> {
        let known = self.events.len();
        assert_eq!(self.attempt(&operation), Ok(TransitionEffect::Changed), "{operation:?}");
        self.events[known..].to_vec()
    }

    /// A command that must be accepted without changing anything.
    pub fn repeated(&mut self, operation: Operation) {
        assert_eq!(self.attempt(&operation), Ok(TransitionEffect::Unchanged), "{operation:?}");
    }

    /// A command that must be refused.
    pub fn refused(&mut self, operation: Operation) -> Rejection {
        match self.attempt(&operation) {
            Ok(accepted) => panic!("{operation:?} was accepted: {accepted:?}"),
            Err(rejection) => rejection,
        }
    }

    /// A command that must be refused; returns the reason's name in the contract.
    pub fn refusal(&mut self, operation: Operation) -> &'static str {
        reason(&self.refused(operation))
    }

    /// Takes a lease for execution, which must be possible.
    pub fn claim(&mut self, by: &str) -> Holder {
        self.ok(super::operations::claim(by));
        self.holder()
    }

    /// Takes a lease for compensation, which must be possible.
    pub fn claim_undo(&mut self, by: &str) -> Holder {
        self.ok(super::operations::claim_undo(by));
        self.holder()
    }

    /// Applies what is due by now; returns its events.
    pub fn due(&mut self) -> Vec<Event> {
        let known = self.events.len();
        let mut draft = self.draft();
        apply_due(&mut draft);
        self.commit(draft);
        self.events[known..].to_vec()
    }

    /// Lets time pass and applies what is due then.
    pub fn wait(&mut self, span: Span) -> Vec<Event> {
        self.now = self.now.plus(span);
        self.due()
    }

    /// The same saga at another time; nothing is applied.
    pub fn at(&self, now: Timestamp) -> Self {
        TestSaga { now, ..self.clone() }
    }

    /// The same saga, with the coordinator returning from an absence now.
    pub fn after_absence(&self, grace: Span) -> Self {
        TestSaga { grace: RestartGrace { returned_at: self.now, length: grace }, ..self.clone() }
    }

    /// A draft of the saga.
    pub fn draft(&self) -> Draft {
        Draft::begin(self.saga.clone(), self.now, self.grace, self.saga.revision.after(1))
    }

    /// Applies a draft.
    pub fn commit(&mut self, draft: Draft) {
        self.saga = draft.saga;
        self.events.extend(draft.events);
    }

    pub fn earlier(&self, operation: &Operation) -> Option<EarlierLease> {
        match operation {
            Operation::ByHolder(holder, _) => EarlierLease::from_events(&self.events, holder.token),
            Operation::Unleased(_) => None,
        }
    }

    /// The holder of the last lease; without one, a holder with an unknown token.
    pub fn holder(&self) -> Holder {
        match &self.saga.lease {
            Some(lease) => Holder { owner: lease.owner.clone(), token: lease.token },
            None => Holder { owner: owner("w"), token: UNKNOWN_TOKEN },
        }
    }

    pub fn lease(&self) -> &Lease {
        self.saga.lease.as_ref().expect("it was claimed")
    }

    pub fn state(&self) -> State {
        self.saga.state
    }
}

/// The types of events, in order.
pub fn kinds(events: &[Event]) -> Vec<EventType> {
    events.iter().map(|event| event.kind).collect()
}

/// The events' marks of staleness.
pub fn marks(events: &[Event]) -> Vec<Option<sagad::domain::event::StaleMark>> {
    events.iter().map(|event| event.mark.clone()).collect()
}
