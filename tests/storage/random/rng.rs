//! [`Rng`]: random numbers that are the same for a seed in every version and on every machine.

use sagad::domain::time::Span;

/// SplitMix64. (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014)
pub struct Rng(pub u64);

impl Rng {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below a bound.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.roll() % bound as u64) as usize
    }

    /// True once in `n`.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    pub fn word(&mut self, all: &[&'static str]) -> &'static str {
        all[self.below(all.len())]
    }

    /// Some of the values, each at most once.
    pub fn some<T: Clone>(&mut self, all: &[T]) -> Vec<T> {
        all.iter().filter(|_| self.once_in(2)).cloned().collect()
    }

    /// A random length out of few, so that deadlines coincide.
    pub fn span(&mut self) -> Span {
        let micros = *self.pick(&[1, 100_000, 1_000_000, 1_000_000, 5_000_000, 30_000_000, 60_000_000, 3_600_000_000]);
        Span::from_micros(micros).unwrap()
    }
}
