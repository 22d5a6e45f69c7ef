//! One command: load → what is due → the rules → write. The same for every backend.

use std::{collections::HashSet, sync::Arc};

use crate::{
    clock::Clock,
    mutants::{self, Mutant},
};

use crate::domain::{
    bounds::REVISION_MAX,
    command::{
        Answer, Change, Command, Creation, FreeVerb, HeldVerb, Holder, LeaseAnswer, Purge, Purged, QueueStatus,
        Request, SetPaused, Verb,
    },
    draft::Draft,
    event::Event,
    ids::{QueueName, Revision},
    lease::{Absence, LeasePurpose, Standing},
    principal::{Behalf, Scope},
    rejection::{Refusal, Rejection},
    saga::{Saga, State},
    time::Timestamp,
    transition::{Accepted, EarlierLease, ReadyAfterDue, apply_due, cancel_reason, create, next_due, transition},
};

use super::{
    StoreError,
    agenda::{Agenda, NextDue},
    query::SagaKey,
    ready_index::{ReadyEntry, ReadyIndex, Takers},
    rows::{Derived, Opening, Removed, RowId, Rows, RowsError, StoredDue},
    sweep::SweepBudget,
    waiters::Wake,
};

/// From how many removed rows on a purge leaves the rest to the next: a few milliseconds of the writer's time, however many
/// compensations and events each saga has. One saga is removed at least.
const PURGE_ROWS: usize = 1000;

/// Most sagas that one transaction gives to held calls: a few milliseconds of the writer's time. When a queue with much work
/// is resumed, thousands of calls may be waiting for it.
const SERVED_SAGAS: usize = 256;

/// What a command came to.
pub type Outcome = Result<Answer, StoreError>;

/// The rules at work on one store. It is driven by the writer: `begin`, commands, `commit` or `rollback`.
pub struct Engine<R> {
    /// The facts.
    pub rows: R,
    /// What is due when.
    pub agenda: Agenda,
    /// The coordinator's last absence.
    pub absence: Absence,
    /// Queues that give nothing to `ClaimNext`.
    pub(super) paused: HashSet<QueueName>,
    /// The revision of the next event.
    next_revision: Revision,
    /// What became claimable since this was last looked at.
    pub(super) woken: Vec<Wake>,
    /// What `ClaimNext` could give to some callers only.
    pub(super) ready: ReadyIndex,
    /// What this transaction may still spend on what is due.
    pub(super) budget: SweepBudget,
    /// How many sagas this transaction may still give to held calls.
    pub(super) left_to_serve: usize,
    /// How many bytes of answers there may be. What does not fit is left out of repeated answers; a claim takes one saga at
    /// least.
    pub answer_room: usize,
    /// By which the time of sweeps is bounded.
    pub(super) clock: Option<Arc<dyn Clock>>,
    /// How many candidates and sets of kinds claims looked at, and how many held ones were tried, for tests that count.
    pub looked_at: u64,
    /// What this transaction added to the history.
    events: Vec<Event>,
    /// What this transaction began with: for undoing it in memory.
    began_at: Revision,
    paused_before: Option<HashSet<QueueName>>,
    woken_before: Vec<Wake>,
}

impl<R: Rows> Engine<R> {
    /// The rules on a store that has been opened, back from `absence`.
    pub fn new(rows: R, opening: Opening, absence: Absence) -> Self {
        let mut agenda = Agenda::default();
        for StoredDue { id, due, queue, state } in opening.due {
            agenda.set(id, Some(NextDue { due, queue, ready: ReadyAfterDue::of_state(state) }), &absence);
        }
        agenda.committed();
        let mut ready = ReadyIndex::default();
        for (id, entry) in opening.ready {
            ready.set(id, Some(entry));
        }
        ready.committed();
        Engine {
            rows,
            agenda,
            absence,
            paused: opening.paused.into_iter().collect(),
            next_revision: opening.next_revision,
            woken: Vec::new(),
            ready,
            budget: SweepBudget::default(),
            left_to_serve: SERVED_SAGAS,
            answer_room: usize::MAX,
            clock: None,
            looked_at: 0,
            events: Vec::new(),
            began_at: opening.next_revision,
            paused_before: None,
            woken_before: Vec::new(),
        }
    }

    /// The coordinator is back from an absence.
    pub fn returned(&mut self, absence: Absence) {
        self.absence = absence;
        self.agenda.after_absence(&absence);
    }

    /// The revision that the next event gets.
    pub fn next_revision(&self) -> Revision {
        self.next_revision
    }

    /// Begins a transaction.
    pub fn begin(&mut self) -> Result<(), RowsError> {
        self.begin_with(SweepBudget::default())
    }

    /// Begins a transaction that may spend so much on what is due.
    pub fn begin_with(&mut self, budget: SweepBudget) -> Result<(), RowsError> {
        self.began_at = self.next_revision;
        self.woken_before.clone_from(&self.woken);
        self.budget = budget;
        self.left_to_serve = SERVED_SAGAS;
        self.rows.begin()
    }

    /// Makes the transaction durable and returns what it added to the history.
    pub fn commit(&mut self) -> Result<Vec<Event>, RowsError> {
        self.rows.commit()?;
        self.agenda.committed();
        self.ready.committed();
        self.paused_before = None;
        Ok(std::mem::take(&mut self.events))
    }

    /// Undoes the transaction, in the store and in memory.
    pub fn rollback(&mut self) -> Result<(), RowsError> {
        self.rows.rollback()?;
        self.next_revision = self.began_at;
        self.events.clear();
        self.agenda.rolled_back();
        self.ready.rolled_back();
        self.woken.clone_from(&self.woken_before);
        if let Some(paused) = self.paused_before.take() {
            self.paused = paused;
        }
        Ok(())
    }

    /// Executes a command at `now`. (`ClaimNext` is [`Self::claim_next`].) An error that concerns this command alone
    /// is its outcome; any other ends the transaction.
    pub fn execute(&mut self, request: &Request, now: Timestamp) -> Result<Outcome, RowsError> {
        match self.try_execute(request, now) {
            Err(RowsError::Corrupt(what)) => Ok(Err(StoreError::Corrupt(what))),
            Err(other) => Err(other),
            Ok(outcome) => Ok(outcome),
        }
    }

    fn try_execute(&mut self, request: &Request, now: Timestamp) -> Result<Outcome, RowsError> {
        if let Some(refused) = out_of_scope(request) {
            return Ok(refused);
        }
        if let Some(replayed) = self.replay(request, now)? {
            return Ok(replayed);
        }
        if self.next_revision.0 >= REVISION_MAX {
            return Ok(Err(StoreError::Unavailable("all revisions below 2^53 are used up".into())));
        }
        match &request.command {
            Command::Create(creations) => self.create(creations, request, now),
            Command::Change(change) => self.change(change, request, now),
            Command::SetPaused(wish) => self.set_paused(wish, now),
            Command::Purge(purge) => self.purge(purge, now).map(Ok),
            Command::ClaimNext(wish) => {
                let sagas = self.claim_next(wish, request.key, now)?;
                Ok(Ok(Answer::Sagas(sagas)))
            }
        }
    }

    fn create(&mut self, creations: &[Creation], request: &Request, now: Timestamp) -> Result<Outcome, RowsError> {
        for (index, creation) in creations.iter().enumerate() {
            if let Some(field) = self.rows.taken(&creation.task_id, &creation.saga_id)? {
                return Ok(refuse(Refusal {
                    task_id: Some(creation.task_id.clone()),
                    state: None,
                    index: Some(index),
                    why: Rejection::SagaExists { field },
                }));
            }
        }
        let mut sagas = Vec::with_capacity(creations.len());
        let mut kept = Vec::with_capacity(creations.len());
        for creation in creations {
            let (saga, mut event) = create(creation.clone(), now, self.next_revision);
            event.actor = request.by.as_ref().map(|by| by.actor.clone());
            self.next_revision = self.next_revision.after(1);
            let derived = self.derive(&saga, now);
            let id = self.rows.insert(&saga, &derived)?;
            self.rows.append(id, &event)?;
            self.events.push(event);
            self.note(id, &saga, &derived);
            kept.push((id, None));
            sagas.push(saga);
        }
        self.keep(request.key, kept, now)?;
        Ok(Ok(Answer::Sagas(sagas)))
    }

    fn change(&mut self, change: &Change, request: &Request, now: Timestamp) -> Result<Outcome, RowsError> {
        let Some((id, before)) = self.rows.find(&SagaKey::Task(change.task_id.clone()))? else {
            let task_id = Some(change.task_id.clone());
            return Ok(refuse(Refusal { task_id, state: None, index: None, why: Rejection::SagaNotFound }));
        };
        // Before what is due is applied: nothing tells that it is there.
        if let Some(why) = out_of_reach(&request.by, &before.spec.queue) {
            let task_id = Some(change.task_id.clone());
            return Ok(refuse(Refusal { task_id, state: None, index: None, why }));
        }
        let earlier = self.earlier_lease(id, &before, &change.verb)?;
        let mut draft = self.draft(before.clone(), now);
        let tampered = tamper(&change.verb, &mut draft);
        let verdict = transition(&mut draft, tampered.as_ref().unwrap_or(&change.verb), earlier.as_ref());
        // What was due is due, though the command be refused.
        self.save(id, &before, &mut draft)?;
        let accepted = match verdict {
            Ok(accepted) => accepted,
            Err(why) => {
                return Ok(refuse(Refusal {
                    task_id: Some(change.task_id.clone()),
                    state: Some(draft.saga.state),
                    index: None,
                    why,
                }));
            }
        };
        if accepted == Accepted::Changed {
            let token = if is_claim(&change.verb) { draft.saga.lease.as_ref().map(|lease| lease.token) } else { None };
            self.keep(request.key, vec![(id, token)], now)?;
        }
        Ok(Ok(answer(&change.verb, draft.saga)))
    }

    /// The lease that a call names, if it is not the saga's last one.
    fn earlier_lease(&mut self, id: RowId, saga: &Saga, verb: &Verb) -> Result<Option<EarlierLease>, RowsError> {
        let Verb::Held(holder, verb) = verb else { return Ok(None) };
        let is_earlier = saga.lease.as_ref().is_some_and(|lease| holder.token < lease.token);
        // A heartbeat is never taken for a repetition, and there are too many of them to look further.
        if !is_earlier || matches!(verb, HeldVerb::Heartbeat { .. }) {
            return Ok(None);
        }
        Ok(EarlierLease::from_events(&self.rows.ends_of_lease(id, holder.token, EarlierLease::LOOKS_AT)?, holder.token))
    }

    /// A draft to which what is due has been applied.
    pub(super) fn draft(&self, saga: Saga, now: Timestamp) -> Draft {
        let mut draft = Draft::begin(saga, now, self.absence, self.next_revision);
        apply_due(&mut draft);
        draft
    }

    /// Writes what a draft changed.
    pub(super) fn save(&mut self, id: RowId, before: &Saga, draft: &mut Draft) -> Result<(), RowsError> {
        if *before == draft.saga {
            return Ok(());
        }
        debug_assert!(!draft.saga.contents_omitted, "what is stored is whole");
        let derived = self.derive(&draft.saga, draft.now);
        self.rows.update(id, before, &draft.saga, &derived)?;
        for mut event in draft.events.drain(..) {
            if mutants::on(Mutant::DecisionsUnsigned) {
                event.actor = None;
            }
            self.rows.append(id, &event)?;
            self.events.push(event);
        }
        self.next_revision = draft.next_revision();
        self.note(id, &draft.saga, &derived);
        Ok(())
    }

    pub(super) fn derive(&self, saga: &Saga, now: Timestamp) -> Derived {
        let given_out_twice = mutants::on(Mutant::ClaimNextIgnoresLease) && saga.state == State::Compensating;
        let ready = if given_out_twice { Some(LeasePurpose::Compensate) } else { saga.ready_for(now, &self.absence) };
        Derived { ready, due: next_due(saga, now, &self.absence) }
    }

    /// Something became claimable. Of many such things in a row, which a large batch creates, one is enough to be looked at.
    fn wake(&mut self, wake: Wake) {
        if self.woken.last() != Some(&wake) {
            self.woken.push(wake);
        }
    }

    /// Follows in memory what has just been written.
    pub(super) fn note(&mut self, id: RowId, saga: &Saga, derived: &Derived) {
        let next =
            derived.due.map(|due| NextDue { due, queue: saga.spec.queue.clone(), ready: ReadyAfterDue::of(saga) });
        self.agenda.set(id, next, &self.absence);
        let entry = ReadyEntry::of(saga, derived);
        match derived.ready {
            Some(LeasePurpose::Execute) => self.wake(Wake::ToExecute(saga.spec.queue.clone())),
            Some(LeasePurpose::Compensate) => {
                if let Some(ReadyEntry { takers: Takers::OfKinds(kinds), .. }) = &entry {
                    self.wake(Wake::ToCompensate(saga.spec.queue.clone(), kinds.clone()));
                }
            }
            None => {}
        }
        self.ready.set(id, entry);
        if let Some(reservation) = &saga.reservation {
            self.wake(Wake::Reserved(reservation.assignee.clone(), saga.spec.queue.clone()));
        }
    }

    /// A saga that can be read: one that can't must not keep the others from what is due to them.
    pub(super) fn load_readable(&mut self, id: RowId) -> Result<Option<Saga>, RowsError> {
        match self.rows.load(id) {
            Err(RowsError::Corrupt(what)) => {
                tracing::error!(row = id.0, what, "a stored saga can't be read and is passed over");
                Ok(None)
            }
            loaded => loaded,
        }
    }

    fn set_paused(&mut self, wish: &SetPaused, now: Timestamp) -> Result<Outcome, RowsError> {
        if wish.must_exist && !self.rows.knows_queue(&wish.queue)? {
            return Ok(refuse(Refusal::plain(Rejection::QueueNotFound { queue: wish.queue.clone() })));
        }
        let status = QueueStatus {
            queue: wish.queue.clone(),
            paused: wish.paused,
            actor: Some(wish.actor.clone()),
            reason: wish.reason.clone(),
            change_time: Some(now),
        };
        self.rows.set_paused(&status)?;
        self.paused_before.get_or_insert_with(|| self.paused.clone());
        if wish.paused {
            self.paused.insert(wish.queue.clone());
        } else {
            self.paused.remove(&wish.queue);
            self.wake(Wake::Resumed(wish.queue.clone()));
        }
        Ok(Ok(Answer::Queue(status)))
    }

    /// Those of a purge's chosen sagas that are as they were when they were chosen.
    fn unchanged(&mut self, purge: &Purge, before: Timestamp) -> Result<Vec<RowId>, RowsError> {
        let mut found = Vec::with_capacity(purge.only.len());
        for (task_id, revision) in &purge.only {
            let Some((id, saga)) = self.rows.find(&SagaKey::Task(task_id.clone()))? else { continue };
            let is_ended = saga.state.is_terminal() && purge.states.contains(&saga.state);
            if is_ended && saga.revision == *revision && saga.update_time < before {
                found.push(id);
            }
        }
        Ok(found)
    }

    fn purge(&mut self, purge: &Purge, now: Timestamp) -> Result<Answer, RowsError> {
        let before = now.minus(purge.older_than);
        let mut ids = if purge.only.is_empty() {
            self.rows.purgeable(&purge.states, before, purge.max_sagas + 1)?
        } else {
            self.unchanged(purge, before)?
        };
        let more = ids.len() > purge.max_sagas;
        ids.truncate(purge.max_sagas);
        let mut purged = Purged { more, ..Purged::default() };
        let (all, mut rows) = (ids.len(), 0);
        for id in ids {
            if purge.validate_only {
                purged.events += self.rows.count_events(id)?;
            } else if rows >= PURGE_ROWS {
                break;
            } else {
                let Removed { events, compensations, newest } = self.rows.remove(id)?;
                rows += 1 + events + compensations;
                purged.events += events;
                purged.through = purged.through.max(newest);
            }
            purged.sagas += 1;
        }
        purged.more |= purged.sagas < all;
        if purged.through > Revision::ZERO {
            self.rows.compact(purged.through)?;
        }
        Ok(Answer::Purged(purged))
    }
}

/// Why somebody may not touch a saga of this queue, if so. Who may not even look at it is told that there is none.
pub(super) fn out_of_reach(by: &Option<Arc<Behalf>>, queue: &QueueName) -> Option<Rejection> {
    let sees_it = by.as_ref().is_none_or(|by| by.sees_all);
    denied(by, queue).map(|denial| if sees_it { denial } else { Rejection::SagaNotFound })
}

/// Why somebody may not touch a queue that it names, if so.
fn denied(by: &Option<Arc<Behalf>>, queue: &QueueName) -> Option<Rejection> {
    match by.as_ref().map(|by| &by.scope) {
        _ if mutants::on(Mutant::ScopesIgnored) => None,
        None | Some(Scope::All) => None,
        Some(scope @ Scope::Only(_)) => {
            (!scope.allows(queue)).then(|| Rejection::NotPermitted { queue: queue.clone() })
        }
    }
}

/// Refuses what names a foreign queue, before it is looked whether it was asked before or can be done.
pub(super) fn out_of_scope(request: &Request) -> Option<Outcome> {
    match &request.command {
        Command::Create(creations) => creations.iter().enumerate().find_map(|(index, creation)| {
            let why = denied(&request.by, &creation.queue)?;
            let task_id = Some(creation.task_id.clone());
            Some(refuse(Refusal { task_id, state: None, index: Some(index), why }))
        }),
        Command::ClaimNext(wish) => {
            let why = wish.queues.iter().find_map(|queue| denied(&request.by, queue))?;
            Some(refuse(Refusal::plain(why)))
        }
        Command::SetPaused(wish) => denied(&request.by, &wish.queue).map(|why| refuse(Refusal::plain(why))),
        // The saga tells its queue once it is loaded; a purge goes over all of them.
        Command::Change(_) | Command::Purge(_) => None,
    }
}

/// What a daemon that is broken on purpose judges instead.
fn tamper(verb: &Verb, draft: &mut Draft) -> Option<Verb> {
    if mutants::on(Mutant::TerminalSagasChange) && draft.saga.state.is_terminal() {
        draft.saga.state = State::Planned;
    }
    if mutants::on(Mutant::CompensatedTooEarly) && matches!(verb, Verb::Held(_, HeldVerb::Compensate { .. })) {
        draft.saga.compensations.clear();
    }
    let lease = draft.saga.lease.as_mut()?;
    if mutants::on(Mutant::ClaimIgnoresExpiry) && is_claim(verb) {
        lease.standing = Standing::EndedByOther;
    }
    match verb {
        Verb::Held(_, complete @ HeldVerb::Complete { .. }) if mutants::on(Mutant::CompleteIgnoresToken) => {
            let last = Holder { owner: lease.owner.clone(), token: lease.token };
            Some(Verb::Held(last, complete.clone()))
        }
        Verb::Held(_, beat @ HeldVerb::Heartbeat { .. }) if mutants::on(Mutant::HeartbeatIgnoresToken) => {
            let last = Holder { owner: lease.owner.clone(), token: lease.token };
            Some(Verb::Held(last, beat.clone()))
        }
        Verb::Held(_, record @ HeldVerb::RecordCompensation { .. }) if mutants::on(Mutant::RecordIgnoresToken) => {
            let last = Holder { owner: lease.owner.clone(), token: lease.token };
            Some(Verb::Held(last, record.clone()))
        }
        Verb::Held(..) | Verb::Free(_) => None,
    }
}

fn is_claim(verb: &Verb) -> bool {
    matches!(verb, Verb::Free(FreeVerb::Claim { .. }))
}

/// What an accepted change is answered with.
pub(super) fn answer(verb: &Verb, saga: Saga) -> Answer {
    match (verb, &saga.lease) {
        (Verb::Held(_, HeldVerb::Heartbeat { .. }), Some(lease)) => {
            Answer::Lease(LeaseAnswer { lease: lease.clone(), cancel_reason: cancel_reason(&saga) })
        }
        (Verb::Held(..) | Verb::Free(_), _) => Answer::Saga(Box::new(saga)),
    }
}

/// A refusal as an outcome.
pub(super) fn refuse(refusal: Refusal) -> Outcome {
    Err(StoreError::Refused(Box::new(refusal)))
}
