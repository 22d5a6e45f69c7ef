"""A worker that writes reports into directories; `worker.py compensate` removes those of sagas that are undone."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from sagad.v1 import saga_pb2
from sagad_client import Coordinator, Refusal
from sagad_worker import Failure, Task, Worker
from settings import Settings, emit

REMOVE_DIR = "remove-dir"
#: In the directory: the `task_id` of the saga whose directory it is.
MARK = ".sagad"


@dataclass(frozen=True)
class Report:
    """What the payload asks for."""

    directory: Path
    lines: list[str]
    pause: float

    @classmethod
    def parse(cls, payload: bytes) -> Report:
        """Reads a payload; raises `Failure` with what is wrong with it."""
        try:
            fields = json.loads(payload)
            directory, lines, pause_ms = fields["dir"], fields["lines"], fields.get("pause_ms", 0)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Failure(f"bad payload: {type(error).__name__}: {error}") from error
        if not isinstance(directory, str) or not Path(directory).is_absolute():
            raise Failure("bad payload: dir is not an absolute path")
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            raise Failure("bad payload: lines is not a list of strings")
        if isinstance(pause_ms, bool) or not isinstance(pause_ms, (int, float)) or pause_ms < 0:
            raise Failure("bad payload: pause_ms is not a number of milliseconds")
        return cls(Path(directory), lines, pause_ms / 1000)


def write_report(task: Task) -> bytes:
    """The work."""
    report = Report.parse(task.saga.payload)
    task.register(REMOVE_DIR, str(report.directory), "report")
    make_own(report.directory, task.saga.task_id)
    total = hashlib.sha256()
    with (report.directory / "report.txt").open("wb") as file:
        for number, line in enumerate(report.lines, start=1):
            task.lease.sleep(report.pause)
            obey(line)
            text = line.upper().encode()
            written = b"%d %s %s\n" % (number, hashlib.sha256(text).hexdigest().encode(), text)
            # Right before the effect, after all that took time.
            task.lease.check()
            file.write(written)
            file.flush()
            total.update(written)
            emit("line", task_id=task.saga.task_id, n=number)
            task.lease.set_progress(f"{number}/{len(report.lines)}".encode())
    return total.hexdigest().encode()


def obey(line: str) -> None:
    """Lines that are orders, so that a test can have a worker fail or be busy."""
    order, _, argument = line.partition(" ")
    if order == "!fail":
        raise Failure(f"the line {line!r} says so")
    if order == "!retry":
        raise Failure(f"the line {line!r} says so", retryable=True)
    if order == "!spin":
        end = time.monotonic() + int(argument) / 1000
        while time.monotonic() < end:
            pass


def make_own(directory: Path, task_id: str) -> None:
    """Makes the directory, or goes on in one that this task has made before."""
    try:
        directory.mkdir()
    except FileExistsError:
        if not is_own(directory, task_id):
            raise Failure(f"{directory} is there already, and not this task's") from None
    except OSError as error:
        raise Failure(f"can't make {directory}: {error.strerror}") from error
    (directory / MARK).write_text(task_id)


def is_own(directory: Path, task_id: str) -> bool:
    """Whether this task made the directory."""
    try:
        return (directory / MARK).read_text() == task_id
    except OSError:
        return False


def remove_dir(task: Task, compensation: saga_pb2.Compensation) -> None:
    """Undoes the work: removes the directory, if it is there and this task's."""
    directory = Path(compensation.target)
    if not directory.exists():
        return
    if not is_own(directory, task.saga.task_id):
        raise Failure(f"{directory} is not this task's")
    task.lease.check()
    # The mark goes last: an undo that is broken off can be taken up again.
    for entry in directory.iterdir():
        if entry.name == MARK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    (directory / MARK).unlink()
    directory.rmdir()


def main(arguments: list[str]) -> int:
    """Runs until SIGTERM."""
    if arguments not in ([], ["compensate"]):
        print("usage: worker.py [compensate]", file=sys.stderr)
        return 2
    settings = Settings.read()
    worker = Worker(
        Coordinator(settings.server, settings.service_config),
        queues=settings.queues,
        owner_id=settings.owner_id,
        ttl=settings.ttl,
        events=emit,
        **({"undo": {REMOVE_DIR: remove_dir}} if arguments else {"work": write_report}),
    )
    code = 0

    def run() -> None:
        nonlocal code
        try:
            worker.run()
        except Refusal as refusal:
            print(f"the coordinator refuses: {refusal}", file=sys.stderr)
            code = 1

    # The main thread is left to the signals: Python handles them nowhere else. The system may give one to another thread,
    # as it does with those that came while the process was suspended; so the main thread has to wake up by itself, too.
    working = Thread(target=run, name="worker")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    working.start()
    while working.is_alive():
        working.join(timeout=0.2)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
