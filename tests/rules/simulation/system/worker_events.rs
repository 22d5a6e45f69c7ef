//! The actions of workers and their answers, with a check of who works on which saga in true time.

use sagad::{
    domain::{
        command::{Answer, Command, Request},
        rejection::Rejection,
    },
    store::{CallOutcome, StoreError},
};

use super::{
    super::{
        operators,
        simulated_worker::{UnansweredCall, WorkerAction},
    },
    ActiveWork, Call, CallSource, System,
};

impl System {
    pub(super) fn wake(&mut self, n: usize) {
        if let Some(pending) = self.workers[n].pending.clone() {
            if self.rng.chance(700) {
                self.close_connection(n);
                return self.call(n, pending.id, pending.request, pending.first_sent);
            }
            // It gives up without knowing whether the call was executed.
            self.close_connection(n);
            self.workers[n].pending = None;
        }
        if self.rng.chance(30) {
            self.faults.pauses += 1;
            let pause = self.rng.between(1_000_000, 20_000_000);
            return self.wake_after(n, pause);
        }
        match self.workers[n].act(self.now, &self.queues, &mut self.rng) {
            WorkerAction::Call(command, keyed) => {
                let (id, request) = self.request(command, keyed);
                self.call(n, id, request, self.now);
            }
            WorkerAction::Recover => match operators::stale(self) {
                Some(task) => {
                    let command = self.workers[n].claim(task, &mut self.rng);
                    let keyed = self.rng.chance(700);
                    let (id, request) = self.request(command, keyed);
                    self.call(n, id, request, self.now);
                }
                None => self.wake_after(n, 200_000),
            },
            WorkerAction::Drop => {
                self.stop_working(n);
                self.workers[n].job = None;
                self.wake_after(n, 1000);
            }
            WorkerAction::Nothing => self.wake_after(n, 1000),
        }
    }

    pub(super) fn call(&mut self, n: usize, id: u64, request: Request, first_sent: i64) {
        let patience = self.rng.between(5_000, 1_500_000);
        let worker = &mut self.workers[n];
        let incarnation = worker.incarnation;
        worker.pending = Some(UnansweredCall { id, request: request.clone(), first_sent });
        if worker.job.as_ref().is_some_and(|job| job.finishing) {
            self.stop_working(n);
        }
        self.send(Call { id, from: CallSource::Worker(n, incarnation), request, sent: self.now });
        self.wake_after(n, patience);
    }

    pub(super) fn stop_working(&mut self, n: usize) {
        let Some(job) = &self.workers[n].job else { return };
        if let Some(place) = self.checker.place(&job.task)
            && self.active.get(&place).is_some_and(|active| active.worker == n && active.token == job.token)
        {
            self.active.remove(&place);
        }
    }

    /// A worker works on its saga until its own deadline. No other worker may work on it then.
    pub(super) fn work(&mut self, n: usize) {
        let worker = &self.workers[n];
        let Some(job) = worker.job.as_ref().filter(|job| !job.finishing) else { return };
        let until = worker.true_time(job.until);
        if until <= self.now || self.checker.revoked.contains(&job.token) {
            return;
        }
        let (Some(place), token) = (self.checker.place(&job.task), job.token) else { return };
        if let Some(other) = self.active.insert(place, ActiveWork { worker: n, token, until }) {
            let both = (other.worker != n || other.token != token) && other.until > self.now;
            assert!(
                !both,
                "P5: w{} and w{n} work on {:?} at once, {} us",
                other.worker,
                job.task,
                other.until - self.now
            );
        }
    }

    pub(super) fn answered(&mut self, call: Call, outcome: &CallOutcome) {
        self.trace("answered", &(&call, outcome));
        let CallSource::Worker(n, incarnation) = call.from else { return };
        if self.workers[n].incarnation != incarnation {
            return;
        }
        let pending = self.workers[n].pending.take_if(|pending| pending.id == call.id);
        let first_sent = pending.as_ref().map(|pending| pending.first_sent);
        match outcome {
            Ok(Answer::Sagas(sagas)) => {
                if let (Some(saga), Some(sent), None) = (sagas.first(), first_sent, &self.workers[n].job) {
                    self.workers[n].take(saga, sent, &mut self.rng);
                    self.work(n);
                }
            }
            Ok(Answer::Saga(saga)) => match (&self.workers[n].job, first_sent) {
                (None, Some(sent)) if saga.lease.as_ref().is_some_and(|l| l.owner == self.workers[n].owner) => {
                    if matches!(&call.request.command, Command::Change(change) if operators::is_claim(&change.operation))
                    {
                        self.workers[n].take(saga, sent, &mut self.rng);
                        self.work(n);
                    }
                }
                (Some(job), Some(_)) if job.task == *saga.task_id() => {
                    self.stop_working(n);
                    self.workers[n].learn(saga);
                    self.work(n);
                }
                (None | Some(_), _) => {}
            },
            Ok(Answer::Lease(answer)) => {
                let length = answer.lease.expire_time.since(answer.lease.heartbeat_time);
                let until = self.workers[n].deadline(call.sent, length);
                let job = self.workers[n].job.as_mut().filter(|job| job.token == answer.lease.token);
                if let Some(job) = job {
                    job.until = job.until.max(until);
                    if answer.cancel_reason.is_some() {
                        self.workers[n].cancel();
                    }
                    self.work(n);
                }
            }
            Ok(Answer::Queue(_) | Answer::Purged(_)) => {}
            Err(error) if pending.is_some() => self.refused(n, error),
            Err(_) => {}
        }
        if pending.is_some() {
            let rest = match &self.workers[n].job {
                Some(job) => self.rng.between(500, job.ttl / 3),
                None if outcome.is_ok() => self.rng.between(500, 300_000),
                None => self.rng.between(100_000, 1_000_000),
            };
            self.wake_after(n, rest);
        }
    }

    pub(super) fn refused(&mut self, n: usize, error: &StoreError) {
        let StoreError::Refused(refusal) = error else { return };
        let over = matches!(
            refusal.why,
            Rejection::LeaseExpired { .. }
                | Rejection::LeaseSuperseded
                | Rejection::NotOwner { .. }
                | Rejection::NoLease
                | Rejection::SagaTerminal
        );
        if over {
            self.stop_working(n);
            self.workers[n].job = None;
        } else if self.workers[n].job.as_ref().is_some_and(|job| job.finishing) {
            // An earlier call of it may still arrive and end the lease, so it can't continue to work.
            self.workers[n].job = None;
        }
    }
}
