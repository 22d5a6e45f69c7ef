//! Faults: the coordinator crashes, shuts down, stalls, or has no room; workers crash; watchers are disconnected.

use sagad::store::StoreError;

use super::{
    super::{simulated_daemon::SimulatedDaemon, simulated_watcher::SimulatedWatcher},
    SimulatedEvent, System, WATCHERS, WORKERS,
};

impl System {
    pub(super) fn crash(&mut self) {
        self.faults.crashes += 1;
        self.daemon = None;
        self.writing = None;
        self.down();
    }

    /// The coordinator is down for a while.
    pub(super) fn down(&mut self) {
        self.watchers.iter_mut().for_each(SimulatedWatcher::disconnect);
        if self.rng.chance(400) {
            self.faults.clock_steps += 1;
            self.wall = match self.steps_forward {
                true => self.rng.between(-3_600_000_000, 3_600_000_000),
                // Only back: a step forward, even one back to the right time, shortens a lease that the grace does not cover.
                false => self.wall - self.rng.between(0, 600_000_000),
            };
        }
        let long = self.rng.chance(60);
        let away = self.rng.between(1000, if long { 20_000_000 } else { 400_000 });
        self.after(away, SimulatedEvent::Restart);
    }

    pub(super) fn restart(&mut self) {
        self.checker.compare(&self.disk.data());
        let utc = self.now + self.wall;
        self.disk.set_room(None);
        self.daemon =
            Some(SimulatedDaemon::start(&self.disk, self.now, utc, self.grace, self.fault, &mut self.checker));
        self.schedule_turn(self.now);
    }

    pub(super) fn error(&mut self) {
        let delay = self.rng.between(50_000, 600_000);
        self.after(delay, SimulatedEvent::BackendError);
        match self.rng.below(30) {
            0 if self.daemon.is_some() => self.crash(),
            1 => self.closes = true,
            2 | 3 => {
                self.faults.stalls += 1;
                let long = self.rng.chance(300);
                self.busy_until = self.now + self.rng.between(100_000, if long { 15_000_000 } else { 2_000_000 });
                if self.writing.is_none() && self.daemon.is_some() {
                    self.schedule_turn(self.busy_until);
                }
            }
            4 => {
                self.faults.full += 1;
                let room = self.rng.below(20) as usize;
                self.disk.set_room(Some(room));
            }
            5..=14 => self.disk.set_room(None),
            15..=22 => self.crash_worker(),
            23..=27 => {
                self.faults.cuts += 1;
                let n = self.rng.below(WATCHERS as u64) as usize;
                self.watchers[n].disconnect();
            }
            _ => self.checker.compare(&self.disk.data()),
        }
    }

    pub(super) fn close(&mut self) {
        self.closes = false;
        let Some(daemon) = self.daemon.take() else { return };
        self.faults.closes += 1;
        for call in daemon.close(self.now) {
            self.answer(call, Err(StoreError::ShuttingDown));
        }
        self.down();
    }

    pub(super) fn crash_worker(&mut self) {
        self.faults.worker_crashes += 1;
        let n = self.rng.below(WORKERS as u64) as usize;
        self.stop_working(n);
        self.close_connection(n);
        let worker = &mut self.workers[n];
        worker.incarnation += 1;
        (worker.pending, worker.job) = (None, None);
        let away = self.rng.between(1000, 10_000_000);
        self.wake_after(n, away);
    }

    /// A worker's connection is closed; the coordinator may learn of it or not.
    pub(super) fn close_connection(&mut self, n: usize) {
        let told = self.rng.chance(500);
        if let Some(daemon) = self.daemon.as_mut().filter(|_| told) {
            daemon.close_connection(n, self.calls);
        }
    }
}
