"""Calls to the coordinator: a channel that notices a dead peer, errors taken apart, retries, and a watch that resumes.

To be copied together with `sagad_worker.py`. Both need the client that is generated from `proto/sagad/v1/`.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any, TypeVar, cast

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from sagad.v1 import saga_service_pb2 as pb
from sagad.v1.saga_service_pb2_grpc import SagaServiceStub

Answer = TypeVar("Answer")

#: The deadline of a unary call, in seconds.
CALL_TIMEOUT = 5.0
#: A quiet stream of stale sagas brings a bookmark every ten seconds; silent for longer than this it is taken for dead.
STALE_SILENCE_MAX = 30.0

#: While the coordinator does not answer, that is said again after so many seconds.
SAY_AGAIN = 10.0

_log = logging.getLogger("sagad")
_MESSAGE_BYTES_MAX = 4 << 20
# CLOCK_MONOTONIC stands still while the machine sleeps; a laptop that wakes up must find its lease gone, not paused.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    """This machine's own time in seconds: no step of the wall clock moves it, and it counts on during suspend."""
    return time.clock_gettime(_CLOCK)


class Happened(Enum):
    """What an error says about whether the call took effect."""

    REFUSED = "the coordinator refused it: nothing changed, and repeating it won't help"
    NOT_NOW = "the coordinator can't take it now: nothing changed, later it may"
    UNKNOWN = "no clear answer: only repeating it with its request_id tells"


# An error without the coordinator's ErrorInfo comes from the transport or a proxy. These say that nobody judged the call.
_NO_ANSWER = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}


@dataclass(eq=False)
class Refusal(Exception):
    """An error of a call, taken apart."""

    code: grpc.StatusCode
    #: The ErrorInfo's reason, such as `LEASE_HELD`; without one the code's name, such as `UNAVAILABLE`.
    reason: str
    message: str
    metadata: dict[str, str] = field(default_factory=dict)
    #: How long to wait before another try, in seconds; 0 when the coordinator does not say.
    retry_after: float = 0.0
    happened: Happened = Happened.UNKNOWN
    #: Whether it is the coordinator's own word, and not the transport's.
    judged: bool = False

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"

    @classmethod
    def of(cls, error: grpc.RpcError) -> Refusal:
        """Takes apart what a call raised."""
        # What the library raises is a `grpc.Call` as well.
        call = cast(grpc.Call, error)
        code = call.code()
        info = error_details_pb2.ErrorInfo()
        retry = error_details_pb2.RetryInfo()
        try:
            status = rpc_status.from_call(call)
        except ValueError:  # Details that are not those of this error.
            status = None
        for detail in status.details if status else ():
            detail.Unpack(info)
            detail.Unpack(retry)
        judged = info.domain == "sagad"
        if judged and info.reason != "OUTCOME_UNKNOWN":
            busy = code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
            happened = Happened.NOT_NOW if busy else Happened.REFUSED
        else:
            happened = Happened.UNKNOWN if judged or code in _NO_ANSWER else Happened.REFUSED
        return cls(
            code=code,
            reason=info.reason or code.name,
            message=call.details() or "",
            metadata=dict(info.metadata),
            retry_after=retry.retry_delay.ToNanoseconds() / 1e9,
            happened=happened,
            judged=judged,
        )


class Backoff:
    """A delay that doubles up to a bound. Half of it is random: clients that failed together don't return together."""

    def __init__(self, first: float = 0.05, longest: float = 2.0) -> None:
        self._first, self._step, self._longest = first, first, longest

    def delay(self) -> float:
        """The next delay, in seconds."""
        step, self._step = self._step, min(self._step * 2, self._longest)
        return step * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Begins anew, after a success."""
        self._step = self._first


class Outage:
    """Logs what is waited for while the coordinator does not answer: at once, then every ten seconds; and when it answers.

    As warnings, which Python writes to stderr where logging is not set up.
    """

    def __init__(self, server: str) -> None:
        self._server, self._lock, self._said = server, Lock(), 0.0

    def waiting(self, why: object) -> None:
        """A call was not answered, or not taken, and is tried again."""
        with self._lock:
            if self._said and now() - self._said < SAY_AGAIN:
                return
            self._said = now()
        _log.warning("waiting for the coordinator at %s: %s", self._server, why)

    def over(self) -> None:
        """The coordinator has answered."""
        with self._lock:
            said, self._said = self._said, 0.0
        if said:
            _log.warning("the coordinator at %s answers", self._server)


class Coordinator:
    """A connection to the coordinator, for any number of threads. It reconnects by itself."""

    def __init__(self, server: str, service_config: str = "") -> None:
        """`server` is `http://HOST:PORT`; `service_config` the text of `proto/service_config.json`."""
        options: list[tuple[str, Any]] = [
            ("grpc.keepalive_time_ms", 10_000),
            ("grpc.keepalive_timeout_ms", 5_000),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            # By default it grows to two minutes: longer than most leases.
            ("grpc.max_reconnect_backoff_ms", 1_000),
        ]
        if service_config:
            options.append(("grpc.service_config", service_config))
        self.outage = Outage(server)
        self.channel = grpc.insecure_channel(server.removeprefix("http://").rstrip("/"), options)
        self.sagas = SagaServiceStub(self.channel)

    def call(
        self,
        method: Callable[..., Answer],
        request: object,
        give_up: Callable[[], float],
        *,
        stop: Event | None = None,
    ) -> Answer:
        """Makes a call that is safe to repeat, again with the same request until it has a clear answer.

        `give_up` tells the moment from which on it is not tried any more; it may move, as a lease's deadline does.
        Raises the last `Refusal`.
        """
        backoff = Backoff()
        stop = stop or Event()
        while True:
            timeout = min(CALL_TIMEOUT, max(give_up() - now(), 0.05))
            try:
                answer = method(request, timeout=timeout)
                self.outage.over()
                return answer
            except grpc.RpcError as error:
                refusal = Refusal.of(error)
            if refusal.happened is not Happened.REFUSED:
                self.outage.waiting(refusal)
            delay = max(backoff.delay(), refusal.retry_after)
            if refusal.happened is Happened.REFUSED or now() + delay >= give_up() or stop.wait(delay):
                raise refusal


class RevisionFile:
    """The place in a stream, kept over restarts of the process. Without a path it is kept in memory alone."""

    def __init__(self, path: str | None) -> None:
        self._path = Path(path) if path else None
        self.value: int | None = None
        if self._path and self._path.exists():
            self.value = int(self._path.read_text())

    def set(self, revision: int) -> None:
        """Replaces it atomically: a crash leaves the old place or the new one."""
        self.value = revision
        if self._path:
            draft = self._path.with_name(self._path.name + ".new")
            draft.write_text(f"{revision}\n")
            draft.replace(self._path)

    def forget(self) -> None:
        """The coordinator does not have that place any more: begin anew."""
        self.value = None


def follow_stale(
    coordinator: Coordinator,
    queues: Sequence[str],
    place: RevisionFile,
    stop: Event,
    reconnecting: Callable[[int | None], None],
) -> Iterator[pb.WatchStaleResponse]:
    """All that `WatchStale` tells, over broken streams and restarts: nothing missed, nothing twice.

    An item's revision is kept once the caller asks for the next item, so what it did not finish comes again after a
    crash. Ends when `stop` is set; raises a `Refusal` when the coordinator refuses.
    """
    backoff = Backoff()
    while not stop.is_set():
        stream = coordinator.sagas.WatchStale(pb.WatchStaleRequest(queues=queues, after_revision=place.value))
        watchdog = _Watchdog(stream, stop)
        try:
            for item in stream:
                watchdog.fed()
                coordinator.outage.over()
                backoff.reset()
                yield item
                if item.revision:
                    place.set(item.revision)
            refusal = None  # The coordinator ended the stream: it shuts down.
        except grpc.RpcError as error:
            refusal = Refusal.of(error)
        finally:
            watchdog.end()
            stream.cancel()
        if stop.is_set():
            return
        if refusal and refusal.reason in ("REVISION_COMPACTED", "REVISION_UNKNOWN"):
            place.forget()
        elif refusal and refusal.happened is Happened.REFUSED:
            raise refusal
        coordinator.outage.waiting(refusal or "it ended the stream")
        reconnecting(place.value)
        stop.wait(max(backoff.delay(), refusal.retry_after if refusal else 0.0))


class _Watchdog:
    """Cancels a stream that fell silent, or that nobody wants any more."""

    def __init__(self, stream: Any, stop: Event) -> None:
        self._stream, self._stop, self._ended = stream, stop, Event()
        self._last = now()
        Thread(target=self._run, name="watchdog", daemon=True).start()

    def fed(self) -> None:
        self._last = now()

    def end(self) -> None:
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(0.1):
            if self._stop.is_set() or now() - self._last > STALE_SILENCE_MAX:
                self._stream.cancel()
                return
