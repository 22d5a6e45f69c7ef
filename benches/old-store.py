#!/usr/bin/env python3
"""Makes a large store as version 2 of the schema left it, out of the small one that the tests have.

    benches/old-store.py DIR EVENTS IN_FLIGHT

DIR/sagad.db gets about EVENTS events, three for each saga that has been completed, and IN_FLIGHT sagas that are planned.
"""

import pathlib
import sqlite3
import sys

SAMPLE = pathlib.Path(__file__).parent.parent / "src/store/sqlite/store_2.sql"
# Ids and revisions behind those of the sample, whose queue 2 is the one that has completed sagas.
FIRST_ID, FIRST_REVISION, QUEUE = 1000, 40, 2
# Between one event and the next, in microseconds.
STEP = 10

NUMBERS = "WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < :count) "
SAGAS = """INSERT INTO saga SELECT :id + n, printf('old-%d-%010d', :id, n), printf('old-%d-%010d', :id, n), queue, priority, issue,
    branch, worktree, labels, NULL, :time + :events * n * :step, on_stale, max_expirations, on_failure, max_attempts, retry_backoff,
    retry_backoff_max, execution_timeout, progress_timeout, settle, compensation_timeout, x''
    FROM numbers, saga WHERE saga.id = 5"""
COMPLETED = """INSERT INTO work SELECT :id + n, :queue, 0, 5, 0, NULL, NULL, :revision + 3 * n + 2, 1, 0, 0, 0,
    :time + (3 * n + 2) * :step, :time + (3 * n + 2) * :step, NULL, NULL, NULL, :revision + 3 * n + 1, 1,
    :time + (3 * n + 1) * :step, :time + (3 * n + 1) * :step, :time + (3 * n + 1) * :step + 30000000, 30000000, 1,
    :time + (3 * n + 1) * :step, 12, NULL, NULL, 'w3', NULL, NULL, NULL, NULL, 'COMPLETED', x'', x'' FROM numbers"""
PLANNED = """INSERT INTO work SELECT :id + n, :queue, 0, 1, 1, NULL, NULL, :revision + n, 0, 0, 0, 0, :time + n * :step, NULL, NULL, NULL,
    NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, x'', x'' FROM numbers"""
CREATED = """INSERT INTO event SELECT :revision + :events * n, :id + n, :time + :events * n * :step, 1, NULL, 1, NULL, 0, NULL, NULL, NULL,
    NULL, '', '{"compensations":"0"}' FROM numbers"""
CLAIMED = """INSERT INTO event SELECT :revision + 3 * n + 1, :id + n, :time + (3 * n + 1) * :step, 3, 1, 3, :revision + 3 * n + 1, 0, NULL,
    NULL, NULL, 'w3', '', json_object('attempt', '1', 'expire_time', strftime('%Y-%m-%dT%H:%M:%S',
        (:time + (3 * n + 1) * :step + 30000000) / 1000000, 'unixepoch')
        || printf('.%06dZ', (:time + (3 * n + 1) * :step + 30000000) % 1000000), 'purpose', 'EXECUTE') FROM numbers"""
ENDED = """INSERT INTO event SELECT :revision + 3 * n + 2, :id + n, :time + (3 * n + 2) * :step, 12, 3, 5, :revision + 3 * n + 1, 0, NULL,
    NULL, NULL, 'w3', '', '{}' FROM numbers"""


def main(directory, events, in_flight):
    path = pathlib.Path(directory)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    (path / "sagad.db").touch(mode=0o600)
    store = sqlite3.connect(path / "sagad.db", isolation_level=None)
    store.execute("PRAGMA auto_vacuum = INCREMENTAL")
    store.executescript(SAMPLE.read_text())
    store.execute("PRAGMA journal_mode = WAL")
    (time,) = store.execute("SELECT value FROM meta WHERE key = 'last_time'").fetchone()
    sagas = events // 3
    done = {"id": FIRST_ID, "revision": FIRST_REVISION, "time": time, "events": 3, "count": sagas}
    ready = {"id": FIRST_ID + sagas, "revision": FIRST_REVISION + 3 * sagas, "time": time + 3 * sagas * STEP, "events": 1,
             "count": in_flight}
    store.execute("BEGIN")
    for values, statements in (done, (SAGAS, COMPLETED, CREATED, CLAIMED, ENDED)), (ready, (SAGAS, PLANNED, CREATED)):
        if values["count"]:
            for statement in statements:
                head, body = statement.split(" SELECT ", 1)
                store.execute(f"{head} {NUMBERS} SELECT {body}", {**values, "queue": QUEUE, "step": STEP})
    last = FIRST_REVISION + 3 * sagas + in_flight
    # The revisions between the sample's and these, and what is counted.
    store.execute("INSERT INTO gap VALUES (36, ?)", (FIRST_REVISION - 1,))
    for key, value in ("revision_floor", last), ("counted", last - 1), ("last_time", time + (last - FIRST_REVISION) * STEP):
        store.execute("UPDATE meta SET value = ? WHERE key = ?", (value, key))
    store.execute("UPDATE queue_count SET completed = completed + ?, planned = planned + ? WHERE queue = ?", (sagas, in_flight, QUEUE))
    store.execute("COMMIT")
    store.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store.close()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
