//! [`SagaPool`]: the ids of a run's sagas, and the order in which they are claimed. Both are computed from a number,
//! so that ten million of them take no memory.

use std::sync::atomic::{AtomicU64, Ordering};

use uuid::Builder;

use super::args::Ids;

/// The sagas that a run created before the measurement, handed out one by one.
pub struct SagaPool {
    run: u64,
    ids: Ids,
    total: u64,
    stride: u64,
    given: AtomicU64,
    /// The queue, if it is another's.
    queue: Option<String>,
}

impl SagaPool {
    /// A pool of sagas of the run with this number.
    pub fn new(run: u32, ids: Ids, total: u64) -> Self {
        SagaPool { run: run.into(), ids, total, stride: stride(total), given: AtomicU64::new(0), queue: None }
    }

    /// The same in this queue instead of its own.
    pub fn in_queue(self, queue: String) -> Self {
        SagaPool { queue: Some(queue), ..self }
    }

    /// How many there are.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The queue that they are in.
    pub fn queue(&self) -> String {
        self.queue.clone().unwrap_or_else(|| format!("bench-{:08x}", self.run))
    }

    /// The id of the `n`th created saga.
    pub fn task_id(&self, n: u64) -> String {
        match self.ids {
            Ids::Ordered => format!("b{:08x}-{n:010}", self.run),
            Ids::Random => {
                let mut bytes = [0; 16];
                bytes[..8].copy_from_slice(&self.first_half(n).to_be_bytes());
                bytes[8..].copy_from_slice(&mix(n.wrapping_add(self.run)).to_be_bytes());
                Builder::from_random_bytes(bytes).into_uuid().to_string()
            }
        }
    }

    /// The first half of a random id, as a number.
    fn first_half(&self, n: u64) -> u64 {
        mix(n ^ (self.run << 32))
    }

    /// All of them, roughly in the order of their ids, in which a store is filled several times faster than in random
    /// order. The measurement is not affected, since random ones are claimed in an order that is random in rows and
    /// ids. Takes 8 bytes each.
    pub fn by_id(&self) -> Vec<u64> {
        let mut all: Vec<u64> = (0..self.total).collect();
        match self.ids {
            Ids::Ordered => {}
            Ids::Random => all.sort_unstable_by_key(|n| self.first_half(*n)),
        }
        all
    }

    /// The next id that was not handed out yet; none if all were.
    pub fn next(&self) -> Option<String> {
        let place = self.given.fetch_add(1, Ordering::Relaxed);
        (place < self.total).then(|| self.task_id(self.nth(place)))
    }

    /// The number of the saga that is handed out as the `place`th.
    fn nth(&self, place: u64) -> u64 {
        match self.ids {
            Ids::Ordered => place,
            Ids::Random => {
                let product = u128::from(place) * u128::from(self.stride);
                u64::try_from(product % u128::from(self.total)).unwrap_or(place)
            }
        }
    }
}

/// A step that visits all of `total` before it returns to the first, and that puts neighbours in time far apart: each
/// dirties a page of its own, which is what makes a random order hard for a store.
fn stride(total: u64) -> u64 {
    // About the golden ratio of the whole, in integers.
    let about = u128::from(total) * 618_034 / 1_000_000;
    let mut stride = u64::try_from(about).unwrap_or(1).max(1);
    while common_divisor(stride, total) > 1 {
        stride += 1;
    }
    stride
}

fn common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// A bijection of numbers without a visible order (the finalizer of SplitMix64).
fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn all(ids: Ids, total: u64) -> Vec<String> {
        let pool = SagaPool::new(7, ids, total);
        std::iter::from_fn(|| pool.next()).collect()
    }

    #[test]
    fn each_created_saga_is_handed_out_once() {
        for ids in [Ids::Ordered, Ids::Random] {
            for total in [0, 1, 2, 3, 10, 1000, 1024, 4999] {
                let pool = SagaPool::new(7, ids, total);
                let created: BTreeSet<_> = (0..total).map(|n| pool.task_id(n)).collect();
                let given = all(ids, total);
                assert_eq!(given.len() as u64, total, "{ids:?} {total}");
                assert_eq!(given.into_iter().collect::<BTreeSet<_>>(), created, "{ids:?} {total}");
            }
        }
    }

    #[test]
    fn only_ordered_ids_sort_in_creation_order() {
        let sorted = |ids| all(ids, 100).windows(2).filter(|pair| pair[0] < pair[1]).count();
        assert_eq!(sorted(Ids::Ordered), 99);
        assert!((25..75).contains(&sorted(Ids::Random)), "{}", sorted(Ids::Random));
    }

    #[test]
    fn by_id_lists_each_saga_once_in_id_order() {
        for ids in [Ids::Ordered, Ids::Random] {
            let pool = SagaPool::new(7, ids, 1000);
            let sorted: Vec<_> = pool.by_id().into_iter().map(|n| pool.task_id(n)).collect();
            assert!(sorted.is_sorted(), "{ids:?}");
            assert_eq!(sorted.into_iter().collect::<BTreeSet<_>>().len(), 1000);
        }
    }

    #[test]
    fn consecutive_random_sagas_were_created_far_apart() {
        let pool = SagaPool::new(7, Ids::Random, 1000);
        let places: Vec<u64> = (0..1000).map(|place| pool.nth(place)).collect();
        assert!(places.windows(2).all(|pair| pair[0].abs_diff(pair[1]) > 300));
    }
}
