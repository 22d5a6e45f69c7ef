"""What the two programs have in common: settings out of the environment, and events on stdout."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import NoReturn

_SERVICE_CONFIG = Path(__file__).resolve().parents[2] / "proto" / "service_config.json"
_LENGTH = re.compile(r"([0-9]*\.?[0-9]+)(ms|s|m|h)?")
_UNIT_MS = {"ms": 1, "s": 1_000, None: 1_000, "m": 60_000, "h": 3_600_000}
_printing = Lock()


@dataclass(frozen=True)
class Settings:
    """The settings, with their defaults."""

    server: str
    queues: list[str]
    owner_id: str
    ttl: float
    revision_file: str | None
    service_config: str

    @classmethod
    def read(cls) -> Settings:
        """Reads them; a bad one ends the program with code 2."""
        server = os.environ.get("SAGAD_SERVER") or "http://127.0.0.1:7420"
        host, _, port = server.removeprefix("http://").rstrip("/").rpartition(":")
        if not server.startswith("http://") or not host or not port.isdecimal():
            _wrong("SAGAD_SERVER", server, "it has the form http://HOST:PORT")
        queues = [queue.strip() for queue in (os.environ.get("SAGAD_QUEUES") or "default").split(",")]
        if not all(queues):
            _wrong("SAGAD_QUEUES", os.environ["SAGAD_QUEUES"], "it names queues, separated by commas")
        ttl_text = os.environ.get("SAGAD_TTL") or "30"
        length = _LENGTH.fullmatch(ttl_text)
        ttl_ms = float(length[1]) * _UNIT_MS[length[2]] if length else 0.0
        if not 100 <= ttl_ms <= 86_400_000:
            _wrong("SAGAD_TTL", ttl_text, "it is a length such as 30, 30s, 500ms, 2m or 1h, from 100ms to 24h")
        return cls(
            server=server,
            queues=queues,
            owner_id=os.environ.get("SAGAD_OWNER") or f"python-{socket.gethostname()}-{os.getpid()}",
            ttl=ttl_ms / 1000,
            revision_file=os.environ.get("SAGAD_REVISION_FILE") or None,
            service_config=_SERVICE_CONFIG.read_text(),
        )


def _wrong(name: str, value: str, rule: str) -> NoReturn:
    print(f"{name}={value!r}: {rule}", file=sys.stderr)
    sys.exit(2)


def emit(event: str, **fields: object) -> None:
    """One event: a line of JSON on stdout, at once."""
    line = json.dumps({"event": event, **fields})
    with _printing:
        print(line, flush=True)
