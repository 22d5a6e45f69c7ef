//! Encodes a turn's changes as arrays of columns: the counterpart of `columns::decode`.

use std::collections::{BTreeMap, HashMap};

use crate::{
    coordinator::{ChangeSet, DerivedFields, RowId, SagaChange},
    domain::{
        event::{Event, StaleMark},
        ids::{QueueName, TaskId},
        lease::{Lease, LeasePurpose},
        saga::{Saga, State},
        time::Timestamp,
    },
};

use super::{
    super::columns::{
        codes::{Coded, expired_revision, mark_code, standing_code},
        decode, rare_fields,
    },
    column_arrays::{ColumnArrays, add_row},
};

/// Everything that a turn writes, by statement.
#[derive(Debug, Default)]
pub(super) struct EncodedChanges<'a> {
    pub(super) removed: Vec<i64>,
    pub(super) new_queues: ColumnArrays<'a>,
    pub(super) new_sagas: ColumnArrays<'a>,
    pub(super) new_work: ColumnArrays<'a>,
    pub(super) changed_work: ColumnArrays<'a>,
    /// Rows of `work` whose sagas ended.
    pub(super) ended_work: Vec<i64>,
    /// Rows of `ended` to delete: they are written again, or their sagas are in flight again.
    pub(super) gone_from_ended: Vec<i64>,
    pub(super) ended: ColumnArrays<'a>,
    pub(super) contents: ColumnArrays<'a>,
    pub(super) compensations: ColumnArrays<'a>,
    pub(super) counts: ColumnArrays<'a>,
    pub(super) events: ColumnArrays<'a>,
    pub(super) answers: ColumnArrays<'a>,
    pub(super) paused: ColumnArrays<'a>,
    /// Queues that are not stored yet, with their numbers.
    pub(super) queues: Vec<(QueueName, i64)>,
    /// The values that the fence raises: the next revision, the next row number and the last compacted revision.
    pub(super) next_revision: i64,
    pub(super) next_row: i64,
    pub(super) compacted: i64,
}

impl<'a> EncodedChanges<'a> {
    /// Encodes the changes; `queues` are the stored ones with their numbers.
    pub(super) fn of(changes: &'a ChangeSet, queues: &HashMap<QueueName, i64>) -> Self {
        let mut encoded = EncodedChanges {
            removed: changes.removed.iter().map(|id| id.0).collect(),
            compacted: changes.compacted.unwrap_or_default().0,
            ..EncodedChanges::default()
        };
        let newest = changes.events.last().map(|appended| appended.event.revision).max(changes.compacted);
        encoded.next_revision = newest.map_or(0, |newest| newest.after(1).0);
        encoded.next_row = changes.sagas.iter().map(|change| change.id.0 + 1).max().unwrap_or_default();
        let mut counts = BTreeMap::new();
        for change in &changes.sagas {
            if let Some(after) = &change.after {
                let queue = encoded.number_of(&after.spec.queue, queues);
                encoded.saga(change, after, queue);
                if let Some(before) = &change.before {
                    *counts.entry((queue, before.state.code())).or_default() -= 1;
                }
                *counts.entry((queue, after.state.code())).or_default() += 1;
            }
        }
        for ((queue, state), more) in counts {
            let more: i64 = more;
            if more != 0 {
                add_row!(encoded.counts; queue, state, more);
            }
        }
        changes.events.iter().for_each(|appended| encoded.event(appended.saga, &appended.event));
        for (id, answer) in &changes.answers {
            let sagas: Vec<_> = answer.sagas.iter().map(|(id, token)| (id.0, token.map(|token| token.0))).collect();
            let sagas = serde_json::to_string(&sagas).expect("numbers have a JSON form");
            add_row!(encoded.answers; &id[..], &answer.digest[..], answer.time.micros(), sagas);
        }
        // A later entry overrides an earlier one.
        let last: BTreeMap<_, _> = changes.queues.iter().map(|status| (&status.queue, status)).collect();
        for status in last.into_values() {
            let queue = encoded.number_of(&status.queue, queues);
            let actor = status.actor.as_ref().map(|actor| actor.as_str());
            let time = status.change_time.map(Timestamp::micros);
            add_row!(encoded.paused; queue, status.paused, actor, status.reason.as_str(), time);
        }
        encoded
    }

    /// A queue's number; a new one if it is not stored yet.
    fn number_of(&mut self, name: &'a QueueName, stored: &HashMap<QueueName, i64>) -> i64 {
        let new = || self.queues.iter().find(|(queue, _)| queue == name).map(|(_, number)| *number);
        if let Some(number) = stored.get(name).copied().or_else(new) {
            return number;
        }
        let number = stored.values().max().unwrap_or(&0) + self.queues.len() as i64 + 1;
        self.queues.push((name.clone(), number));
        add_row!(self.new_queues; number, name.as_str());
        number
    }

    fn saga(&mut self, change: &'a SagaChange, after: &'a Saga, queue: i64) {
        let id = change.id.0;
        let before = change.before.as_deref();
        if before.is_none() {
            self.new_saga(change.id, after, queue);
        }
        match (before.map(|before| before.state.is_terminal()), after.state.is_terminal()) {
            (None, false) => add_work(&mut self.new_work, change.id, queue, after, &change.derived),
            (Some(false), false) => add_work(&mut self.changed_work, change.id, queue, after, &change.derived),
            // No rule allows this, but the store doesn't check rules.
            (Some(true), false) => {
                self.gone_from_ended.push(id);
                add_work(&mut self.new_work, change.id, queue, after, &change.derived);
            }
            (was_ended, true) => {
                match was_ended {
                    None => {}
                    Some(false) => self.ended_work.push(id),
                    Some(true) => self.gone_from_ended.push(id),
                }
                self.ended_saga(change.id, after, queue);
            }
        }
        let contents = |saga: &'a Saga| [saga.progress.bytes(), saga.result.bytes()];
        if before.map_or_else(
            || contents(after).iter().any(|bytes| !bytes.is_empty()),
            |before| contents(before) != contents(after),
        ) {
            add_row!(self.contents; id, &after.progress.bytes()[..], &after.result.bytes()[..]);
        }
        let compensations = before.map_or(&[][..], |before| &before.compensations);
        for (index, compensation) in after.compensations.iter().enumerate() {
            if compensations.get(index) == Some(compensation) {
                continue;
            }
            let spec = &compensation.spec;
            add_row!(self.compensations;
                id,
                compensation.position,
                spec.kind.as_str(),
                spec.target.as_str(),
                spec.reason.as_str(),
                compensation.state.code(),
                compensation.attempts,
                compensation.last_error.as_str(),
                compensation.settled_by.as_deref(),
                compensation.settle_time.map(Timestamp::micros),
                compensation.registered_under.map(|token| token.0),
                compensation.recorded_under.map(|token| token.0),
            );
        }
    }

    fn new_saga(&mut self, id: RowId, saga: &'a Saga, queue: i64) {
        let (spec, policy) = (&*saga.spec, &saga.spec.policy);
        add_row!(self.new_sagas;
            id.0,
            spec.task_id.as_str(),
            spec.saga_id.as_str(),
            queue,
            spec.priority,
            spec.issue,
            spec.branch.as_str(),
            spec.worktree.as_str(),
            decode::json(spec.labels.pairs()),
            spec.retry_of.as_ref().map(TaskId::as_str),
            spec.create_time.micros(),
            policy.on_stale.code(),
            policy.max_expirations,
            policy.on_failure.code(),
            policy.max_attempts,
            policy.retry_backoff.micros(),
            policy.retry_backoff_max.micros(),
            policy.execution_timeout.map(|t| t.micros()),
            policy.progress_timeout.map(|t| t.micros()),
            policy.settle.micros(),
            policy.compensation_timeout.micros(),
            &spec.payload.bytes()[..],
        );
    }

    fn ended_saga(&mut self, id: RowId, saga: &'a Saga, queue: i64) {
        let lease = LeaseColumns::of(saga.lease.as_ref());
        add_row!(self.ended;
            id.0,
            queue,
            saga.state.code(),
            saga.revision.0,
            saga.update_time.micros(),
            saga.attempt,
            saga.compensations.len(),
            saga.end_time.map(Timestamp::micros),
            saga.terminal_reason.as_ref().map(|reason| reason.as_str()),
            expired_revision(saga),
            lease.token,
            lease.purpose,
            lease.acquire,
            lease.heartbeat,
            lease.expire,
            lease.ttl,
            lease.limit,
            lease.progress_time,
            lease.standing,
            lease.owner,
            rare_fields::of(saga),
        );
    }

    fn event(&mut self, saga: RowId, event: &'a Event) {
        // A claim's details are in separate columns.
        let claim = event.details.claim().filter(|_| !matches!(event.mark, Some(StaleMark::Stale { .. })));
        let details = (claim.is_none() && !event.details.is_empty()).then(|| decode::json(&event.details));
        let (owner, marked_expire_time, cause) = match &event.mark {
            Some(StaleMark::Stale { owner, expire_time, cause, .. }) => {
                (Some(owner.as_str()), Some(*expire_time), Some(cause.code()))
            }
            Some(StaleMark::Resolved(_)) | None => (None, None, None),
        };
        let expire_time = claim.map(|claim| claim.expire_time).or(marked_expire_time);
        add_row!(self.events;
            event.revision.0,
            saga.0,
            event.time.micros(),
            event.kind.code(),
            event.from_state.map(Coded::code),
            event.to_state.code(),
            event.token.map(|token| token.0),
            event.actor.as_ref().map(|actor| actor.as_str()),
            Some(&*event.reason).filter(|reason| !reason.is_empty()),
            details,
            expire_time.map(Timestamp::micros),
            claim.map(|claim| claim.purpose.code()),
            claim.map(|claim| i64::from(claim.attempt)),
            event.mark.as_ref().map(|mark| mark_code(Some(mark))),
            owner,
            cause,
        );
    }
}

/// The columns of a lease, all NULL without one.
#[derive(Default)]
struct LeaseColumns<'a> {
    token: Option<i64>,
    purpose: Option<i64>,
    acquire: Option<i64>,
    heartbeat: Option<i64>,
    expire: Option<i64>,
    ttl: Option<i64>,
    limit: Option<i64>,
    progress_time: Option<i64>,
    standing: Option<i64>,
    owner: Option<&'a str>,
}

impl<'a> LeaseColumns<'a> {
    fn of(lease: Option<&'a Lease>) -> Self {
        let Some(lease) = lease else { return LeaseColumns::default() };
        LeaseColumns {
            token: Some(lease.token.0),
            purpose: Some(lease.purpose.code()),
            acquire: Some(lease.acquire_time.micros()),
            heartbeat: Some(lease.heartbeat_time.micros()),
            expire: Some(lease.expire_time.micros()),
            ttl: Some(lease.ttl.micros()),
            limit: Some(lease.limit.code()),
            progress_time: Some(lease.progress_time.micros()),
            standing: Some(standing_code(lease.standing)),
            owner: Some(lease.owner.as_str()),
        }
    }
}

fn add_work<'a>(rows: &mut ColumnArrays<'a>, id: RowId, queue: i64, saga: &'a Saga, derived: &DerivedFields) {
    let lease = LeaseColumns::of(saga.lease.as_ref());
    let ready_since = derived
        .ready
        .filter(|purpose| *purpose == LeasePurpose::Execute)
        .map(|_| saga.not_before.map_or(saga.spec.create_time, |time| time.max(saga.spec.create_time)).micros());
    add_row!(rows;
        id.0,
        queue,
        -i64::from(saga.spec.priority),
        derived.ready.map(Coded::code),
        ready_since,
        saga.state.code(),
        saga.revision.0,
        saga.update_time.micros(),
        derived.due.map(|due| due.at.micros()),
        derived.due.and_then(|due| due.grace_reference).map(Timestamp::micros),
        saga.attempt,
        saga.compensations.len(),
        expired_revision(saga),
        lease.token,
        lease.purpose,
        lease.acquire,
        lease.heartbeat,
        lease.expire,
        lease.ttl,
        lease.limit,
        lease.progress_time,
        lease.standing,
        lease.owner,
        rare_fields::of(saga),
    );
}

/// The states of a queue's sagas, from their stored codes and counts.
pub(super) fn state_count(code: i64, sagas: i64) -> Option<(State, u64)> {
    Some((State::decode(code)?, u64::try_from(sagas).ok().filter(|sagas| *sagas > 0)?))
}
