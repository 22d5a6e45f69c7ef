//! Commands, briefly.

use sagad::domain::{
    command::{FreeVerb, HeldVerb, Holder, RecoveryDecision, Verb},
    compensation::CompensationOutcome,
    ids::FencingToken,
    lease::LeasePurpose,
    text::Labels,
    time::Span,
};

use super::world::{TTL, actor, blob, owner, specs, text};

fn held(holder: &Holder, verb: HeldVerb) -> Verb {
    Verb::Held(holder.clone(), verb)
}

pub fn heartbeat(holder: &Holder) -> Verb {
    held(holder, HeldVerb::Heartbeat { ttl: None, progress: None })
}

pub fn heartbeat_for(holder: &Holder, ttl: Span) -> Verb {
    held(holder, HeldVerb::Heartbeat { ttl: Some(ttl), progress: None })
}

pub fn progress(holder: &Holder, progress: &str) -> Verb {
    held(holder, HeldVerb::Heartbeat { ttl: None, progress: Some(blob(progress)) })
}

pub fn release(holder: &Holder) -> Verb {
    release_for(holder, Span::ZERO)
}

pub fn release_for(holder: &Holder, delay: Span) -> Verb {
    held(holder, HeldVerb::Release { delay, reason: text("giving it back"), progress: None })
}

pub fn register(holder: &Holder, kinds: &[&str]) -> Verb {
    held(holder, HeldVerb::RegisterCompensation { compensations: specs(kinds) })
}

pub fn complete(holder: &Holder, result: &str) -> Verb {
    held(holder, HeldVerb::Complete { result: blob(result), reason: text(""), progress: None })
}

pub fn fail(holder: &Holder) -> Verb {
    fail_with(holder, &[])
}

pub fn fail_with(holder: &Holder, kinds: &[&str]) -> Verb {
    held(
        holder,
        HeldVerb::Fail { reason: text("broken"), compensations: specs(kinds), retryable: false, progress: None },
    )
}

pub fn retry(holder: &Holder) -> Verb {
    held(holder, HeldVerb::Fail { reason: text("try again"), compensations: vec![], retryable: true, progress: None })
}

pub fn done(holder: &Holder, position: u32) -> Verb {
    record(holder, position, CompensationOutcome::Done)
}

pub fn failed(holder: &Holder, position: u32) -> Verb {
    record(holder, position, CompensationOutcome::Failed)
}

fn record(holder: &Holder, position: u32, outcome: CompensationOutcome) -> Verb {
    held(holder, HeldVerb::RecordCompensation { position, outcome, detail: text("as it went") })
}

pub fn compensate(holder: &Holder) -> Verb {
    held(holder, HeldVerb::Compensate { reason: text("") })
}

pub fn park_held(holder: &Holder) -> Verb {
    held(holder, HeldVerb::Quarantine { reason: text("beyond me") })
}

pub fn dispatch(assignee: &str, ttl: Span) -> Verb {
    Verb::Free(FreeVerb::Dispatch { assignee: owner(assignee), ttl, actor: actor("ann"), reason: text("yours") })
}

pub fn claim(by: &str) -> Verb {
    claim_for(by, TTL, LeasePurpose::Execute)
}

pub fn claim_for(by: &str, ttl: Span, purpose: LeasePurpose) -> Verb {
    Verb::Free(FreeVerb::Claim { owner: owner(by), ttl, purpose, reason: text("") })
}

pub fn claim_undo(by: &str) -> Verb {
    claim_for(by, TTL, LeasePurpose::Compensate)
}

pub fn waive(position: u32) -> Verb {
    Verb::Free(FreeVerb::WaiveCompensation { position, actor: actor("ann"), reason: text("not needed") })
}

pub fn park(revoke_lease: bool) -> Verb {
    Verb::Free(FreeVerb::Quarantine { actor: actor("ann"), reason: text("look at it"), revoke_lease })
}

pub fn recover(decision: RecoveryDecision) -> Verb {
    recover_lease(decision, None, false)
}

pub fn recover_lease(decision: RecoveryDecision, token: Option<FencingToken>, validate_only: bool) -> Verb {
    Verb::Free(FreeVerb::Recover { decision, actor: actor("ann"), reason: text("decided"), token, validate_only })
}

pub fn cancel(revoke_lease: bool) -> Verb {
    Verb::Free(FreeVerb::RequestCancel { actor: actor("ann"), reason: text("no longer wanted"), revoke_lease })
}

pub fn revoke(holder: &Holder) -> Verb {
    let (actor, reason) = (actor("ann"), text("its token leaked"));
    Verb::Free(FreeVerb::RevokeLease { token: holder.token, actor, reason })
}

pub fn annotate(note: &str) -> Verb {
    annotate_with(note, &[], None)
}

pub fn amend(reason: &str) -> Verb {
    annotate_with("amended", &[], Some(reason))
}

pub fn annotate_with(note: &str, details: &[(&str, &str)], reason: Option<&str>) -> Verb {
    let pairs = details.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Verb::Free(FreeVerb::Annotate {
        actor: actor("ann"),
        note: text(note),
        details: Labels::parse(pairs).unwrap(),
        terminal_reason: reason.map(text),
    })
}
