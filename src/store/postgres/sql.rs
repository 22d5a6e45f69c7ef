//! All SQL statements of this backend. None is built at run time, and none contains a rule of the domain. A statement
//! about several rows has arrays as parameters, so that it is sent once for all of them.

/// The columns that never change, in the order in which `columns::decode` reads them.
macro_rules! spec_columns {
    ($payload:literal) => {
        concat!(
            "SELECT s.id, s.task_id, s.saga_id, q.name, s.priority, s.issue, s.branch, s.worktree, s.labels, s.retry_of, \
             s.create_time, s.on_stale, s.max_expirations, s.on_failure, s.max_attempts, s.retry_backoff, \
             s.retry_backoff_max, s.execution_timeout, s.progress_timeout, s.settle, s.compensation_timeout, ",
            $payload,
            ", "
        )
    };
}

/// The columns that change. The arguments are the columns that only ended sagas have. Fields that are stored in `rare`
/// are NULL.
macro_rules! changing_columns {
    ($end_time:literal, $terminal_reason:literal) => {
        concat!(
            "w.rare, w.state, w.revision, w.attempt, 0 AS expirations, 0 AS failures, w.compensations, w.update_time, ",
            $end_time,
            " AS end_time, NULL AS not_before, NULL AS settle_until, NULL AS idle_since, w.lease_token, w.lease_purpose, \
             w.lease_acquire, w.lease_heartbeat, w.lease_expire, w.lease_ttl, w.lease_limit, w.lease_progress_time, \
             w.lease_standing, NULL AS expired_at, w.expired_revision, w.lease_owner, NULL AS assignee, \
             NULL AS reserved_until, NULL AS cancel_actor, NULL AS cancel_reason, ",
            $terminal_reason,
            " AS terminal_reason, "
        )
    };
}

/// Sagas in flight, then further columns and the rest of the statement.
macro_rules! in_flight {
    ($payload:literal, $contents:literal) => {
        concat!(
            spec_columns!($payload),
            changing_columns!("NULL::bigint", "NULL::text"),
            $contents,
            " FROM work w JOIN saga s ON s.id = w.id JOIN queue q ON q.id = s.queue LEFT JOIN content c ON c.id = w.id "
        )
    };
}

/// The same for ended sagas.
macro_rules! ended {
    ($payload:literal, $contents:literal) => {
        concat!(
            spec_columns!($payload),
            changing_columns!("w.end_time", "w.terminal_reason"),
            $contents,
            " FROM ended w JOIN saga s ON s.id = w.id JOIN queue q ON q.id = s.queue LEFT JOIN content c ON c.id = w.id "
        )
    };
}

/// Whole sagas, in flight or ended.
macro_rules! whole_sagas {
    ($where:expr) => {
        concat!(
            in_flight!("s.payload", "c.progress, c.result"),
            $where,
            " UNION ALL ",
            ended!("s.payload", "c.progress, c.result"),
            $where
        )
    };
}

/// The rows of the sagas with these task ids ($1), saga ids ($2) and row numbers ($3).
macro_rules! rows_of_keys {
    () => {
        "ANY(ARRAY(SELECT id FROM saga WHERE task_id = ANY($1::text[]) UNION \
         SELECT id FROM saga WHERE saga_id = ANY($2::text[]) UNION SELECT unnest($3::bigint[])))"
    };
}

macro_rules! compensations {
    ($of:expr) => {
        concat!(
            "SELECT position, kind, target, reason, state, attempts, last_error, settled_by, settle_time, registered_under, \
             recorded_under, saga FROM compensation WHERE saga = ",
            $of,
            " ORDER BY saga, position"
        )
    };
}

macro_rules! events {
    ($where:literal) => {
        concat!(
            "SELECT e.revision, s.task_id, s.saga_id, q.name, e.time, e.kind, e.actor, e.reason, e.from_state, e.to_state, \
             e.token, e.details, e.mark, e.owner, e.expire_time, e.cause, e.purpose, e.attempt \
             FROM event e JOIN saga s ON s.id = e.saga JOIN queue q ON q.id = s.queue ",
            $where
        )
    };
}

/// Sagas by keys, and their compensations.
pub const SAGAS: &str = whole_sagas!(concat!("WHERE w.id = ", rows_of_keys!()));
pub const COMPENSATIONS: &str = compensations!(rows_of_keys!());
pub const COMPENSATIONS_OF_ROWS: &str = compensations!("ANY($1::bigint[])");

/// A saga without its contents, and their sizes.
pub const BRIEF: &str = concat!(
    in_flight!(
        "''::bytea",
        "''::bytea, ''::bytea, octet_length(s.payload)::bigint, \
         (coalesce(octet_length(c.progress), 0) + coalesce(octet_length(c.result), 0))::bigint"
    ),
    "WHERE w.id = $1::bigint UNION ALL ",
    ended!(
        "''::bytea",
        "''::bytea, ''::bytea, octet_length(s.payload)::bigint, \
         (coalesce(octet_length(c.progress), 0) + coalesce(octet_length(c.result), 0))::bigint"
    ),
    "WHERE w.id = $1::bigint"
);
/// The column of `BRIEF` with the payload's size. The next one has the size of progress and result.
pub const BRIEF_PAYLOAD_BYTES: usize = 53;
pub const PAYLOAD: &str = "SELECT payload FROM saga WHERE id = $1::bigint";

/// Pages of all sagas and of those in flight, in order of creation and newest first.
pub const LIST: &str = concat!(
    "(",
    in_flight!("''::bytea", "''::bytea, ''::bytea"),
    "WHERE w.id > $1::bigint ORDER BY w.id LIMIT $2) UNION ALL (",
    ended!("''::bytea", "''::bytea, ''::bytea"),
    "WHERE w.id > $1::bigint ORDER BY w.id LIMIT $2) ORDER BY 1 LIMIT $2"
);
pub const LIST_NEWEST: &str = concat!(
    "(",
    in_flight!("''::bytea", "''::bytea, ''::bytea"),
    "WHERE w.id < $1::bigint ORDER BY w.id DESC LIMIT $2) UNION ALL (",
    ended!("''::bytea", "''::bytea, ''::bytea"),
    "WHERE w.id < $1::bigint ORDER BY w.id DESC LIMIT $2) ORDER BY 1 DESC LIMIT $2"
);
pub const LIST_IN_FLIGHT: &str =
    concat!(in_flight!("''::bytea", "''::bytea, ''::bytea"), "WHERE w.id > $1::bigint ORDER BY w.id LIMIT $2");
pub const LIST_IN_FLIGHT_NEWEST: &str =
    concat!(in_flight!("''::bytea", "''::bytea, ''::bytea"), "WHERE w.id < $1::bigint ORDER BY w.id DESC LIMIT $2");

/// Stale sagas in order of their lease_expired events.
pub const STALE: &str = concat!(
    in_flight!("s.payload", "c.progress, c.result"),
    "WHERE w.expired_revision > $1::bigint AND w.expired_revision <= $2::bigint \
     AND (cardinality($3::text[]) = 0 OR q.name = ANY($3)) ORDER BY w.expired_revision LIMIT $4"
);
/// The end of a bounded part of them.
pub const STALE_WINDOW: &str = "SELECT expired_revision FROM work WHERE expired_revision > $1::bigint \
     AND expired_revision <= $2::bigint ORDER BY expired_revision OFFSET $3 LIMIT 1";

/// Ended sagas of a state, the oldest first.
pub const ENDED: &str = concat!(
    ended!("s.payload", "c.progress, c.result"),
    "WHERE w.state = $1::bigint AND w.update_time < $2::bigint ORDER BY w.update_time, w.id LIMIT $3"
);
pub const PURGEABLE: &str = "SELECT id, update_time FROM ended WHERE state = $1::bigint AND update_time < $2::bigint \
     ORDER BY update_time, id LIMIT $3";
pub const COUNT_REMOVAL: &str = "SELECT (SELECT count(*) FROM event WHERE saga = $1::bigint), \
     (SELECT count(*) FROM compensation WHERE saga = $1::bigint), \
     coalesce((SELECT max(revision) FROM event WHERE saga = $1::bigint), 0)";

pub const EVENTS: &str = events!(
    "WHERE e.revision > $1::bigint AND e.revision <= $2::bigint AND (cardinality($3::text[]) = 0 OR q.name = ANY($3)) \
     ORDER BY e.revision LIMIT $4"
);
pub const EVENTS_MARKED: &str = events!(
    "WHERE e.mark IS NOT NULL AND e.revision > $1::bigint AND e.revision <= $2::bigint \
     AND (cardinality($3::text[]) = 0 OR q.name = ANY($3)) ORDER BY e.revision LIMIT $4"
);
/// The end of a bounded part of the history: of all events, and of marked events.
pub const EVENTS_WINDOW: &str = "SELECT revision FROM event WHERE revision > $1::bigint AND revision <= $2::bigint \
     ORDER BY revision OFFSET $3 LIMIT 1";
pub const EVENTS_MARKED_WINDOW: &str = "SELECT revision FROM event WHERE mark IS NOT NULL AND revision > $1::bigint \
     AND revision <= $2::bigint ORDER BY revision OFFSET $3 LIMIT 1";
/// The history of one saga.
pub const EVENTS_OF_TASK: &str = events!(
    "WHERE e.saga = (SELECT id FROM saga WHERE task_id = $1) AND e.revision > $2::bigint AND e.revision <= $3::bigint \
     ORDER BY e.revision LIMIT $4"
);
/// The `claimed` event of a lease.
pub const CLAIMED: &str = events!("WHERE e.revision = $2::bigint AND e.saga = $1::bigint");
/// The newest events of a saga after that event.
pub const NEWEST_EVENTS: &str =
    events!("WHERE e.saga = $1::bigint AND e.revision > $2::bigint ORDER BY e.revision DESC LIMIT $3");

/// The oldest position that can be resumed from, the newest revision, and whether $1 lies in a gap.
pub const POSITION: &str = "SELECT compacted, greatest(compacted, coalesce((SELECT max(revision) FROM event), 0)), \
     (EXISTS (SELECT 1 FROM gap WHERE after_revision < $1::bigint AND $1::bigint <= through))::int FROM writer";

/// Ready sagas in claim order, after a position.
pub const READY: &str = "SELECT id, -rank FROM work WHERE ready = $1::bigint AND queue = $2::bigint \
     AND (rank, id) > ($3::bigint, $4::bigint) ORDER BY rank, id LIMIT $5";
pub const ANSWERS: &str = "SELECT request_id, digest, time, sagas FROM answer WHERE request_id = ANY($1::bytea[])";

pub const QUEUES: &str = "SELECT name, paused::int, actor, reason, change_time, id FROM queue WHERE name > $1 \
     ORDER BY name LIMIT $2";
pub const QUEUE_COUNTS: &str = "SELECT queue, state, sagas FROM queue_count WHERE sagas > 0";
pub const STALE_COUNTS: &str = "SELECT queue, count(*) FROM work WHERE expired_revision IS NOT NULL GROUP BY queue";
pub const READY_COUNTS: &str = "SELECT queue, count(*), min(ready_since) FROM work WHERE ready = 1 GROUP BY queue";

/// Read when a coordinator has taken over.
pub const WRITER: &str = "SELECT schema_version::bigint, epoch, turn, next_revision, next_row, compacted, last_time, \
     system_identifier, timeline FROM writer";
pub const NEWEST_EVENT: &str = "SELECT revision, time FROM event ORDER BY revision DESC LIMIT 1";
pub const NEWEST_HEARTBEAT: &str = "SELECT max(lease_heartbeat) FROM work";
pub const DUE: &str = "SELECT w.id, w.due_at, w.due_since, q.name, w.state FROM work w JOIN queue q ON q.id = w.queue \
     WHERE w.due_at IS NOT NULL";
/// Sagas that are ready to be compensated, with a row for each pending kind; and sagas that are reserved.
pub const READY_TO_COMPENSATE: &str = "SELECT w.id, -w.rank, q.name, c.kind FROM work w JOIN queue q ON q.id = w.queue \
     LEFT JOIN compensation c ON c.saga = w.id AND c.state IN (1, 3) WHERE w.ready = 2";
pub const RESERVED: &str = "SELECT w.id, -w.rank, q.name, w.due_at, w.rare FROM work w JOIN queue q ON q.id = w.queue \
     WHERE w.state = 2 AND w.rare IS NOT NULL";
pub const PAUSED: &str = "SELECT name FROM queue WHERE paused";
pub const ADD_GAP: &str = "INSERT INTO gap VALUES ($1::bigint, $2::bigint) ON CONFLICT (after_revision) DO UPDATE SET through = excluded.through";

/// Begins a turn. It ends the transaction unless this coordinator is still the writer and this turn is the next one.
/// The schema's version stops an older program.
pub const FENCE: &str = "WITH fenced AS (UPDATE writer SET turn = turn + 1, alive_time = clock_timestamp(), \
     next_revision = greatest(next_revision, $4::bigint), next_row = greatest(next_row, $5::bigint), \
     compacted = greatest(compacted, $6::bigint) \
     WHERE epoch = $1::bigint AND turn = $2::bigint AND schema_version = $3::bigint RETURNING 1) \
     SELECT require_rows((SELECT count(*) FROM fenced), 1, 'SG001')";
/// Returns a row if this coordinator is still the writer.
pub const IS_WRITER: &str = "SELECT 1 FROM writer WHERE epoch = $1::bigint AND schema_version = $2::bigint";
pub const STAY_ALIVE: &str =
    "UPDATE writer SET alive_time = clock_timestamp() WHERE epoch = $1::bigint AND schema_version = $2::bigint";
pub const CLOSE: &str = "UPDATE writer SET last_time = greatest(last_time, $2::bigint), alive_time = '-infinity' \
     WHERE epoch = $1::bigint";
/// The row lock waits for a transaction of the lost connection that may still be running.
pub const TURN: &str = "SELECT epoch, turn FROM writer FOR UPDATE";
/// The first turn of the epoch after this one.
pub const FIRST_TURN_BEHIND: &str = "SELECT first_turn FROM epoch WHERE epoch > $1::bigint ORDER BY epoch LIMIT 1";
/// True if the database is the one that was taken over, and has not failed over since.
pub const IS_SAME_TIMELINE: &str = "SELECT (w.system_identifier = s.system_identifier AND w.timeline = c.timeline_id)::int \
     FROM writer w, pg_control_system() s, pg_control_checkpoint() c";

/// Updates a saga's row without changing a value, to find out whether the row can be updated.
pub const TRY_WORK: &str = "UPDATE work SET revision = revision WHERE id = $1::bigint";
pub const TRY_ENDED: &str = "UPDATE ended SET revision = revision WHERE id = $1::bigint";

/// The changes of a turn. The first array has row numbers. If a row is missing that has to exist, the transaction ends.
pub const REMOVE: &str = "WITH gone AS (DELETE FROM ended WHERE id = ANY($1::bigint[]) RETURNING queue, state), \
     counted AS (UPDATE queue_count c SET sagas = c.sagas - g.sagas \
     FROM (SELECT queue, state, count(*) AS sagas FROM gone GROUP BY queue, state) g \
     WHERE c.queue = g.queue AND c.state = g.state RETURNING 1) \
     SELECT require_rows((SELECT count(*) FROM gone), cardinality($1::bigint[]), 'SG002')";
pub const REMOVE_EVENTS: &str = "DELETE FROM event WHERE saga = ANY($1::bigint[])";
pub const REMOVE_COMPENSATIONS: &str = "DELETE FROM compensation WHERE saga = ANY($1::bigint[])";
pub const REMOVE_CONTENTS: &str = "DELETE FROM content WHERE id = ANY($1::bigint[])";
pub const REMOVE_SAGAS: &str = "DELETE FROM saga WHERE id = ANY($1::bigint[])";

pub const ADD_QUEUES: &str = "INSERT INTO queue (id, name) SELECT * FROM unnest($1::bigint[], $2::text[])";
pub const SET_PAUSED: &str = "WITH changed AS (UPDATE queue q SET paused = n.paused <> 0, actor = n.actor, reason = n.reason, \
     change_time = n.change_time \
     FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::bigint[]) AS n(id, paused, actor, reason, change_time) \
     WHERE q.id = n.id RETURNING 1) SELECT require_rows((SELECT count(*) FROM changed), cardinality($1::bigint[]), 'SG002')";
pub const ADD_COUNTS: &str = "INSERT INTO queue_count SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) \
     ON CONFLICT (queue, state) DO UPDATE SET sagas = queue_count.sagas + excluded.sagas";

pub const ADD_SAGAS: &str = "INSERT INTO saga (id, task_id, saga_id, queue, priority, issue, branch, worktree, labels, \
     retry_of, create_time, on_stale, max_expirations, on_failure, max_attempts, retry_backoff, retry_backoff_max, \
     execution_timeout, progress_timeout, settle, compensation_timeout, payload) SELECT * FROM unnest($1::bigint[], \
     $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[], $8::text[], $9::text[], $10::text[], \
     $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[], $17::bigint[], \
     $18::bigint[], $19::bigint[], $20::bigint[], $21::bigint[], $22::bytea[])";

macro_rules! work_arrays {
    () => {
        "unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], \
         $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], \
         $15::bigint[], $16::bigint[], $17::bigint[], $18::bigint[], $19::bigint[], $20::bigint[], $21::bigint[], \
         $22::bigint[], $23::text[], $24::text[])"
    };
}

macro_rules! work_columns {
    () => {
        "(id, queue, rank, ready, ready_since, state, revision, update_time, due_at, due_since, attempt, compensations, \
         expired_revision, lease_token, lease_purpose, lease_acquire, lease_heartbeat, lease_expire, lease_ttl, \
         lease_limit, lease_progress_time, lease_standing, lease_owner, rare)"
    };
}

pub const ADD_WORK: &str = concat!("INSERT INTO work ", work_columns!(), " SELECT * FROM ", work_arrays!());
pub const CHANGE_WORK: &str = concat!(
    "WITH changed AS (UPDATE work w SET ready = n.ready, ready_since = n.ready_since, state = n.state, \
     revision = n.revision, update_time = n.update_time, due_at = n.due_at, due_since = n.due_since, attempt = n.attempt, \
     compensations = n.compensations, expired_revision = n.expired_revision, lease_token = n.lease_token, \
     lease_purpose = n.lease_purpose, lease_acquire = n.lease_acquire, lease_heartbeat = n.lease_heartbeat, \
     lease_expire = n.lease_expire, lease_ttl = n.lease_ttl, lease_limit = n.lease_limit, \
     lease_progress_time = n.lease_progress_time, lease_standing = n.lease_standing, lease_owner = n.lease_owner, \
     rare = n.rare FROM ",
    work_arrays!(),
    " AS n",
    work_columns!(),
    " WHERE w.id = n.id RETURNING 1) SELECT require_rows((SELECT count(*) FROM changed), cardinality($1::bigint[]), 'SG002')"
);
pub const END_WORK: &str = "WITH gone AS (DELETE FROM work WHERE id = ANY($1::bigint[]) RETURNING 1) \
     SELECT require_rows((SELECT count(*) FROM gone), cardinality($1::bigint[]), 'SG002')";
pub const UNEND: &str = "WITH gone AS (DELETE FROM ended WHERE id = ANY($1::bigint[]) RETURNING 1) \
     SELECT require_rows((SELECT count(*) FROM gone), cardinality($1::bigint[]), 'SG002')";
pub const ADD_ENDED: &str = "INSERT INTO ended (id, queue, state, revision, update_time, attempt, compensations, end_time, \
     terminal_reason, expired_revision, lease_token, lease_purpose, lease_acquire, lease_heartbeat, lease_expire, \
     lease_ttl, lease_limit, lease_progress_time, lease_standing, lease_owner, rare) SELECT * FROM unnest($1::bigint[], \
     $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::text[], \
     $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[], \
     $17::bigint[], $18::bigint[], $19::bigint[], $20::text[], $21::text[])";
pub const PUT_CONTENTS: &str = "INSERT INTO content SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bytea[]) \
     ON CONFLICT (id) DO UPDATE SET progress = excluded.progress, result = excluded.result";
pub const PUT_COMPENSATIONS: &str = "INSERT INTO compensation (saga, position, kind, target, reason, state, attempts, \
     last_error, settled_by, settle_time, registered_under, recorded_under) SELECT * FROM unnest($1::bigint[], \
     $2::bigint[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::text[], $9::text[], \
     $10::bigint[], $11::bigint[], $12::bigint[]) ON CONFLICT (saga, position) DO UPDATE SET kind = excluded.kind, \
     target = excluded.target, reason = excluded.reason, state = excluded.state, attempts = excluded.attempts, \
     last_error = excluded.last_error, settled_by = excluded.settled_by, settle_time = excluded.settle_time, \
     registered_under = excluded.registered_under, recorded_under = excluded.recorded_under";
pub const ADD_EVENTS: &str = "INSERT INTO event (revision, saga, time, kind, from_state, to_state, token, actor, reason, \
     details, expire_time, purpose, attempt, mark, owner, cause) SELECT * FROM unnest($1::bigint[], $2::bigint[], \
     $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::text[], $9::text[], $10::text[], \
     $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::text[], $16::bigint[])";
pub const KEEP_ANSWERS: &str = "INSERT INTO answer (request_id, digest, time, sagas) \
     SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bigint[], $4::text[]) \
     ON CONFLICT (request_id) DO UPDATE SET n = DEFAULT, digest = excluded.digest, time = excluded.time, \
     sagas = excluded.sagas";
pub const FORGET_ANSWERS: &str = "DELETE FROM answer WHERE n IN (SELECT n FROM \
     (SELECT n, time FROM answer ORDER BY n LIMIT $2) oldest WHERE time <= $1::bigint)";
