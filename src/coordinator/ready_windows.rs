//! [`ReadyWindows`]: the next sagas of each queue that any caller can claim, in memory.
//!
//! Millions of sagas may be ready, but only the first are needed. So memory holds the first few hundred of each queue
//! that is claimed from: a *window*, which is updated with each change in its range and extended by a scan of the
//! store when it has been used up.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
};

use crate::domain::{ids::QueueName, lease::LeasePurpose, saga::Saga};

use super::{ReadyPosition, ReadyScan, RowId};

/// How many sagas a scan reads. A window is cut to this when it has grown to twice as many.
const WINDOW: usize = 512;
/// Most sagas in all windows together: about 3 MB. Above that the windows of other queues are dropped.
const ALL: usize = 1 << 16;

/// One queue's next sagas for one purpose.
#[derive(Debug, Default)]
struct ReadyWindow {
    ready: BTreeSet<ReadyPosition>,
    /// It holds every ready saga up to this position; none: every one there is.
    through: Option<ReadyPosition>,
}

/// A queue's windows, one for each purpose.
type QueueWindows = [Option<ReadyWindow>; LeasePurpose::ALL.len()];

/// The windows of all queues that are claimed from.
#[derive(Debug, Default)]
pub(super) struct ReadyWindows {
    queues: HashMap<QueueName, QueueWindows>,
}

impl ReadyWindows {
    /// Updates a saga: for which purpose it is ready now, if any. Cuts a window that has grown too long.
    pub(super) fn set(&mut self, id: RowId, saga: &Saga, ready: Option<LeasePurpose>) {
        self.follow(id, saga, ready);
        if let Some(of_queue) = self.queues.get_mut(&saga.spec.queue) {
            of_queue.iter_mut().flatten().for_each(ReadyWindow::cut);
        }
    }

    /// Like [`Self::set`], but doesn't cut: used after a scan, whose caller wants all of what it found.
    pub(super) fn follow(&mut self, id: RowId, saga: &Saga, ready: Option<LeasePurpose>) {
        let Some(of_queue) = self.queues.get_mut(&saga.spec.queue) else { return };
        let position = (Reverse(saga.spec.priority), id);
        for purpose in LeasePurpose::ALL {
            let Some(window) = &mut of_queue[purpose as usize] else { continue };
            if ready != Some(purpose) {
                window.ready.remove(&position);
            } else if window.through.is_none_or(|through| position <= through) {
                window.ready.insert(position);
            }
        }
    }

    /// The first sagas of a queue; `None` if its window has too few and must be extended.
    pub(super) fn first(&self, purpose: LeasePurpose, queue: &QueueName, limit: usize) -> Option<Vec<ReadyPosition>> {
        let window = self.window(purpose, queue)?;
        if window.ready.len() < limit && window.through.is_some() {
            return None;
        }
        Some(window.ready.iter().take(limit).copied().collect())
    }

    /// The sagas of a queue's window, in claim order.
    pub(super) fn known(&self, purpose: LeasePurpose, queue: &QueueName) -> impl Iterator<Item = RowId> {
        let window = self.queues.get(queue).and_then(|of_queue| of_queue[purpose as usize].as_ref());
        window.into_iter().flat_map(|window| &window.ready).map(|(_, id)| *id)
    }

    /// The scan that extends a queue's window to `limit` sagas.
    pub(super) fn scan(&self, purpose: LeasePurpose, queue: &QueueName, limit: usize) -> ReadyScan {
        let after = self.window(purpose, queue).and_then(|window| window.through);
        ReadyScan { purpose, queue: queue.clone(), after, limit: limit.max(WINDOW) }
    }

    fn window(&self, purpose: LeasePurpose, queue: &QueueName) -> Option<&ReadyWindow> {
        self.queues.get(queue)?[purpose as usize].as_ref()
    }

    /// Adds what a scan found. What was changed since the last commit must be set again.
    pub(super) fn extend(&mut self, scan: &ReadyScan, found: &[ReadyPosition]) {
        if self.queues.values().flatten().flatten().map(|window| window.ready.len()).sum::<usize>() > ALL {
            self.queues.retain(|queue, _| *queue == scan.queue);
        }
        let of_queue = self.queues.entry(scan.queue.clone()).or_default();
        let window = of_queue[scan.purpose as usize].get_or_insert_default();
        window.through = if found.len() < scan.limit { None } else { found.last().copied() };
        window.ready.extend(found);
    }

    /// Drops all windows, because a turn was undone.
    pub(super) fn clear(&mut self) {
        self.queues.clear();
    }
}

impl ReadyWindow {
    /// Cuts the window when it has grown too long.
    fn cut(&mut self) {
        if self.ready.len() > 2 * WINDOW
            && let Some(first_out) = self.ready.iter().nth(WINDOW).copied()
        {
            self.ready.split_off(&first_out);
            self.through = self.ready.last().copied();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::saga::State;

    const EXECUTE: LeasePurpose = LeasePurpose::Execute;

    fn saga(priority: i32) -> Saga {
        let mut saga = crate::store::memory::testing::planned("t", "q");
        std::sync::Arc::make_mut(&mut saga.spec).priority = priority;
        assert_eq!(saga.state, State::Planned);
        saga
    }

    fn ids(windows: &ReadyWindows, limit: usize) -> Option<Vec<i64>> {
        let found = windows.first(EXECUTE, &saga(0).spec.queue, limit)?;
        Some(found.into_iter().map(|(_, id)| id.0).collect())
    }

    /// Scans a store whose ready sagas have these row numbers and priority 0.
    fn scan(windows: &mut ReadyWindows, stored: impl Iterator<Item = i64>, limit: usize) {
        let scan = windows.scan(EXECUTE, &saga(0).spec.queue, limit);
        let positions = stored.map(|id| (Reverse(0), RowId(id)));
        let behind = positions.filter(|position| scan.after.is_none_or(|after| *position > after));
        let found: Vec<_> = behind.take(scan.limit).collect();
        windows.extend(&scan, &found);
    }

    #[test]
    fn a_window_follows_changes_in_its_range_and_needs_a_scan_beyond_it() {
        let mut windows = ReadyWindows::default();
        assert_eq!(ids(&windows, 1), None, "nothing is known yet");
        windows.set(RowId(7), &saga(0), Some(EXECUTE));
        let all = WINDOW as i64 * 2;
        scan(&mut windows, 1..=all, 1);
        assert_eq!(ids(&windows, 2), Some(vec![1, 2]));
        // One saga after the window's range, and one before it.
        windows.set(RowId(all + 1), &saga(0), Some(EXECUTE));
        windows.set(RowId(all + 2), &saga(5), Some(EXECUTE));
        assert_eq!(ids(&windows, 2), Some(vec![all + 2, 1]));
        windows.set(RowId(all + 2), &saga(5), None);
        (1..=WINDOW as i64).for_each(|id| windows.set(RowId(id), &saga(0), None));
        assert_eq!(ids(&windows, 1), None, "all sagas in the window were claimed");
        scan(&mut windows, WINDOW as i64 + 1..=all + 1, 1);
        assert_eq!(ids(&windows, 1), Some(vec![WINDOW as i64 + 1]));
        scan(&mut windows, WINDOW as i64 + 1..=all + 1, 1);
        assert_eq!(ids(&windows, usize::MAX).map(|found| found.len()), Some(WINDOW + 1), "that is every saga");
        windows.clear();
        assert_eq!(ids(&windows, 1), None);
    }

    #[test]
    fn a_window_is_bounded_unless_a_scan_asks_for_more() {
        let mut windows = ReadyWindows::default();
        scan(&mut windows, std::iter::empty(), 1);
        (1..=10 * WINDOW as i64).for_each(|id| windows.set(RowId(id), &saga(0), Some(EXECUTE)));
        assert!(ids(&windows, 2 * WINDOW + 1).is_none(), "the window does not grow with each created saga");
        assert_eq!(ids(&windows, 1), Some(vec![1]));
        // A claim that skips many sagas needs a larger window, and changes in the same turn must not shorten it.
        let limit = 4 * WINDOW;
        scan(&mut windows, 1..=10 * WINDOW as i64, limit);
        windows.follow(RowId(1), &saga(0), Some(EXECUTE));
        assert_eq!(ids(&windows, limit).map(|found| found.len()), Some(limit));
        windows.set(RowId(1), &saga(0), Some(EXECUTE));
        assert_eq!(ids(&windows, limit), None);
    }
}
