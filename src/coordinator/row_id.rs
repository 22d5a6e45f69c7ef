//! [`RowId`]: the row number of a saga.

/// A saga's row number, in order of creation. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId(pub i64);

/// Hashes row numbers. The coordinator assigns them one after the other, so nobody can provoke collisions.
pub type RowIdBuildHasher = std::hash::BuildHasherDefault<RowIdHasher>;

/// The hasher of [`RowIdBuildHasher`]: one multiplication, then the upper half is folded into the lower.
#[derive(Clone, Copy, Debug, Default)]
pub struct RowIdHasher(u64);

impl std::hash::Hasher for RowIdHasher {
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
