//! Sagas made of random bytes, whatever may be stored of them; and a store in a temporary directory.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use sagad::{
    coordinator::{AppendedEvent, Backend, ChangeSet, DerivedFields, RowId, SagaChange},
    domain::{
        bounds::{HAPPENED_MAX, REVISION_MAX, STORED_LENGTH_MAX, STORED_TIME_MAX},
        command::Creation,
        compensation::{Compensation, CompensationSpec, CompensationState},
        event::{Event, EventType, Resolution, StaleMark},
        ids::{FencingToken, Malformed, OwnerId, QueueName, Revision, SagaId, TaskId},
        lease::{HolderEnd, Lease, LeasePurpose, RestartGrace, StaleCause, Standing},
        policy::{FailureAction, Policy, StaleAction},
        saga::{CancelRequest, Reservation, Saga, State},
        text::{Actor, Blob, Kind, Labels, Text},
        time::{Span, Timestamp},
        transition,
    },
    store::{
        ReadTime, Reader,
        sqlite::{self, SqliteWriter},
    },
};

/// Before anything that happens to the saga.
const CREATED: Revision = Revision(1);

/// A value, if what the bytes say can be one; else the other one.
fn or<T>(
    parsed: std::result::Result<T, Malformed>,
    other: &str,
    parse: impl Fn(&str) -> std::result::Result<T, Malformed>,
) -> T {
    parsed.or_else(|_| parse(other)).expect("the other one is well formed")
}

macro_rules! words {
    ($($name:ident: $type:ident, $other:literal;)*) => {
        $(fn $name(u: &mut Unstructured<'_>) -> Result<$type> {
            Ok(or($type::parse(u.arbitrary::<&str>()?), $other, $type::parse))
        })*
    };
}

words! {
    task_id: TaskId, "task-1";
    saga_id: SagaId, "saga-1";
    owner: OwnerId, "worker-1";
    queue: QueueName, "default";
    actor: Actor, "Jo Müller";
    kind: Kind, "remove-worktree";
    text: Text, "";
}

fn maybe<T>(u: &mut Unstructured<'_>, some: impl FnOnce(&mut Unstructured<'_>) -> Result<T>) -> Result<Option<T>> {
    if u.arbitrary()? { some(u).map(Some) } else { Ok(None) }
}

fn span(u: &mut Unstructured<'_>, least: i64) -> Result<Span> {
    Ok(Span::from_micros(u.int_in_range(least..=STORED_LENGTH_MAX)?).unwrap_or_default())
}

fn time(u: &mut Unstructured<'_>) -> Result<Timestamp> {
    u.int_in_range(0..=HAPPENED_MAX).map(Timestamp::from_micros)
}

fn token(u: &mut Unstructured<'_>) -> Result<FencingToken> {
    u.int_in_range(1..=REVISION_MAX - 1).map(FencingToken)
}

fn blob(u: &mut Unstructured<'_>) -> Result<Blob> {
    let bytes = Bytes::copy_from_slice(u.arbitrary()?);
    Ok(Blob::parse(bytes).unwrap_or_default())
}

fn pairs(u: &mut Unstructured<'_>) -> Result<BTreeMap<String, String>> {
    u.arbitrary()
}

fn policy(u: &mut Unstructured<'_>) -> Result<Policy> {
    Ok(Policy {
        on_stale: *u.choose(&[
            StaleAction::Hold,
            StaleAction::Requeue,
            StaleAction::Compensate,
            StaleAction::Quarantine,
        ])?,
        max_expirations: u.int_in_range(1..=u32::MAX)?,
        on_failure: *u.choose(&[FailureAction::Fail, FailureAction::Compensate])?,
        max_attempts: u.int_in_range(1..=u32::MAX)?,
        retry_backoff: span(u, 0)?,
        retry_backoff_max: span(u, 0)?,
        execution_timeout: maybe(u, |u| span(u, 1))?,
        progress_timeout: maybe(u, |u| span(u, 1))?,
        settle: span(u, 0)?,
        compensation_timeout: span(u, 1)?,
    })
}

fn specs(u: &mut Unstructured<'_>) -> Result<Vec<CompensationSpec>> {
    (0..u.int_in_range(0..=4)?)
        .map(|_| Ok(CompensationSpec { kind: kind(u)?, target: text(u)?, reason: text(u)? }))
        .collect()
}

/// A saga as it is when it is created.
pub fn created(u: &mut Unstructured<'_>) -> Result<(Saga, Event)> {
    let creation = Creation {
        task_id: task_id(u)?,
        saga_id: saga_id(u)?,
        queue: queue(u)?,
        priority: u.arbitrary()?,
        issue: u.arbitrary()?,
        branch: text(u)?,
        worktree: text(u)?,
        labels: Labels::parse(pairs(u)?).unwrap_or_default(),
        payload: blob(u)?,
        compensations: specs(u)?,
        policy: policy(u)?,
        delay: span(u, 0)?,
        retry_of: maybe(u, task_id)?,
    };
    Ok(transition::create(creation, time(u)?, CREATED))
}

fn lease(u: &mut Unstructured<'_>, state: State) -> Result<Lease> {
    let ends =
        [HolderEnd::Released, HolderEnd::Completed, HolderEnd::Failed, HolderEnd::Compensated, HolderEnd::Quarantined];
    let held = matches!(state, State::Running | State::Compensating);
    let standing = match u.int_in_range(0..=3)? {
        0 if held => Standing::Held,
        1 if held => Standing::Expired { at: time(u)?, revision: Revision(token(u)?.0) },
        2 => Standing::EndedByOther,
        _ => Standing::EndedByHolder(*u.choose(&ends)?),
    };
    let acquired = u.int_in_range(0..=HAPPENED_MAX)?;
    Ok(Lease {
        owner: owner(u)?,
        token: token(u)?,
        purpose: *u.choose(&[LeasePurpose::Execute, LeasePurpose::Compensate])?,
        acquire_time: Timestamp::from_micros(acquired),
        heartbeat_time: time(u)?,
        expire_time: Timestamp::from_micros(u.int_in_range(acquired + 1..=STORED_TIME_MAX)?),
        ttl: span(u, 1)?,
        limit: *u.choose(&[StaleCause::Ttl, StaleCause::ExecutionTimeout, StaleCause::ProgressTimeout])?,
        progress_time: time(u)?,
        standing,
    })
}

fn settle(u: &mut Unstructured<'_>, compensation: &mut Compensation) -> Result<()> {
    use CompensationState::{Done, Failed, Pending, Waived};
    compensation.state = *u.choose(&[Pending, Done, Failed, Waived])?;
    compensation.attempts = u.arbitrary()?;
    compensation.last_error = text(u)?;
    if compensation.is_settled() {
        compensation.settled_by = Some(u.arbitrary::<&str>()?.into());
        compensation.settle_time = Some(time(u)?);
    }
    compensation.recorded_under = maybe(u, token)?;
    Ok(())
}

/// What may have become of a saga since, within what the schema's checks say of it.
pub fn changed(u: &mut Unstructured<'_>, created: &Saga) -> Result<Saga> {
    let mut saga = created.clone();
    let state = *u.choose(&State::ALL)?;
    let under = maybe(u, token)?;
    for spec in specs(u)? {
        let position = saga.compensations.len() as u32 + 1;
        saga.compensations.push(Compensation::pending(position, spec, under));
    }
    if state == State::Failed && saga.compensations.is_empty() {
        saga.compensations.push(Compensation::pending(
            1,
            CompensationSpec { kind: kind(u)?, target: text(u)?, reason: text(u)? },
            under,
        ));
    }
    for compensation in &mut saga.compensations {
        settle(u, compensation)?;
    }
    let leased = state == State::Running || u.arbitrary()?;
    saga.lease = if leased { Some(lease(u, state)?) } else { None };
    if state == State::Dispatched {
        saga.reservation = Some(Reservation { assignee: owner(u)?, expire_time: time(u)? });
    }
    saga.cancel = maybe(u, |u| Ok(CancelRequest { actor: actor(u)?, reason: text(u)? }))?;
    (saga.attempt, saga.expirations, saga.failures) = u.arbitrary()?;
    (saga.progress, saga.result) = (blob(u)?, blob(u)?);
    if state.is_terminal() {
        saga.terminal_reason = Some(text(u)?);
        saga.end_time = Some(time(u)?);
    }
    saga.update_time = time(u)?;
    saga.not_before = maybe(u, time)?;
    saga.settle_until = maybe(u, time)?;
    saga.idle_since = maybe(u, time)?;
    saga.state = state;
    saga.revision = Revision(u.int_in_range(CREATED.0 + 1..=REVISION_MAX - 1)?);
    Ok(saga)
}

/// Anything that may have happened to a saga.
pub fn event(u: &mut Unstructured<'_>, saga: &Saga) -> Result<Event> {
    let kinds = [EventType::Claimed, EventType::LeaseExpired, EventType::Annotated, EventType::Quarantined];
    let marks = [Resolution::Reclaimed, Resolution::Requeued, Resolution::Compensating, Resolution::Terminal];
    let mut of_lease = maybe(u, token)?;
    let mark = match u.int_in_range(0..=2)? {
        0 => None,
        1 => Some(StaleMark::Resolved(*u.choose(&marks)?)),
        _ => {
            let lost = token(u)?;
            of_lease = Some(lost);
            let cause = *u.choose(&[StaleCause::Ttl, StaleCause::ExecutionTimeout, StaleCause::ProgressTimeout])?;
            Some(StaleMark::Stale { owner: owner(u)?, token: lost, expire_time: time(u)?, cause })
        }
    };
    Ok(Event {
        revision: Revision(u.int_in_range(2..=REVISION_MAX - 1)?),
        task_id: saga.spec.task_id.clone(),
        saga_id: saga.spec.saga_id.clone(),
        queue: saga.spec.queue.clone(),
        time: time(u)?,
        kind: *u.choose(&kinds)?,
        actor: maybe(u, actor)?,
        reason: u.arbitrary::<&str>()?.into(),
        from_state: if u.arbitrary()? { Some(*u.choose(&State::ALL)?) } else { None },
        to_state: *u.choose(&State::ALL)?,
        token: of_lease,
        details: pairs(u)?.into(),
        mark,
    })
}

/// What is derived from a saga; the schema wants it to agree with the state.
pub fn derived(saga: &Saga, now: Timestamp) -> DerivedFields {
    let grace = RestartGrace::default();
    let ready = saga.ready_for(now, &grace);
    DerivedFields { ready, due: transition::next_due(saga, now, &grace) }
}

/// A saga from what was to what is, or as a new one, by the rules' own derivation at a time.
pub fn change(id: RowId, before: Option<&Saga>, after: &Saga, now: Timestamp) -> SagaChange {
    let (before, derived) = (before.cloned().map(Arc::new), derived(after, now));
    SagaChange { id, before, derived_before: None, after: Some(Arc::new(after.clone())), derived }
}

/// A store in a temporary directory, which goes with it.
pub struct Stored {
    rows: SqliteWriter,
    reader: Arc<dyn Reader>,
    /// Removed when this is dropped.
    directory: tempfile::TempDir,
}

impl Stored {
    /// An empty one.
    pub fn empty() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("sagad.db");
        let (rows, _, gate) = sqlite::open_writer(&path, 1 << 20).expect("a new store");
        let reader = Arc::new(sqlite::open_reader(&path, 1, gate).expect("its reader"));
        Stored { rows: rows.into_writer(), reader, directory }
    }

    /// One with three planned sagas, `t0` to `t2`.
    pub fn with_a_few() -> Self {
        let mut stored = Self::empty();
        let mut changes = ChangeSet::default();
        for place in 0..3_i64 {
            let mut seed = Unstructured::new(&[]);
            let (mut saga, mut event) = created(&mut seed).expect("an empty seed gives a plain saga");
            let task_id = TaskId::parse(&format!("t{place}")).expect("an id");
            let mut spec = (*saga.spec).clone();
            spec.saga_id = task_id.to_saga_id();
            spec.task_id = task_id;
            saga.spec = Arc::new(spec);
            saga.revision = Revision(place + 1);
            event.revision = saga.revision;
            let id = RowId(place + 1);
            changes.sagas.push(change(id, None, &saga, Timestamp::ZERO));
            changes.events.push(AppendedEvent { saga: id, prev: None, event });
        }
        stored.rows.commit(&changes).expect("committed");
        stored
    }

    /// The writing half.
    pub fn rows(&mut self) -> &mut SqliteWriter {
        &mut self.rows
    }

    /// The reading half.
    pub fn reader(&self) -> &dyn Reader {
        &*self.reader
    }

    /// Where it lies.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("sagad.db")
    }

    /// A moment to look at it.
    pub fn read_time(&self) -> ReadTime {
        ReadTime { now: Timestamp::from_micros(1_800_000_000_000_000), grace: RestartGrace::default() }
    }
}
