//! Upper bounds of the size of sagas and answers.

use crate::domain::{command::Answer, saga::Saga};

use super::CallOutcome;

/// Bytes of a saga in an answer beside its blobs and texts: ids, times, numbers, tags.
pub(super) const SAGA_OVERHEAD_BYTES: usize = 2048;
/// Bytes of a label beside its texts.
const LABEL_OVERHEAD_BYTES: usize = 8;
/// Bytes of a compensation beside its texts.
const COMPENSATION_OVERHEAD_BYTES: usize = 512;

/// Upper bound of the encoded size of an outcome; also roughly its memory.
pub(super) fn answer_bytes(outcome: &CallOutcome) -> usize {
    match outcome {
        Ok(Answer::Saga(saga)) => encoded_size(saga),
        Ok(Answer::Sagas(sagas)) => sagas.iter().map(|saga| encoded_size(saga)).sum(),
        Ok(Answer::Lease(_) | Answer::Queue(_) | Answer::Purged(_)) | Err(_) => 0,
    }
}

/// Upper bound of the encoded size of a saga.
pub fn encoded_size(saga: &Saga) -> usize {
    saga_bytes(saga, SAGA_OVERHEAD_BYTES, LABEL_OVERHEAD_BYTES, COMPENSATION_OVERHEAD_BYTES)
}

/// The bytes of a saga's texts and contents, and these for itself, each label and each compensation.
pub(super) fn saga_bytes(saga: &Saga, itself: usize, label: usize, compensation: usize) -> usize {
    let spec = &saga.spec;
    let texts = [&spec.branch, &spec.worktree].map(|text| text.as_str().len()).iter().sum::<usize>();
    let labels = spec.labels.pairs().iter().map(|(key, value)| key.len() + value.len() + label).sum::<usize>();
    let blobs = [&spec.payload, &saga.progress, &saga.result].map(|blob| blob.bytes().len()).iter().sum::<usize>();
    let compensations = saga.compensations.iter().map(|undo| {
        let spec = &undo.spec;
        let texts = [&spec.target, &spec.reason, &undo.last_error].map(|text| text.as_str().len());
        compensation + spec.kind.as_str().len() + texts.iter().sum::<usize>()
    });
    let reasons = saga.cancel.as_ref().map_or(0, |cancel| cancel.reason.as_str().len());
    itself + texts + labels + blobs + reasons + compensations.sum::<usize>()
}
