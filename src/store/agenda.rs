//! What is due when, in memory: live leases, reservations, delays, compensations that nobody runs.
//!
//! There is no index on expiry times in the store: every heartbeat would have to move an entry of it. The agenda is
//! rebuilt at start from a scan, and follows each write.

use std::collections::{BTreeSet, HashMap};

use crate::domain::{lease::Absence, time::Timestamp, transition::Due};

use super::rows::RowId;

/// Sagas in the order in which something is due to them.
#[derive(Debug, Default)]
pub struct Agenda {
    order: BTreeSet<(Timestamp, RowId)>,
    due: HashMap<RowId, (Timestamp, Due)>,
}

impl Agenda {
    /// Sets or clears what is due to a saga.
    pub fn set(&mut self, id: RowId, due: Option<Due>, absence: &Absence) {
        let entry = due.map(|due| (due.effective(absence), due));
        let before = match entry {
            Some(entry) => self.due.insert(id, entry),
            None => self.due.remove(&id),
        };
        if before.map(|(at, _)| at) == entry.map(|(at, _)| at) {
            return;
        }
        if let Some((at, _)) = before {
            self.order.remove(&(at, id));
        }
        if let Some((at, _)) = entry {
            self.order.insert((at, id));
        }
    }

    /// The next instant at which something is due.
    pub fn next(&self) -> Option<Timestamp> {
        self.order.first().map(|(at, _)| *at)
    }

    /// A saga to which something is due by `now`: the one longest overdue.
    pub fn due_by(&self, now: Timestamp) -> Option<RowId> {
        self.order.first().filter(|(at, _)| *at <= now).map(|(_, id)| *id)
    }

    /// Puts off what an absence puts off.
    pub fn after_absence(&mut self, absence: &Absence) {
        self.order.clear();
        for (id, (at, due)) in &mut self.due {
            *at = due.effective(absence);
            self.order.insert((*at, *id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::Span;

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    #[test]
    fn it_is_in_order_and_follows_changes() {
        let absence = Absence::default();
        let mut agenda = Agenda::default();
        let due = |t| Some(Due { at: at(t), running_since: Some(at(0)) });
        agenda.set(RowId(1), due(30), &absence);
        agenda.set(RowId(2), due(20), &absence);
        assert_eq!(agenda.next(), Some(at(20)));
        assert_eq!(agenda.due_by(at(19)), None);
        assert_eq!(agenda.due_by(at(20)), Some(RowId(2)));
        agenda.set(RowId(2), due(40), &absence);
        assert_eq!(agenda.due_by(at(30)), Some(RowId(1)));
        agenda.set(RowId(1), None, &absence);
        agenda.set(RowId(2), None, &absence);
        assert_eq!(agenda.next(), None);
    }

    #[test]
    fn p6_an_absence_puts_leases_off_but_not_delays() {
        let mut agenda = Agenda::default();
        agenda.set(RowId(1), Some(Due { at: at(30), running_since: Some(at(0)) }), &Absence::default());
        agenda.set(RowId(2), Some(Due { at: at(40), running_since: None }), &Absence::default());
        agenda.after_absence(&Absence { returned_at: at(50), grace: Span::from_micros(100).unwrap() });
        assert_eq!(agenda.due_by(at(149)), Some(RowId(2)));
        agenda.set(RowId(2), None, &Absence::default());
        assert_eq!(agenda.next(), Some(at(150)));
    }
}
