//! Estimates how much memory a command holds, to bound the commands that wait for the writer.

use super::{
    command::{Change, Command, Creation, HolderOperation, Operation, UnleasedOperation},
    compensation::CompensationSpec,
    text::{Blob, Labels},
};

/// Bytes per item beside its text: the struct and the allocations.
const ITEM_BYTES: usize = 200;

impl Command {
    /// Approximate memory in bytes. Ids and short texts count a fixed amount.
    pub fn weight(&self) -> usize {
        match self {
            Command::Create(creations) => creations.iter().map(creation).sum(),
            Command::ClaimNext(claim) => ITEM_BYTES + (claim.queues.len() + claim.kinds.len()) * ITEM_BYTES,
            Command::Change(Change { operation: Operation::ByHolder(_, operation), .. }) => {
                ITEM_BYTES + holder_operation(operation)
            }
            Command::Change(Change { operation: Operation::Unleased(operation), .. }) => {
                ITEM_BYTES + unleased_operation(operation)
            }
            Command::SetPaused(_) | Command::Purge(_) => ITEM_BYTES,
        }
    }
}

fn creation(creation: &Creation) -> usize {
    let texts = creation.branch.as_str().len() + creation.worktree.as_str().len() + creation.payload.bytes().len();
    2 * ITEM_BYTES + texts + labels(&creation.labels) + compensations(&creation.compensations)
}

fn holder_operation(operation: &HolderOperation) -> usize {
    match operation {
        HolderOperation::Heartbeat { progress, .. } => maybe(progress),
        HolderOperation::RegisterCompensation { compensations: specs } => compensations(specs),
        HolderOperation::Fail { compensations: specs, progress, .. } => compensations(specs) + maybe(progress),
        HolderOperation::Complete { result, progress, .. } => result.bytes().len() + maybe(progress),
        HolderOperation::Release { reason, progress, .. } => reason.as_str().len() + maybe(progress),
        HolderOperation::Compensate { reason } | HolderOperation::Quarantine { reason } => reason.as_str().len(),
        HolderOperation::RecordCompensation { detail, .. } => detail.as_str().len(),
    }
}

fn maybe(blob: &Option<Blob>) -> usize {
    blob.as_ref().map_or(0, |blob| blob.bytes().len())
}

fn unleased_operation(operation: &UnleasedOperation) -> usize {
    match operation {
        UnleasedOperation::Dispatch { reason, .. }
        | UnleasedOperation::Claim { reason, .. }
        | UnleasedOperation::WaiveCompensation { reason, .. }
        | UnleasedOperation::Quarantine { reason, .. }
        | UnleasedOperation::Recover { reason, .. }
        | UnleasedOperation::RevokeLease { reason, .. }
        | UnleasedOperation::RequestCancel { reason, .. } => reason.as_str().len(),
        UnleasedOperation::Annotate { note, details, .. } => note.as_str().len() + labels(details),
    }
}

fn compensations(specs: &[CompensationSpec]) -> usize {
    specs.iter().map(|spec| ITEM_BYTES + spec.target.as_str().len() + spec.reason.as_str().len()).sum()
}

fn labels(labels: &Labels) -> usize {
    labels.pairs().iter().map(|(key, value)| ITEM_BYTES + key.len() + value.len()).sum()
}
