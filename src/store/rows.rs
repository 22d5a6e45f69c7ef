//! Why rows can't be read or written, on the way to a [`Fault`](crate::coordinator::Fault).

pub use crate::coordinator::{Candidate, ContentBytes, Derived, Opening, Removed, RowId, StoredAnswer, StoredDue};

/// Hashes places. They are given one after the other and by nobody else, so nothing has to keep them from colliding on purpose.
pub type RowHasher = std::hash::BuildHasherDefault<PlaceHasher>;

/// What [`RowHasher`] hashes with: one multiplication, whose upper half goes into the lower.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlaceHasher(u64);

impl std::hash::Hasher for PlaceHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_i64((*byte).into()));
    }

    fn write_i64(&mut self, number: i64) {
        let spread = (self.0 ^ number.cast_unsigned()).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = spread ^ spread >> 32;
    }
}

/// Why rows can't be read or written.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RowsError {
    /// No room: the transaction did not happen.
    #[error("the disk is full")]
    Full,
    /// A stored row that makes no sense. Other rows may.
    #[error("a stored row can't be read: {0}")]
    Corrupt(String),
    /// The store can't be relied upon any more; a commit that failed this way may have happened.
    #[error("{0}")]
    Broken(String),
    /// The system refused a write; it has to be seen whether that was for lack of room. If not, it is like `Broken`.
    #[error("{0}")]
    Unwritten(String),
    /// The store's files were removed or replaced: what is written goes where the next start won't find it.
    #[error("{0}")]
    Gone(String),
}
