-- Times are microseconds since 1970 UTC, lengths microseconds. What an enum's numbers stand for is in `codec.rs`.

-- Numbers about the store as a whole.
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO meta (key, value) VALUES
    ('revision_floor', 0),  -- every revision ever given is below this
    ('row_floor', 0),       -- every row id that was given and removed is at most this
    ('compacted', 0),       -- the newest event that was purged
    ('last_time', 0);       -- the clock's time when the store was last closed

-- Revisions that no event has: after_revision < r <= through.
CREATE TABLE gap (
    after_revision INTEGER PRIMARY KEY,
    through        INTEGER NOT NULL CHECK (through > after_revision)
) STRICT;

CREATE TABLE queue (
    id          INTEGER PRIMARY KEY,
    name        TEXT NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 100),
    paused      INTEGER NOT NULL DEFAULT 0 CHECK (paused IN (0, 1)),
    actor       TEXT,
    reason      TEXT NOT NULL DEFAULT '',
    change_time INTEGER
) STRICT;

-- What was said at creation and never changes. Ids are given in order of creation, so that neighbours in time are
-- neighbours on disk.
CREATE TABLE saga (
    id          INTEGER PRIMARY KEY,
    task_id     TEXT NOT NULL UNIQUE CHECK (length(task_id) BETWEEN 1 AND 200),
    saga_id     TEXT NOT NULL UNIQUE CHECK (length(saga_id) BETWEEN 1 AND 200),
    queue       INTEGER NOT NULL REFERENCES queue (id),
    priority    INTEGER NOT NULL,
    issue       INTEGER,
    branch      TEXT NOT NULL,
    worktree    TEXT NOT NULL,
    labels      TEXT NOT NULL CHECK (labels = '{}' OR json_valid(labels)),
    retry_of    TEXT,
    create_time INTEGER NOT NULL,
    on_stale    INTEGER NOT NULL CHECK (on_stale BETWEEN 1 AND 4),
    max_expirations INTEGER NOT NULL CHECK (max_expirations >= 1),
    on_failure  INTEGER NOT NULL CHECK (on_failure BETWEEN 1 AND 2),
    max_attempts INTEGER NOT NULL CHECK (max_attempts >= 1),
    retry_backoff INTEGER NOT NULL CHECK (retry_backoff >= 0),
    retry_backoff_max INTEGER NOT NULL CHECK (retry_backoff_max >= 0),
    execution_timeout INTEGER CHECK (execution_timeout > 0),
    progress_timeout INTEGER CHECK (progress_timeout > 0),
    settle      INTEGER NOT NULL CHECK (settle >= 0),
    compensation_timeout INTEGER NOT NULL CHECK (compensation_timeout > 0),
    payload     BLOB NOT NULL
) STRICT;

-- What changes. Same ids.
CREATE TABLE work (
    id            INTEGER PRIMARY KEY REFERENCES saga (id),
    queue         INTEGER NOT NULL,
    priority      INTEGER NOT NULL,
    state         INTEGER NOT NULL CHECK (state BETWEEN 1 AND 8),
    ready         INTEGER NOT NULL CHECK (ready BETWEEN 0 AND 2),
    due_at        INTEGER,
    due_since     INTEGER,
    revision      INTEGER NOT NULL,
    attempt       INTEGER NOT NULL,
    expirations   INTEGER NOT NULL,
    failures      INTEGER NOT NULL,
    compensations INTEGER NOT NULL,
    update_time   INTEGER NOT NULL,
    end_time      INTEGER,
    not_before    INTEGER,
    settle_until  INTEGER,
    idle_since    INTEGER,
    lease_token   INTEGER CHECK (lease_token > 0),
    lease_purpose INTEGER CHECK (lease_purpose IN (1, 2)),
    lease_acquire INTEGER,
    lease_heartbeat INTEGER,
    lease_expire  INTEGER,
    lease_ttl     INTEGER CHECK (lease_ttl > 0),
    lease_limit   INTEGER CHECK (lease_limit BETWEEN 1 AND 3),
    lease_progress_time INTEGER,
    lease_standing INTEGER,
    expired_at    INTEGER,
    expired_revision INTEGER,
    lease_owner   TEXT,
    assignee      TEXT,
    reserved_until INTEGER,
    cancel_actor  TEXT,
    cancel_reason TEXT,
    terminal_reason TEXT,
    progress      BLOB NOT NULL,
    result        BLOB NOT NULL,
    -- A lease's expiry is after its start.
    CHECK (lease_expire > lease_acquire),
    -- A lease is there whole or not at all, and running sagas have one.
    CHECK ((lease_token IS NULL) = (lease_owner IS NULL) AND (lease_token IS NULL) = (lease_expire IS NULL)),
    CHECK (state <> 3 OR lease_token IS NOT NULL),
    -- A lease stands or is stale (1, 2) in running and compensating sagas only.
    CHECK (lease_standing IS NULL OR lease_standing > 2 OR state IN (3, 4)),
    CHECK ((expired_revision IS NULL) = (lease_standing IS NULL OR lease_standing <> 2)),
    -- Terminal sagas, and they alone, have an end and a reason.
    CHECK ((state >= 5) = (end_time IS NOT NULL) AND (state >= 5) = (terminal_reason IS NOT NULL)),
    CHECK (state = 2 OR assignee IS NULL),
    CHECK (ready = 0 OR (ready = 1 AND state = 1) OR (ready = 2 AND state = 4)),
    CHECK (state <> 6 OR compensations > 0)
) STRICT;

-- ClaimNext: the next ready sagas of a queue.
CREATE INDEX work_ready ON work (ready, queue, priority DESC, id) WHERE ready > 0;
-- ClaimNext: what is reserved for an owner.
CREATE INDEX work_reserved ON work (assignee, queue, priority DESC, id) WHERE assignee IS NOT NULL;
-- WatchStale: the snapshot, in order of the lease_expired events.
CREATE INDEX work_stale ON work (expired_revision) WHERE expired_revision IS NOT NULL;
-- ListSagas of what is in flight, in order of creation.
CREATE INDEX work_in_flight ON work (id) WHERE state < 5;
-- PurgeSagas: the longest unchanged first.
CREATE INDEX work_terminal ON work (update_time) WHERE state >= 5;

CREATE TABLE compensation (
    saga        INTEGER NOT NULL REFERENCES saga (id),
    position    INTEGER NOT NULL CHECK (position BETWEEN 1 AND 128),
    kind        TEXT NOT NULL,
    target      TEXT NOT NULL,
    reason      TEXT NOT NULL,
    state       INTEGER NOT NULL CHECK (state BETWEEN 1 AND 4),
    attempts    INTEGER NOT NULL,
    last_error  TEXT NOT NULL,
    settled_by  TEXT,
    settle_time INTEGER,
    registered_under INTEGER,
    recorded_under INTEGER,
    PRIMARY KEY (saga, position),
    -- Done and waived ones say who and when.
    CHECK ((state IN (2, 4)) = (settled_by IS NOT NULL) AND (state IN (2, 4)) = (settle_time IS NOT NULL))
) STRICT, WITHOUT ROWID;

-- The history: appended to, never changed.
CREATE TABLE event (
    revision   INTEGER PRIMARY KEY CHECK (revision BETWEEN 1 AND 9007199254740991),
    saga       INTEGER NOT NULL REFERENCES saga (id),
    time       INTEGER NOT NULL,
    kind       INTEGER NOT NULL CHECK (kind BETWEEN 1 AND 17),
    from_state INTEGER,
    to_state   INTEGER NOT NULL,
    token      INTEGER,
    mark       INTEGER NOT NULL CHECK (mark BETWEEN 0 AND 5),
    owner      TEXT,
    expire_time INTEGER,
    cause      INTEGER,
    actor      TEXT,
    reason     TEXT NOT NULL,
    details    TEXT NOT NULL CHECK (details = '{}' OR json_valid(details))
) STRICT;

-- ListEvents and purging: a saga's own history.
CREATE INDEX event_of_saga ON event (saga, revision);
-- WatchStale from a revision: what began or ended staleness.
CREATE INDEX event_marked ON event (revision) WHERE mark > 0;

-- Answers to requests with a request_id, in order of time.
CREATE TABLE answer (
    n          INTEGER PRIMARY KEY,
    request_id BLOB NOT NULL UNIQUE CHECK (length(request_id) = 16),
    digest     BLOB NOT NULL CHECK (length(digest) = 16),
    time       INTEGER NOT NULL,
    sagas      TEXT NOT NULL CHECK (json_valid(sagas))
) STRICT;
