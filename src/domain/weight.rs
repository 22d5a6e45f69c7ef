//! Estimates how much memory a command holds, to bound the commands that wait for the writer.

use super::{
    command::{Change, Command, Creation, FreeVerb, HeldVerb, Verb},
    compensation::CompensationSpec,
    text::{Blob, Labels},
};

/// Bytes per item beside its text: the struct and the allocations.
const EACH: usize = 200;

impl Command {
    /// Approximate memory in bytes. Ids and short texts count a fixed amount.
    pub fn weight(&self) -> usize {
        match self {
            Command::Create(creations) => creations.iter().map(creation).sum(),
            Command::ClaimNext(claim) => EACH + (claim.queues.len() + claim.kinds.len()) * EACH,
            Command::Change(Change { verb: Verb::Held(_, verb), .. }) => EACH + held(verb),
            Command::Change(Change { verb: Verb::Free(verb), .. }) => EACH + free(verb),
            Command::SetPaused(_) | Command::Purge(_) => EACH,
        }
    }
}

fn creation(creation: &Creation) -> usize {
    let texts = creation.branch.as_str().len() + creation.worktree.as_str().len() + creation.payload.bytes().len();
    2 * EACH + texts + labels(&creation.labels) + compensations(&creation.compensations)
}

fn held(verb: &HeldVerb) -> usize {
    match verb {
        HeldVerb::Heartbeat { progress, .. } => maybe(progress),
        HeldVerb::RegisterCompensation { compensations: specs } => compensations(specs),
        HeldVerb::Fail { compensations: specs, progress, .. } => compensations(specs) + maybe(progress),
        HeldVerb::Complete { result, progress, .. } => result.bytes().len() + maybe(progress),
        HeldVerb::Release { reason, progress, .. } => reason.as_str().len() + maybe(progress),
        HeldVerb::Compensate { reason } | HeldVerb::Quarantine { reason } => reason.as_str().len(),
        HeldVerb::RecordCompensation { detail, .. } => detail.as_str().len(),
    }
}

fn maybe(blob: &Option<Blob>) -> usize {
    blob.as_ref().map_or(0, |blob| blob.bytes().len())
}

fn free(verb: &FreeVerb) -> usize {
    match verb {
        FreeVerb::Dispatch { reason, .. }
        | FreeVerb::Claim { reason, .. }
        | FreeVerb::WaiveCompensation { reason, .. }
        | FreeVerb::Quarantine { reason, .. }
        | FreeVerb::Recover { reason, .. }
        | FreeVerb::RevokeLease { reason, .. }
        | FreeVerb::RequestCancel { reason, .. } => reason.as_str().len(),
        FreeVerb::Annotate { note, details, .. } => note.as_str().len() + labels(details),
    }
}

fn compensations(specs: &[CompensationSpec]) -> usize {
    specs.iter().map(|spec| EACH + spec.target.as_str().len() + spec.reason.as_str().len()).sum()
}

fn labels(labels: &Labels) -> usize {
    labels.pairs().iter().map(|(key, value)| EACH + key.len() + value.len()).sum()
}
