-- Everything is in a separate schema, so that the database can hold other things. Times are microseconds since 1970.
-- The numbers of states and kinds are in columns/codes.rs. The columns that a heartbeat changes have no index, so that
-- PostgreSQL updates the row within its page (heap-only). There are no foreign keys: only one coordinator writes, and
-- its code keeps the tables consistent.

CREATE SCHEMA sagad;
SET LOCAL search_path = sagad;

-- The current writer, and the numbers with which the next turn begins. There is one row, and every turn changes it
-- first.
CREATE TABLE writer (
    one            boolean PRIMARY KEY DEFAULT true CHECK (one),
    schema_version integer NOT NULL,
    epoch          bigint NOT NULL,
    turn           bigint NOT NULL,
    alive_time     timestamptz NOT NULL,
    next_revision  bigint NOT NULL,
    next_row       bigint NOT NULL,
    compacted      bigint NOT NULL,
    last_time      bigint NOT NULL,
    system_identifier bigint NOT NULL,
    timeline       bigint NOT NULL
) WITH (fillfactor = 10);

-- The coordinators that have been the writer, with their first turn, name and address.
CREATE TABLE epoch (
    epoch      bigint PRIMARY KEY,
    first_turn bigint NOT NULL,
    start_time timestamptz NOT NULL,
    name       text NOT NULL,
    address    text NOT NULL,
    backend    integer NOT NULL
);

CREATE TABLE queue (
    id          integer PRIMARY KEY,
    name        text COLLATE "C" NOT NULL UNIQUE,
    paused      boolean NOT NULL DEFAULT false,
    actor       text,
    reason      text NOT NULL DEFAULT '',
    change_time bigint
) WITH (fillfactor = 50);

-- How many sagas each queue has in each state.
CREATE TABLE queue_count (
    queue integer NOT NULL,
    state smallint NOT NULL,
    sagas bigint NOT NULL,
    PRIMARY KEY (queue, state)
) WITH (fillfactor = 10);

-- The columns of a saga that never change.
CREATE TABLE saga (
    id             bigint PRIMARY KEY,
    task_id        text COLLATE "C" NOT NULL UNIQUE,
    saga_id        text COLLATE "C" NOT NULL UNIQUE,
    queue          integer NOT NULL,
    priority       integer NOT NULL,
    issue          bigint,
    branch         text NOT NULL,
    worktree       text NOT NULL,
    labels         text NOT NULL,
    retry_of       text,
    create_time    bigint NOT NULL,
    on_stale       smallint NOT NULL,
    max_expirations integer NOT NULL,
    on_failure     smallint NOT NULL,
    max_attempts   integer NOT NULL,
    retry_backoff  bigint NOT NULL,
    retry_backoff_max bigint NOT NULL,
    execution_timeout bigint,
    progress_timeout bigint,
    settle         bigint NOT NULL,
    compensation_timeout bigint NOT NULL,
    payload        bytea NOT NULL
);

-- Sagas in flight. `rank` is the negated priority, so that an ascending index is in the order of claims. `rare` is JSON
-- with the fields that few sagas have.
CREATE TABLE work (
    id            bigint PRIMARY KEY,
    queue         integer NOT NULL,
    rank          bigint NOT NULL,
    ready         smallint,
    ready_since   bigint,
    state         smallint NOT NULL,
    revision      bigint NOT NULL,
    update_time   bigint NOT NULL,
    due_at        bigint,
    due_since     bigint,
    attempt       bigint NOT NULL,
    compensations integer NOT NULL,
    expired_revision bigint,
    lease_token   bigint,
    lease_purpose smallint,
    lease_acquire bigint,
    lease_heartbeat bigint,
    lease_expire  bigint,
    lease_ttl     bigint,
    lease_limit   smallint,
    lease_progress_time bigint,
    lease_standing smallint,
    lease_owner   text,
    rare          text
) WITH (fillfactor = 50);

-- ClaimNext: the next ready sagas of a queue.
CREATE INDEX work_ready ON work (ready, queue, rank, id) WHERE ready IS NOT NULL;
-- WatchStale: the snapshot, in order of the lease_expired events.
CREATE INDEX work_stale ON work (expired_revision) WHERE expired_revision IS NOT NULL;

-- Ended sagas, with those of the same columns that they need.
CREATE TABLE ended (
    id            bigint PRIMARY KEY,
    queue         integer NOT NULL,
    state         smallint NOT NULL,
    revision      bigint NOT NULL,
    update_time   bigint NOT NULL,
    attempt       bigint NOT NULL,
    compensations integer NOT NULL,
    end_time      bigint,
    terminal_reason text,
    expired_revision bigint,
    lease_token   bigint,
    lease_purpose smallint,
    lease_acquire bigint,
    lease_heartbeat bigint,
    lease_expire  bigint,
    lease_ttl     bigint,
    lease_limit   smallint,
    lease_progress_time bigint,
    lease_standing smallint,
    lease_owner   text,
    rare          text
);

-- Purges and exports: the oldest of a state first.
CREATE INDEX ended_since ON ended (state, update_time, id);

-- Progress and result of the sagas that have any.
CREATE TABLE content (
    id       bigint PRIMARY KEY,
    progress bytea NOT NULL,
    result   bytea NOT NULL
);

CREATE TABLE compensation (
    saga        bigint NOT NULL,
    position    integer NOT NULL,
    kind        text NOT NULL,
    target      text NOT NULL,
    reason      text NOT NULL,
    state       smallint NOT NULL,
    attempts    bigint NOT NULL,
    last_error  text NOT NULL,
    settled_by  text,
    settle_time bigint,
    registered_under bigint,
    recorded_under bigint,
    PRIMARY KEY (saga, position)
);

-- The history. Events are added and purged, never changed.
CREATE TABLE event (
    revision   bigint PRIMARY KEY,
    saga       bigint NOT NULL,
    time       bigint NOT NULL,
    kind       smallint NOT NULL,
    from_state smallint,
    to_state   smallint NOT NULL,
    token      bigint,
    actor      text,
    reason     text,
    details    text,
    expire_time bigint,
    purpose    smallint,
    attempt    bigint,
    mark       smallint,
    owner      text,
    cause      smallint
);

-- The history of one saga.
CREATE INDEX event_of_saga ON event (saga, revision);
-- WatchStale from a revision: the events that began or ended staleness.
CREATE INDEX event_mark ON event (revision) WHERE mark IS NOT NULL;

-- Revisions that were never assigned: `after_revision` < revision <= `through`. A watch cannot resume from them.
CREATE TABLE gap (
    after_revision bigint PRIMARY KEY,
    through        bigint NOT NULL
);

-- Answers to requests with a `request_id`; `n` is the order in which they are forgotten.
CREATE TABLE answer (
    request_id bytea PRIMARY KEY,
    n          bigint GENERATED ALWAYS AS IDENTITY,
    digest     bytea NOT NULL,
    time       bigint NOT NULL,
    sagas      text NOT NULL
);
CREATE INDEX answer_oldest ON answer (n);

-- Ends the transaction unless a statement changed as many rows as it had to.
CREATE FUNCTION require_rows(changed bigint, wanted bigint, code text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF changed IS DISTINCT FROM wanted THEN
        RAISE EXCEPTION '% rows instead of %', changed, wanted USING ERRCODE = code;
    END IF;
END
$$;
