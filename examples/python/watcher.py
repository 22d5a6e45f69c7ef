"""A watcher: follows the stale sagas of its queues, and decides what becomes of each."""

from __future__ import annotations

import signal
import sys
import uuid
from threading import Event, Thread

from sagad.v1 import saga_pb2
from sagad.v1 import saga_service_pb2 as pb
from sagad_client import Coordinator, Refusal, RevisionFile, follow_stale, now
from settings import Settings, emit

#: What is not decided within this time, the coordinator being away, is left to the next start, in seconds.
DECISION_PATIENCE = 60.0


class Watcher:
    """Follows and decides, until it is told to stop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._coordinator = Coordinator(settings.server, settings.service_config)
        self._place = RevisionFile(settings.revision_file)
        self.stop = Event()
        self._ready = False

    def run(self) -> None:
        """Runs until `stop` is set. Raises a `Refusal` when the coordinator refuses the stream or a decision."""
        resumed = self._place.value is not None
        # When it resumes there is no snapshot to wait for: the first answer, or that there is a stream, will do.
        for item in follow_stale(self._coordinator, self._settings.queues, self._place, self.stop, self._broken):
            kind = item.WhichOneof("item")
            if not self._ready and (resumed or item.bookmark.snapshot_end):
                self._ready = True
                emit("ready", revision=item.revision)
            if kind == "stale":
                stale = item.stale
                emit(
                    "stale",
                    revision=item.revision,
                    task_id=stale.task_id,
                    fencing_token=stale.fencing_token,
                    cause=pb.StaleCause.Name(stale.cause),
                )
                self._decide(stale)
            elif kind == "resolved":
                resolution = pb.Resolution.Name(item.resolved.resolution)
                emit("resolved", revision=item.revision, task_id=item.resolved.task_id, resolution=resolution)
        emit("drained")

    def _broken(self, revision: int | None) -> None:
        emit("reconnecting", revision=revision or 0)

    def _decide(self, stale: pb.StaleSaga) -> None:
        saga = stale.saga
        if not saga.stale or saga.lease.fencing_token != stale.fencing_token:
            # It has moved on since: the stream will tell how.
            return
        if saga.state != saga_pb2.SAGA_STATE_RUNNING:
            # Compensating: the compensators claim it by themselves.
            return
        name = "COMPENSATE" if saga.compensations else "REQUEUE"
        request = pb.RecoverRequest(
            task_id=stale.task_id,
            decision=f"RECOVERY_DECISION_{name}",
            actor=self._settings.owner_id,
            reason="the worker's lease ran out",
            fencing_token=stale.fencing_token,
            request_id=str(uuid.uuid4()),
        )
        end = now() + DECISION_PATIENCE
        try:
            self._coordinator.call(self._coordinator.sagas.Recover, request, lambda: end, stop=self.stop)
        except Refusal as refusal:
            if refusal.reason in ("NOT_STALE", "SAGA_TERMINAL", "SAGA_NOT_FOUND", "WRONG_STATE"):
                # Somebody was first, or the worker came back.
                emit("not_stale", task_id=stale.task_id)
                return
            raise
        emit("decided", task_id=stale.task_id, decision=name)


def main() -> int:
    """Runs until SIGTERM."""
    settings = Settings.read()
    try:
        watcher = Watcher(settings)
    except ValueError:
        print(f"SAGAD_REVISION_FILE={settings.revision_file!r}: it holds no revision", file=sys.stderr)
        return 2
    code = 0

    def run() -> None:
        nonlocal code
        try:
            watcher.run()
        except Refusal as refusal:
            if not watcher.stop.is_set():
                print(f"the coordinator refuses: {refusal}", file=sys.stderr)
                code = 1

    watching = Thread(target=run, name="watcher")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: watcher.stop.set())
    watching.start()
    # As in worker.py: a signal may not wake this thread, which alone handles it.
    while watching.is_alive():
        watching.join(timeout=0.2)
    return code


if __name__ == "__main__":
    sys.exit(main())
