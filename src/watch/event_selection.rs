//! [`EventSelection`]: the events of a run that a watcher wants.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    domain::event::Event,
    mutants::{self, Mutant},
    store::recent_events::{EncodedRun, EventRun},
};

/// At least one event of a run. Watchers that want the whole run share its encoding; the others get parts of it.
#[derive(Clone, Debug)]
pub struct EventSelection {
    run: Arc<EventRun>,
    /// The indexes of the wanted events, in order; none: all.
    indexes: Option<Vec<usize>>,
}

/// The encoding of a selection.
#[derive(Debug)]
pub enum SelectionBytes<'a> {
    /// The encoding of the whole run, shared with all watchers that want it.
    All(&'a Bytes),
    /// Parts of the run's encoding, in order.
    Parts(Vec<&'a [u8]>),
}

impl EventSelection {
    /// The whole run.
    pub(super) fn all(run: Arc<EventRun>) -> Self {
        EventSelection { run, indexes: None }
    }

    /// The wanted events of a run; `None` if there are none.
    pub(super) fn of(run: Arc<EventRun>, wants: impl Fn(&Event) -> bool) -> Option<Self> {
        let indexes: Vec<_> = (0..run.events().len()).filter(|index| wants(&run.events()[*index])).collect();
        if indexes.is_empty() {
            return None;
        }
        let all = indexes.len() == run.events().len();
        Some(EventSelection { run, indexes: (!all).then_some(indexes) })
    }

    /// The events, in order of revision.
    pub fn events(&self) -> impl Iterator<Item = &Arc<Event>> {
        let (all, some) = match &self.indexes {
            None => (self.run.events(), &[][..]),
            Some(indexes) => (&[][..], &indexes[..]),
        };
        all.iter().chain(some.iter().map(|index| &self.run.events()[*index]))
    }

    /// Their encoding. `encode` encodes the whole run, if no other watcher has needed that yet.
    pub fn encoded(&self, encode: impl FnOnce(&[Arc<Event>]) -> EncodedRun) -> SelectionBytes<'_> {
        let whole = self.run.encoded(encode);
        let Some(indexes) = &self.indexes else { return SelectionBytes::All(&whole.bytes) };
        let begin = |index: usize| index.checked_sub(1).map_or(0, |before| whole.ends[before]);
        if mutants::on(Mutant::WatchSelectionsIgnored) {
            return SelectionBytes::All(&whole.bytes);
        }
        SelectionBytes::Parts(indexes.iter().map(|index| &whole.bytes[begin(*index)..whole.ends[*index]]).collect())
    }
}
