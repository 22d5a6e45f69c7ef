-- A change writes less: what is in flight has a narrow table of its own, ended sagas lie apart, and an event names the one before
-- it instead of standing in an index by saga. CHECKs and foreign keys of what each change writes are `sagad check`'s business.
-- Nothing that grows with the history is written anew here, so this takes as long as there are sagas in flight.

-- What has ended. Its columns are those that `work` had; what only sagas in flight have is NULL or 0.
ALTER TABLE work RENAME TO ended;
DROP INDEX work_ready;
DROP INDEX work_reserved;
DROP INDEX work_stale;

-- What is in flight and changes. NULL is the rule; what few sagas have is in `more`, as JSON.
CREATE TABLE work (
    id            INTEGER PRIMARY KEY,
    queue         INTEGER NOT NULL,
    priority      INTEGER NOT NULL,
    ready         INTEGER,
    state         INTEGER NOT NULL,
    revision      INTEGER NOT NULL,
    update_time   INTEGER NOT NULL,
    due_at        INTEGER,
    due_since     INTEGER,
    attempt       INTEGER NOT NULL,
    compensations INTEGER NOT NULL,
    expired_revision INTEGER,
    lease_token   INTEGER,
    lease_purpose INTEGER,
    lease_acquire INTEGER,
    lease_heartbeat INTEGER,
    lease_expire  INTEGER,
    lease_ttl     INTEGER,
    lease_limit   INTEGER,
    lease_progress_time INTEGER,
    lease_standing INTEGER,
    lease_owner   TEXT,
    more          TEXT,
    progress      BLOB,
    result        BLOB
) STRICT;

INSERT INTO work SELECT id, queue, priority, nullif(ready, 0), state, revision, update_time, due_at, due_since, attempt,
    compensations, expired_revision, lease_token, lease_purpose, lease_acquire, lease_heartbeat, lease_expire, lease_ttl,
    lease_limit, lease_progress_time, lease_standing, lease_owner,
    nullif(json_patch('{}', json_object('expirations', nullif(expirations, 0), 'failures', nullif(failures, 0),
        'not_before', not_before, 'settle_until', settle_until, 'idle_since', idle_since, 'expired_at', expired_at,
        'assignee', assignee, 'reserved_until', reserved_until, 'cancel_actor', cancel_actor,
        'cancel_reason', cancel_reason)), '{}'),
    nullif(progress, x''), nullif(result, x'')
    FROM ended WHERE state < 5 ORDER BY id;
DELETE FROM ended WHERE state < 5;
DROP INDEX work_in_flight;

-- ClaimNext: the next ready sagas of a queue. Only what changes `ready` moves its entries.
CREATE INDEX work_ready ON work (ready, queue, priority DESC, id) WHERE ready IS NOT NULL;
-- WatchStale: the snapshot, in order of the lease_expired events.
CREATE INDEX work_stale ON work (expired_revision) WHERE expired_revision IS NOT NULL;

-- The history of before, with its indexes. It is read and purged; nothing is added to it.
ALTER TABLE event RENAME TO old_event;

-- The history: appended to, never changed. `prev` is the saga's event before, which may be in `old_event`.
CREATE TABLE event (
    revision   INTEGER PRIMARY KEY,
    saga       INTEGER NOT NULL,
    prev       INTEGER,
    time       INTEGER NOT NULL,
    kind       INTEGER NOT NULL,
    from_state INTEGER,
    to_state   INTEGER NOT NULL,
    token      INTEGER,
    actor      TEXT,
    reason     TEXT,
    details    TEXT,
    expire_time INTEGER,
    purpose    INTEGER,
    attempt    INTEGER,
    mark       INTEGER,
    owner      TEXT,
    cause      INTEGER
) STRICT;

-- Places at which the reading of a saga's own history begins: it goes back from there by `prev`. One revision in so many, a prime, so
-- that hardly any pattern of changes passes all of them by.
CREATE INDEX event_place ON event (saga, revision) WHERE revision % 61 = 0;
-- WatchStale from a revision: what began or ended staleness.
CREATE INDEX event_mark ON event (revision) WHERE mark IS NOT NULL;
