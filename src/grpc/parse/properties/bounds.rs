//! The contract's bounds on parsed requests, written a second time, independently of the parsers.

use std::collections::HashSet;

use crate::{
    domain::{
        bounds::{self, Bound},
        characters::is_control,
        command::{Command, Creation, HolderOperation, Operation, Purge, UnleasedOperation},
        compensation::CompensationSpec,
        policy::Policy,
        saga::State,
        text::{Blob, Labels},
        time::Span,
    },
    grpc::parse::{
        queries::{ListEventsQuery, ListQueuesQuery, ListSagasQuery, WatchQuery},
        session::SessionItem,
        unleased_operations::Revocation,
    },
};

/// The value of a bound as `GetServerInfo` returns it.
fn bound_value(name: &str) -> i64 {
    let found = bounds::ALL.iter().find(|Bound { name: known, .. }| *known == name);
    found.map(|bound| bound.value).expect("the bound is told")
}

fn at_most(name: &str, value: usize) {
    assert!(value as i64 <= bound_value(name), "{value} is more than {name}");
}

fn id(value: &str) {
    at_most("id_bytes", value.len());
    name(value);
}

fn queue(value: &str) {
    at_most("queue_bytes", value.len());
    name(value);
}

/// Safe in a URL, a file name and a shell word.
fn name(value: &str) {
    let safe = |b: u8| b.is_ascii_alphanumeric() || b"._:/@+-".contains(&b);
    assert!(value.bytes().all(safe) && !value.contains(".."), "{value:?}");
    assert!(value.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric), "{value:?}");
}

fn printable(bound: &str, value: &str) {
    at_most(bound, value.len());
    assert!(!value.is_empty() && !value.contains(is_control), "{value:?}");
}

fn text(value: &str) {
    at_most("text_bytes", value.len());
    assert!(!value.contains('\0'), "{value:?}");
}

fn needed(value: &str) {
    assert!(!value.is_empty());
    text(value);
}

fn blob(value: &Blob) {
    at_most("blob_bytes", value.bytes().len());
}

fn labels(labels: &Labels) {
    at_most("labels", labels.pairs().len());
    for (key, value) in labels.pairs() {
        printable("label_key_bytes", key);
        at_most("label_value_bytes", value.len());
        assert!(!value.contains('\0'), "{value:?}");
    }
}

fn between(least: i64, value: Span, most: &str) {
    assert!(least <= value.micros() && value.micros() <= bound_value(most), "{value} is not within {least} and {most}");
}

fn ttl(value: Span) {
    between(bound_value("ttl_min"), value, "ttl_max");
}

fn compensations(specs: &[CompensationSpec]) {
    at_most("compensations", specs.len());
    let each_once: HashSet<_> = specs.iter().map(|spec| (spec.kind.as_str(), spec.target.as_str())).collect();
    assert_eq!(each_once.len(), specs.len());
    for spec in specs {
        printable("kind_bytes", spec.kind.as_str());
        text(spec.target.as_str());
        text(spec.reason.as_str());
    }
}

fn policy(policy: &Policy) {
    for count in [policy.max_attempts, policy.max_expirations] {
        assert!(1 <= count && i64::from(count) <= bound_value("count_max"), "{count}");
    }
    for length in [policy.retry_backoff, policy.retry_backoff_max, policy.settle] {
        between(0, length, "delay_max");
    }
    let timeouts = [policy.execution_timeout, policy.progress_timeout, Some(policy.compensation_timeout)];
    for timeout in timeouts.into_iter().flatten() {
        between(1, timeout, "delay_max");
    }
}

fn creation(creation: &Creation) {
    id(creation.task_id.as_str());
    id(creation.saga_id.as_str());
    queue(creation.queue.as_str());
    text(creation.branch.as_str());
    text(creation.worktree.as_str());
    labels(&creation.labels);
    blob(&creation.payload);
    compensations(&creation.compensations);
    policy(&creation.policy);
    between(0, creation.delay, "delay_max");
    if let Some(earlier) = &creation.retry_of {
        id(earlier.as_str());
    }
}

/// Checks a command against the contract's bounds.
pub fn command(command: &Command) {
    match command {
        Command::Create(creations) => {
            at_most("batch_sagas", creations.len());
            let tasks: HashSet<_> = creations.iter().map(|c| &c.task_id).collect();
            let sagas: HashSet<_> = creations.iter().map(|c| &c.saga_id).collect();
            assert!(!creations.is_empty() && tasks.len() == creations.len() && sagas.len() == creations.len());
            creations.iter().for_each(creation);
        }
        Command::ClaimNext(claim) => {
            at_most("queues", claim.queues.len());
            let once: HashSet<_> = claim.queues.iter().collect();
            assert!(!claim.queues.is_empty() && once.len() == claim.queues.len());
            claim.queues.iter().for_each(|name| queue(name.as_str()));
            id(claim.owner.as_str());
            ttl(claim.ttl);
            at_most("claim_sagas", claim.max_sagas);
            assert!(claim.max_sagas > 0);
            between(0, claim.wait, "wait_max");
            at_most("kinds", claim.kinds.len());
            claim.kinds.iter().for_each(|kind| printable("kind_bytes", kind.as_str()));
        }
        Command::Change(change) => {
            id(change.task_id.as_str());
            match &change.operation {
                Operation::ByHolder(holder, operation) => {
                    id(holder.owner.as_str());
                    token(holder.token.0);
                    holder_operation(operation);
                }
                Operation::Unleased(operation) => unleased_operation(operation),
            }
        }
        Command::SetPaused(pause) => {
            queue(pause.queue.as_str());
            printable("actor_bytes", pause.actor.as_str());
            text(pause.reason.as_str());
        }
        Command::Purge(wanted) => purge(wanted),
    }
}

fn token(token: i64) {
    assert!(0 < token && token < bounds::REVISION_MAX, "{token}");
}

fn holder_operation(operation: &HolderOperation) {
    match operation {
        HolderOperation::Heartbeat { ttl: length, progress } => {
            length.iter().for_each(|length| ttl(*length));
            progress.iter().for_each(blob);
        }
        HolderOperation::Release { delay, reason, progress } => {
            between(0, *delay, "delay_max");
            text(reason.as_str());
            progress.iter().for_each(blob);
        }
        HolderOperation::RegisterCompensation { compensations: specs } => {
            assert!(!specs.is_empty());
            compensations(specs);
        }
        HolderOperation::Complete { result, reason, progress } => {
            blob(result);
            text(reason.as_str());
            progress.iter().for_each(blob);
        }
        HolderOperation::Fail { reason, compensations: specs, retryable: _, progress } => {
            needed(reason.as_str());
            compensations(specs);
            progress.iter().for_each(blob);
        }
        HolderOperation::RecordCompensation { position, outcome: _, detail } => {
            assert!(*position > 0);
            text(detail.as_str());
        }
        HolderOperation::Compensate { reason } => text(reason.as_str()),
        HolderOperation::Quarantine { reason } => needed(reason.as_str()),
    }
}

fn unleased_operation(operation: &UnleasedOperation) {
    match operation {
        UnleasedOperation::Dispatch { assignee, ttl: length, actor, reason } => {
            id(assignee.as_str());
            ttl(*length);
            printable("actor_bytes", actor.as_str());
            text(reason.as_str());
        }
        UnleasedOperation::Claim { owner, ttl: length, purpose: _, reason } => {
            id(owner.as_str());
            ttl(*length);
            text(reason.as_str());
        }
        UnleasedOperation::WaiveCompensation { position, actor, reason } => {
            assert!(*position > 0);
            printable("actor_bytes", actor.as_str());
            needed(reason.as_str());
        }
        UnleasedOperation::Recover { decision: _, actor, reason, token: about, validate_only: _ } => {
            printable("actor_bytes", actor.as_str());
            needed(reason.as_str());
            about.iter().for_each(|about| token(about.0));
        }
        // No request is parsed to this one: `RevokePrincipal` makes it.
        UnleasedOperation::RevokeLease { token: about, actor, reason } => {
            printable("actor_bytes", actor.as_str());
            needed(reason.as_str());
            token(about.0);
        }
        UnleasedOperation::Quarantine { actor, reason, revoke_lease: _ }
        | UnleasedOperation::RequestCancel { actor, reason, revoke_lease: _ } => {
            printable("actor_bytes", actor.as_str());
            needed(reason.as_str());
        }
        UnleasedOperation::Annotate { actor, note, details, terminal_reason } => {
            printable("actor_bytes", actor.as_str());
            text(note.as_str());
            labels(details);
            terminal_reason.iter().for_each(|reason| needed(reason.as_str()));
            assert!(!note.is_empty() || !details.pairs().is_empty() || terminal_reason.is_some());
        }
    }
}

/// Checks a revocation against the contract's bounds.
pub fn revocation(wanted: &Revocation) {
    id(wanted.principal.as_str());
    printable("actor_bytes", wanted.actor.as_str());
    needed(wanted.reason.as_str());
    at_most("revoke_leases", wanted.max_leases);
    assert!(wanted.max_leases > 0);
}

/// Checks a session item, except its call, against the contract's bounds.
pub fn item(item: &SessionItem) {
    assert!(item.timeout.is_none_or(|timeout| timeout >= Span::ZERO && timeout <= Span::from_secs(24 * 3600)));
}

/// Checks a purge against the contract's bounds.
pub fn purge(purge: &Purge) {
    assert!(!purge.states.is_empty() && purge.states.iter().all(|state| state.is_terminal()));
    assert_eq!(purge.states.iter().collect::<HashSet<_>>().len(), purge.states.len());
    at_most("purge_sagas", purge.max_sagas);
    assert!(purge.max_sagas > 0);
    printable("actor_bytes", purge.actor.as_str());
    text(purge.reason.as_str());
}

/// Checks a listing against the contract's bounds.
pub fn listing(listing: &ListSagasQuery) {
    page(listing.limit);
    assert!(listing.filter.states.len() <= State::ALL.len());
    at_most("queues", listing.filter.queues.len());
    labels(&listing.filter.labels);
}

/// Checks a page of events against the contract's bounds.
pub fn history(history: &ListEventsQuery) {
    page(history.limit);
    id(history.task_id.as_str());
}

/// Checks a page of queues against the contract's bounds.
pub fn queues(wanted: &ListQueuesQuery) {
    wanted.limit.iter().for_each(|limit| page(*limit));
    wanted.after.iter().for_each(|after| queue(after.as_str()));
}

/// Checks a watch against the contract's bounds.
pub fn watch(watch: &WatchQuery) {
    at_most("queues", watch.queues.len());
    assert!(watch.after.is_none_or(|after| after.0 >= 0));
}

fn page(limit: usize) {
    assert!(0 < limit);
    at_most("page_max", limit);
}
