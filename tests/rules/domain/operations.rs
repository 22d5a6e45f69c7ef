//! Short constructors of operations.

use sagad::domain::{
    command::{Holder, HolderOperation, Operation, RecoveryDecision, UnleasedOperation},
    compensation::CompensationOutcome,
    ids::FencingToken,
    lease::LeasePurpose,
    text::Labels,
    time::Span,
};

use super::test_saga::{TTL, actor, blob, owner, specs, text};

fn held(holder: &Holder, operation: HolderOperation) -> Operation {
    Operation::ByHolder(holder.clone(), operation)
}

pub fn heartbeat(holder: &Holder) -> Operation {
    held(holder, HolderOperation::Heartbeat { ttl: None, progress: None })
}

pub fn heartbeat_for(holder: &Holder, ttl: Span) -> Operation {
    held(holder, HolderOperation::Heartbeat { ttl: Some(ttl), progress: None })
}

pub fn progress(holder: &Holder, progress: &str) -> Operation {
    held(holder, HolderOperation::Heartbeat { ttl: None, progress: Some(blob(progress)) })
}

pub fn release(holder: &Holder) -> Operation {
    release_for(holder, Span::ZERO)
}

pub fn release_for(holder: &Holder, delay: Span) -> Operation {
    held(holder, HolderOperation::Release { delay, reason: text("giving it back"), progress: None })
}

pub fn register(holder: &Holder, kinds: &[&str]) -> Operation {
    held(holder, HolderOperation::RegisterCompensation { compensations: specs(kinds) })
}

pub fn complete(holder: &Holder, result: &str) -> Operation {
    held(holder, HolderOperation::Complete { result: blob(result), reason: text(""), progress: None })
}

pub fn fail(holder: &Holder) -> Operation {
    fail_with(holder, &[])
}

pub fn fail_with(holder: &Holder, kinds: &[&str]) -> Operation {
    held(
        holder,
        HolderOperation::Fail { reason: text("broken"), compensations: specs(kinds), retryable: false, progress: None },
    )
}

pub fn retry(holder: &Holder) -> Operation {
    held(
        holder,
        HolderOperation::Fail { reason: text("try again"), compensations: vec![], retryable: true, progress: None },
    )
}

pub fn done(holder: &Holder, position: u32) -> Operation {
    record(holder, position, CompensationOutcome::Done)
}

pub fn failed(holder: &Holder, position: u32) -> Operation {
    record(holder, position, CompensationOutcome::Failed)
}

fn record(holder: &Holder, position: u32, outcome: CompensationOutcome) -> Operation {
    held(holder, HolderOperation::RecordCompensation { position, outcome, detail: text("as it went") })
}

pub fn compensate(holder: &Holder) -> Operation {
    held(holder, HolderOperation::Compensate { reason: text("") })
}

pub fn quarantine_held(holder: &Holder) -> Operation {
    held(holder, HolderOperation::Quarantine { reason: text("beyond me") })
}

pub fn dispatch(assignee: &str, ttl: Span) -> Operation {
    Operation::Unleased(UnleasedOperation::Dispatch {
        assignee: owner(assignee),
        ttl,
        actor: actor("ann"),
        reason: text("yours"),
    })
}

pub fn claim(by: &str) -> Operation {
    claim_for(by, TTL, LeasePurpose::Execute)
}

pub fn claim_for(by: &str, ttl: Span, purpose: LeasePurpose) -> Operation {
    Operation::Unleased(UnleasedOperation::Claim { owner: owner(by), ttl, purpose, reason: text("") })
}

pub fn claim_undo(by: &str) -> Operation {
    claim_for(by, TTL, LeasePurpose::Compensate)
}

pub fn waive(position: u32) -> Operation {
    Operation::Unleased(UnleasedOperation::WaiveCompensation {
        position,
        actor: actor("ann"),
        reason: text("not needed"),
    })
}

pub fn quarantine_by_operator(revoke_lease: bool) -> Operation {
    Operation::Unleased(UnleasedOperation::Quarantine { actor: actor("ann"), reason: text("look at it"), revoke_lease })
}

pub fn recover(decision: RecoveryDecision) -> Operation {
    recover_lease(decision, None, false)
}

pub fn recover_lease(decision: RecoveryDecision, token: Option<FencingToken>, validate_only: bool) -> Operation {
    Operation::Unleased(UnleasedOperation::Recover {
        decision,
        actor: actor("ann"),
        reason: text("decided"),
        token,
        validate_only,
    })
}

pub fn cancel(revoke_lease: bool) -> Operation {
    Operation::Unleased(UnleasedOperation::RequestCancel {
        actor: actor("ann"),
        reason: text("no longer wanted"),
        revoke_lease,
    })
}

pub fn revoke(holder: &Holder) -> Operation {
    let (actor, reason) = (actor("ann"), text("its token leaked"));
    Operation::Unleased(UnleasedOperation::RevokeLease { token: holder.token, actor, reason })
}

pub fn annotate(note: &str) -> Operation {
    annotate_with(note, &[], None)
}

pub fn amend(reason: &str) -> Operation {
    annotate_with("amended", &[], Some(reason))
}

pub fn annotate_with(note: &str, details: &[(&str, &str)], reason: Option<&str>) -> Operation {
    let pairs = details.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Operation::Unleased(UnleasedOperation::Annotate {
        actor: actor("ann"),
        note: text(note),
        details: Labels::parse(pairs).unwrap(),
        terminal_reason: reason.map(text),
    })
}
