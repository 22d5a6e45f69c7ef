"""A worker's side of the contract: claims, a lease kept by heartbeats, reports, undoing, and a quiet end.

To be copied together with `sagad_client.py`. What is easy to get wrong, and is done here:

- Heartbeats come from a thread of their own, so that a busy worker keeps its lease.
- The lease's deadline is counted from when the last accepted heartbeat was *sent*, on a clock of this machine alone.
- `Lease.check` looks at that clock itself: a process that was suspended is told before its next effect.
- No answer means "unknown": the work goes on until the deadline, and the call is repeated with its `request_id`.
- Compensations are registered before the effect that they undo.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Event, Lock, Thread
from typing import Any, Protocol

import grpc
from google.protobuf.duration_pb2 import Duration

from sagad.v1 import saga_pb2
from sagad.v1 import saga_service_pb2 as pb
from sagad_client import CALL_TIMEOUT, Backoff, Coordinator, Happened, Refusal, now

#: Results are reported until the lease's deadline has passed by this much: late ones are accepted, seconds.
REPORT_GRACE = 60.0
#: One compensation is tried so often, by earlier workers too, before a person has to look at it.
UNDO_ATTEMPTS = 3

_WAIT_MIN, _WAIT_MAX = 1.0, 20.0
_INTERVAL_MIN = 0.02
_RETRY_MAX = 1.0
_CLEANUP_TIMEOUT = 2.0
# The lease stands, but the coordinator extends it no further.
_STANDS = {"LEASE_NOT_EXTENDED", "EXECUTION_TIMEOUT", "PROGRESS_TIMEOUT"}
_LOST = {grpc.StatusCode.ABORTED, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND}


class Events(Protocol):
    """Where a worker tells what happens; called from several threads."""

    def __call__(self, event: str, **fields: object) -> None: ...


class MustStop(Exception):
    """The work has to stop now. Let it pass through: the worker knows what to report."""


class LeaseLost(MustStop):
    """The lease is somebody else's, or may be from now on: not one effect more."""


class Cancelled(MustStop):
    """Somebody asked for the saga to be cancelled."""


class Stopped(MustStop):
    """This worker was told to end at once."""


class Failure(Exception):
    """The work failed."""

    def __init__(self, reason: str, *, retryable: bool = False) -> None:
        super().__init__(reason)
        self.retryable = retryable


class Lease(AbstractContextManager["Lease"]):
    """Keeps one lease by heartbeats, from `with` to its end; which neither releases nor ends it."""

    def __init__(
        self, coordinator: Coordinator, saga: saga_pb2.Saga, asked: float, events: Events, kill: Event
    ) -> None:
        """`asked` is the moment at which the claim was first sent, plus how long it was held in the coordinator."""
        self._coordinator, self._events, self._kill = coordinator, events, kill
        self.task_id, self.owner_id = saga.task_id, saga.lease.owner_id
        self.fencing_token = saga.lease.fencing_token
        self._lock = Lock()
        self._wake = Event()
        self._ended = Event()
        self._stop: MustStop | None = None
        self._finishing = False
        self._progress: bytes | None = None
        self._take(saga.lease, asked)
        # A claim that was repeated was first sent long before the lease began: ask where it stands.
        self._confirm = self.deadline - now() < self._length / 2
        self._thread = Thread(target=self._run, name=f"heartbeat {self.task_id}", daemon=True)

    def __enter__(self) -> Lease:
        if self._confirm:
            self._find_out()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._wake.set()

    @property
    def key(self) -> dict[str, Any]:
        """What every call under the lease names."""
        return {"task_id": self.task_id, "owner_id": self.owner_id, "fencing_token": self.fencing_token}

    def check(self) -> None:
        """Raises `MustStop` unless the work may go on. To be called before each effect; it costs no call."""
        self._look_at_the_clock()
        if self._stop:
            raise self._stop
        if self._kill.is_set():
            raise Stopped

    def sleep(self, seconds: float) -> None:
        """Sleeps, and raises `MustStop` as soon as the work must not go on."""
        end = now() + seconds
        while True:
            self.check()
            left = min(end, self.deadline) - now()
            if end <= now():
                return
            # The events are looked at often rather than waited for together: what stops a worker is rare.
            self._wake.wait(min(max(left, 0.0), 0.05))

    def set_progress(self, progress: bytes) -> None:
        """Sends it with the next heartbeat or with the report of the end, at most 64 KiB."""
        with self._lock:
            self._progress = progress

    @property
    def unsent_progress(self) -> bytes | None:
        """What no accepted heartbeat has carried yet."""
        with self._lock:
            return self._progress

    @property
    def is_lost(self) -> bool:
        """Whether it is over."""
        return isinstance(self._stop, LeaseLost)

    def lose(self, reason: str) -> None:
        """Marks it as lost, and tells so once."""
        self._stop_for(LeaseLost(reason), "lost", reason)

    def finishing(self) -> None:
        """The work is over and its outcome is about to be reported: that it then has no lease any more is no news."""
        self._finishing = True

    def _look_at_the_clock(self) -> None:
        if not self.is_lost and now() >= self.deadline:
            self.lose("DEADLINE")

    def _stop_for(self, stop: MustStop, event: str, reason: str) -> None:
        with self._lock:
            if self._ended.is_set() or isinstance(self._stop, (LeaseLost, type(stop))):
                return
            self._stop = stop
        self._wake.set()
        if not self._finishing:
            self._events(event, task_id=self.task_id, reason=reason)

    def _take(self, lease: saga_pb2.Lease, sent: float) -> None:
        # A timeout of the policy may clamp a grant, so it is not always the ttl.
        begin, self._expire = lease.heartbeat_time.ToDatetime(), lease.expire_time.ToDatetime()
        self._length = (self._expire - begin).total_seconds()
        self._interval = max(lease.heartbeat_interval.ToNanoseconds() / 1e9, _INTERVAL_MIN)
        self.deadline = sent + self._length

    def _find_out(self) -> None:
        backoff = Backoff(_INTERVAL_MIN, _RETRY_MAX)
        self.deadline = now() + self._length
        while not self._beat() and not self.is_lost:
            self._wake.wait(backoff.delay())
            self._look_at_the_clock()
        self._confirm = False

    def _run(self) -> None:
        backoff = Backoff(_INTERVAL_MIN, _RETRY_MAX)
        due = now() + self._interval
        while not self._ended.is_set() and not self.is_lost:
            # The deadline comes first, whatever woke this thread.
            self._look_at_the_clock()
            if now() < due:
                self._ended.wait(max(min(due, self.deadline) - now(), 0.0))
            elif self._beat():
                backoff.reset()
                due = now() + self._interval
            else:
                due = now() + min(backoff.delay(), self._interval)

    def _beat(self) -> bool:
        """Sends one heartbeat; whether its answer was clear."""
        progress = self._progress
        request = pb.HeartbeatRequest(**self.key, progress=progress)
        sent = now()
        # An unanswered heartbeat must leave time for another.
        timeout = min(CALL_TIMEOUT, max(self._length / 2, _RETRY_MAX), self.deadline - sent)
        try:
            answer = self._coordinator.sagas.Heartbeat(request, timeout=max(timeout, 0.01))
        except grpc.RpcError as error:
            return self._refused(Refusal.of(error))
        self._coordinator.outage.over()
        # After the deadline, not even an answer that is already here may prolong the work.
        self._look_at_the_clock()
        if self.is_lost:
            return True
        self._take(answer.lease, sent)
        with self._lock:
            if self._progress is progress:
                self._progress = None
        self._events("heartbeat", task_id=self.task_id, expire_in_ms=int((self.deadline - now()) * 1000))
        if answer.directive == pb.DIRECTIVE_CANCEL:
            self._cancel(answer.cancel_reason)
        return True

    def _refused(self, refusal: Refusal) -> bool:
        if refusal.reason in _STANDS:
            self._stands(refusal.metadata.get("expire_time", ""))
            if refusal.metadata.get("directive", "").endswith("CANCEL"):
                self._cancel(refusal.metadata.get("cancel_reason", ""))
            return True
        if refusal.judged and refusal.code in _LOST:
            self.lose(refusal.reason)
            return True
        self._events("heartbeat_unknown", task_id=self.task_id, code=refusal.code.name)
        self._coordinator.outage.waiting(refusal)
        return False

    def _stands(self, expire_time: str) -> None:
        expire = _time(expire_time) if expire_time else self._expire
        if self._confirm:
            # It lives, but no time of ours is tied to it. The wall clocks' word is the best there is; at worst the next
            # heartbeat, a third of the lease away, corrects it.
            left = (expire - datetime.now(UTC).replace(tzinfo=None)).total_seconds()
            self.deadline = now() + min(left, self._length)
        elif expire > self._expire:
            # Later than known: the answer to an accepted heartbeat was lost. The difference of two of the
            # coordinator's times holds on our clock as well.
            self.deadline += (expire - self._expire).total_seconds()
        self._expire = max(expire, self._expire)

    def _cancel(self, reason: str) -> None:
        self._stop_for(Cancelled(reason), "cancelled", reason)


@dataclass(frozen=True)
class Task:
    """One claimed saga, as the work on it sees it."""

    saga: saga_pb2.Saga
    lease: Lease
    _coordinator: Coordinator
    _events: Events

    def register(self, kind: str, target: str, reason: str) -> None:
        """Registers a compensation: before the effect that it undoes. When it returns, it is on record."""
        self.lease.check()
        spec = saga_pb2.CompensationSpec(kind=kind, target=target, reason=reason)
        request = pb.RegisterCompensationRequest(**self.lease.key, compensations=[spec], request_id=str(uuid.uuid4()))
        try:
            self._coordinator.call(self._coordinator.sagas.RegisterCompensation, request, self._deadline)
        except Refusal as refusal:
            self.lease.check()
            if refusal.judged and refusal.code is grpc.StatusCode.ABORTED:
                self.lease.lose(refusal.reason)
                self.lease.check()
            raise Failure(f"compensation not registered: {refusal}") from refusal
        self._events("registered", task_id=self.saga.task_id, kind=kind, target=target)
        self.lease.check()

    def _deadline(self) -> float:
        return self.lease.deadline


#: Does the work and returns its result (at most 64 KiB). Fails by raising `Failure`; calls `task.lease.check()` before
#: each effect.
Work = Callable[[Task], bytes]
#: Undoes one compensation; succeeds when there is nothing left to undo. Fails by raising `Failure`.
Undo = Callable[[Task, saga_pb2.Compensation], None]


class Worker:
    """Claims one saga after the other, and works on it (`work`) or undoes it (`undo`, by kind)."""

    def __init__(
        self,
        coordinator: Coordinator,
        *,
        queues: Sequence[str],
        owner_id: str,
        ttl: float,
        events: Events,
        work: Work | None = None,
        undo: Mapping[str, Undo] | None = None,
    ) -> None:
        if (work is None) == (undo is None):
            raise ValueError("either work or undo")
        self._coordinator, self._events = coordinator, events
        self._queues, self._owner_id, self._ttl = queues, owner_id, ttl
        self._work, self._undo = work, undo or {}
        self._drain, self._kill = Event(), Event()
        self._waiting: Any = None

    def stop(self) -> None:
        """The first time: claims nothing more, finishes what runs. The second time: stops that, and gives it back."""
        if self._drain.is_set():
            self._kill.set()
        self._drain.set()
        waiting = self._waiting
        if waiting:
            waiting.cancel()

    def run(self) -> None:
        """Works until it is told to stop. Raises a `Refusal` when the coordinator refuses to let it claim."""
        # The first claim does not wait: its answer tells that there is a connection.
        wait = 0.0
        while not self._drain.is_set():
            asked = now()
            saga, held = self._claim(wait)
            if not wait and not self._drain.is_set():
                self._events("ready")
            wait = min(max(self._ttl / 3, _WAIT_MIN), _WAIT_MAX)
            if saga:
                self._hold(saga, asked + held)
        self._events("drained")

    def _claim(self, wait: float) -> tuple[saga_pb2.Saga | None, float]:
        """A saga, and how long the claim was held until its lease was given."""
        request = pb.ClaimNextRequest(
            queues=self._queues,
            owner_id=self._owner_id,
            ttl=_duration(self._ttl),
            max_sagas=1,
            wait=_duration(wait),
            purpose=saga_pb2.LEASE_PURPOSE_EXECUTE if self._work else saga_pb2.LEASE_PURPOSE_COMPENSATE,
            compensation_kinds=list(self._undo),
            request_id=str(uuid.uuid4()),
        )
        backoff = Backoff()
        while True:
            self._waiting = self._coordinator.sagas.ClaimNext.future(request, timeout=wait + CALL_TIMEOUT)
            if self._drain.is_set():
                self._waiting.cancel()
            try:
                answer = self._waiting.result()
                self._coordinator.outage.over()
                return answer.sagas[0] if answer.sagas else None, answer.waited.ToNanoseconds() / 1e9
            except grpc.FutureCancelledError:
                pass
            except grpc.RpcError as error:
                refusal = Refusal.of(error)
                if refusal.happened is Happened.REFUSED:
                    raise refusal from None
                self._coordinator.outage.waiting(refusal)
                self._drain.wait(max(backoff.delay(), refusal.retry_after))
            if self._drain.is_set():
                self._give_back(request)
                return None, 0.0

    def _give_back(self, request: pb.ClaimNextRequest) -> None:
        """A call broken off may have claimed. Repeating it with its `request_id` shows what."""
        request.ClearField("wait")
        try:
            for saga in self._coordinator.sagas.ClaimNext(request, timeout=_CLEANUP_TIMEOUT).sagas:
                release = pb.ReleaseRequest(
                    task_id=saga.task_id,
                    owner_id=saga.lease.owner_id,
                    fencing_token=saga.lease.fencing_token,
                    reason="the worker was told to stop before it began",
                    request_id=str(uuid.uuid4()),
                )
                self._coordinator.sagas.Release(release, timeout=_CLEANUP_TIMEOUT)
        except grpc.RpcError:
            pass  # What is not given back runs out.

    def _hold(self, saga: saga_pb2.Saga, asked: float) -> None:
        lease = Lease(self._coordinator, saga, asked, self._events, self._kill)
        self._events(
            "claimed",
            task_id=saga.task_id,
            fencing_token=lease.fencing_token,
            attempt=saga.attempt,
            purpose=saga_pb2.LeasePurpose.Name(saga.lease.purpose).removeprefix("LEASE_PURPOSE_"),
        )
        try:
            with lease:
                task = Task(saga, lease, self._coordinator, self._events)
                if self._work:
                    self._execute(task, self._work)
                else:
                    self._compensate(task)
        except LeaseLost:
            self._events("stopped", task_id=saga.task_id)

    def _execute(self, task: Task, work: Work) -> None:
        lease = task.lease
        try:
            result = work(task)
        except LeaseLost:
            raise
        except Cancelled as cancelled:
            self._events("stopped", task_id=lease.task_id)
            self._fail(lease, f"cancelled: {cancelled}", retryable=False)
        except Stopped:
            self._release(lease)
        except Failure as failure:
            self._fail(lease, str(failure) or "failed", retryable=failure.retryable)
        except Exception as error:  # noqa: BLE001 - a worker outlives what its work did not foresee.
            self._fail(lease, f"{type(error).__name__}: {error}", retryable=False)
        else:
            if lease.is_lost:
                raise LeaseLost
            request = pb.CompleteRequest(
                **lease.key, result=result, progress=lease.unsent_progress, request_id=str(uuid.uuid4())
            )
            self._report(lease, "completed", "Complete", request)

    def _compensate(self, task: Task) -> None:
        lease, compensations = task.lease, task.saga.compensations
        settled = (saga_pb2.COMPENSATION_STATE_DONE, saga_pb2.COMPENSATION_STATE_WAIVED)
        try:
            for compensation in sorted(compensations, key=lambda c: c.position, reverse=True):
                if compensation.state not in settled and not self._settle(task, compensation):
                    return
        except (Stopped, Cancelled):
            self._release(lease)
            return
        request = pb.CompensateRequest(**lease.key, request_id=str(uuid.uuid4()))
        self._report(lease, "compensated", "Compensate", request)

    def _settle(self, task: Task, compensation: saga_pb2.Compensation) -> bool:
        """Tries one compensation until it is done; False when the saga was parked for a person instead."""
        lease, attempts, pause = task.lease, compensation.attempts, Backoff(1.0, 30.0)
        undo = self._undo.get(compensation.kind)
        if undo is None:
            self._quarantine(lease, f"nobody undoes {compensation.kind!r}")
            return False
        while True:
            lease.check()
            outcome, detail = saga_pb2.COMPENSATION_OUTCOME_DONE, ""
            try:
                undo(task, compensation)
            except MustStop:
                raise
            except Exception as error:  # noqa: BLE001 - what went wrong is recorded, whatever it was.
                outcome, attempts = saga_pb2.COMPENSATION_OUTCOME_FAILED, attempts + 1
                detail = str(error)[:1000] or type(error).__name__
            request = pb.RecordCompensationRequest(
                **lease.key,
                position=compensation.position,
                outcome=outcome,
                detail=detail,
                # One for each attempt: two failures are two, though they look the same.
                request_id=str(uuid.uuid4()),
            )
            name = saga_pb2.CompensationOutcome.Name(outcome).removeprefix("COMPENSATION_OUTCOME_")
            try:
                self._call(lease, "RecordCompensation", request)
            except Refusal as refusal:
                self._refused(lease, "RecordCompensation", refusal)
                return False
            self._events("settled", task_id=lease.task_id, position=compensation.position, outcome=name)
            if outcome == saga_pb2.COMPENSATION_OUTCOME_DONE:
                return True
            if attempts >= UNDO_ATTEMPTS:
                self._quarantine(lease, f"compensation {compensation.position} failed {attempts} times: {detail}")
                return False
            lease.sleep(pause.delay())

    def _fail(self, lease: Lease, reason: str, *, retryable: bool) -> None:
        request = pb.FailRequest(
            **lease.key,
            reason=reason[:1000],
            retryable=retryable,
            progress=lease.unsent_progress,
            request_id=str(uuid.uuid4()),
        )
        refusal = self._report(lease, "failed", "Fail", request, refusals=("COMPENSATION_REQUIRED",))
        if refusal:
            self._quarantine(lease, reason)

    def _quarantine(self, lease: Lease, reason: str) -> None:
        request = pb.QuarantineRequest(**lease.key, reason=reason[:1000], request_id=str(uuid.uuid4()))
        self._report(lease, "quarantined", "Quarantine", request)

    def _release(self, lease: Lease) -> None:
        request = pb.ReleaseRequest(
            **lease.key,
            reason="the worker was told to end",
            progress=lease.unsent_progress,
            request_id=str(uuid.uuid4()),
        )
        # Refused once the lease has expired, so it is not tried for longer.
        self._report(lease, "released", "Release", request, grace=0.0)

    def _report(
        self,
        lease: Lease,
        event: str,
        rpc: str,
        request: object,
        *,
        grace: float = REPORT_GRACE,
        refusals: Sequence[str] = (),
    ) -> Refusal | None:
        """Reports how it ended, and tells what came of that. Returns a refusal that is one of `refusals`."""
        lease.finishing()
        try:
            answer = self._call(lease, rpc, request, grace=grace)
        except Refusal as refusal:
            if refusal.reason in refusals:
                return refusal
            self._refused(lease, rpc, refusal)
        else:
            self._events(event, task_id=lease.task_id, state=saga_pb2.SagaState.Name(answer.saga.state))
        return None

    def _call(self, lease: Lease, rpc: str, request: object, *, grace: float = REPORT_GRACE) -> Any:
        """A call under the lease, again until it is taken or refused. Heartbeats go on meanwhile."""
        method = getattr(self._coordinator.sagas, rpc)
        return self._coordinator.call(method, request, lambda: lease.deadline + grace)

    def _refused(self, lease: Lease, rpc: str, refusal: Refusal) -> None:
        self._events("refused", task_id=lease.task_id, call=rpc, reason=refusal.reason, message=refusal.message)


def _time(text: str) -> datetime:
    """A time of the coordinator's (RFC 3339, UTC), as `Timestamp.ToDatetime` has it."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ" if "." in text else "%Y-%m-%dT%H:%M:%SZ")


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
