//! Every statement, named and gathered. None is built at run time, and no rule hides in one.

macro_rules! saga_columns {
    ($payload:literal, $progress:literal, $result:literal $(, $more:literal)?) => {
        concat!(
            "SELECT s.id, s.task_id, s.saga_id, q.name, s.priority, s.issue, s.branch, s.worktree, s.labels, \
             s.retry_of, s.create_time, s.on_stale, s.max_expirations, s.on_failure, s.max_attempts, \
             s.retry_backoff, s.retry_backoff_max, s.execution_timeout, s.progress_timeout, s.settle, \
             s.compensation_timeout, ",
            $payload,
            ", w.state, w.revision, w.attempt, w.expirations, w.failures, w.compensations, w.update_time, \
             w.end_time, w.not_before, w.settle_until, w.idle_since, w.lease_token, w.lease_purpose, \
             w.lease_acquire, w.lease_heartbeat, w.lease_expire, w.lease_ttl, w.lease_limit, \
             w.lease_progress_time, w.lease_standing, w.expired_at, w.expired_revision, w.lease_owner, \
             w.assignee, w.reserved_until, w.cancel_actor, w.cancel_reason, w.terminal_reason, ",
            $progress,
            ", ",
            $result,
            $(", ", $more,)?
            " FROM saga s JOIN work w ON w.id = s.id JOIN queue q ON q.id = s.queue "
        )
    };
}

macro_rules! whole_saga {
    ($tail:literal $(, $more:literal)?) => {
        concat!(saga_columns!("s.payload", "w.progress", "w.result" $(, $more)?), $tail)
    };
}

macro_rules! brief_saga {
    ($tail:literal) => {
        concat!(saga_columns!("x''", "x''", "x''"), $tail)
    };
}

macro_rules! events {
    ($tail:literal) => {
        concat!(
            "SELECT e.revision, s.task_id, s.saga_id, q.name, e.time, e.kind, e.actor, e.reason, e.from_state, \
             e.to_state, e.token, e.details, e.mark, e.owner, e.expire_time, e.cause \
             FROM event e JOIN saga s ON s.id = e.saga JOIN queue q ON q.id = s.queue ",
            $tail
        )
    };
}

pub const SAGA_BY_TASK: &str = whole_saga!("WHERE s.task_id = ?1");
pub const SAGA_BY_SAGA: &str = whole_saga!("WHERE s.saga_id = ?1");
pub const SAGA_BY_ROW: &str = whole_saga!("WHERE s.id = ?1");

/// A saga without its contents, and how large they are, which SQLite tells without reading them.
pub const BRIEF_BY_ROW: &str = concat!(
    saga_columns!(
        "x''",
        "x''",
        "x''",
        "length(s.payload) AS payload_bytes, length(w.progress) + length(w.result) AS outcome_bytes"
    ),
    "WHERE s.id = ?1"
);
pub const PAYLOAD_BY_ROW: &str = "SELECT payload FROM saga WHERE id = ?1";

/// Pages of all sagas, and of those in flight, in order of creation and the other way round.
pub const LIST: &str = brief_saga!("WHERE w.id > ?1 ORDER BY w.id LIMIT ?2");
pub const LIST_NEWEST: &str = brief_saga!("WHERE w.id < ?1 ORDER BY w.id DESC LIMIT ?2");
pub const LIST_IN_FLIGHT: &str = brief_saga!("WHERE w.id > ?1 AND w.state < 5 ORDER BY w.id LIMIT ?2");
pub const LIST_IN_FLIGHT_NEWEST: &str = brief_saga!("WHERE w.id < ?1 AND w.state < 5 ORDER BY w.id DESC LIMIT ?2");

/// Stale sagas in order of their lease_expired events.
pub const STALE: &str = whole_saga!(
    "WHERE w.expired_revision > ?1 AND w.expired_revision <= ?2 \
     AND (?3 IS NULL OR q.name IN (SELECT value FROM json_each(?3))) ORDER BY w.expired_revision LIMIT ?4"
);

pub const COMPENSATIONS: &str = "SELECT position, kind, target, reason, state, attempts, last_error, settled_by, \
     settle_time, registered_under, recorded_under FROM compensation WHERE saga = ?1 ORDER BY position";
pub const PUT_COMPENSATION: &str = "INSERT OR REPLACE INTO compensation (saga, position, kind, target, reason, state, \
     attempts, last_error, settled_by, settle_time, registered_under, recorded_under) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";

pub const INSERT_SAGA: &str = "INSERT INTO saga (id, task_id, saga_id, queue, priority, issue, branch, worktree, \
     labels, retry_of, create_time, on_stale, max_expirations, on_failure, max_attempts, retry_backoff, \
     retry_backoff_max, execution_timeout, progress_timeout, settle, compensation_timeout, payload) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22)";
pub const INSERT_WORK: &str = "INSERT INTO work (id, queue, priority, state, ready, due_at, due_since, revision, \
     attempt, expirations, failures, compensations, update_time, not_before, progress, result) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0, 0, 0, ?9, ?10, ?11, x'', x'')";
/// Everything that can change.
pub const UPDATE_WORK: &str = "UPDATE work SET state = ?2, ready = ?3, due_at = ?4, due_since = ?5, revision = ?6, \
     attempt = ?7, expirations = ?8, failures = ?9, compensations = ?10, update_time = ?11, end_time = ?12, \
     not_before = ?13, settle_until = ?14, idle_since = ?15, lease_token = ?16, lease_purpose = ?17, \
     lease_acquire = ?18, lease_heartbeat = ?19, lease_expire = ?20, lease_ttl = ?21, lease_limit = ?22, \
     lease_progress_time = ?23, lease_standing = ?24, expired_at = ?25, expired_revision = ?26, lease_owner = ?27, \
     assignee = ?28, reserved_until = ?29, cancel_actor = ?30, cancel_reason = ?31, terminal_reason = ?32 \
     WHERE id = ?1";
/// What a heartbeat changes.
pub const UPDATE_LEASE: &str = "UPDATE work SET due_at = ?2, due_since = ?3, lease_heartbeat = ?4, lease_expire = ?5, \
     lease_ttl = ?6, lease_limit = ?7, lease_progress_time = ?8 WHERE id = ?1";
pub const UPDATE_PROGRESS: &str = "UPDATE work SET progress = ?2 WHERE id = ?1";
pub const UPDATE_RESULT: &str = "UPDATE work SET result = ?2 WHERE id = ?1";

pub const INSERT_EVENT: &str = "INSERT INTO event (revision, saga, time, kind, from_state, to_state, token, mark, \
     owner, expire_time, cause, actor, reason, details) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)";
pub const EVENT_OF_SAGA: &str = events!("WHERE e.saga = ?1 AND e.revision = ?2");
/// Looks at no more of the saga's newest events than it is told to. Those of kind ?4 can be many and large, and end no lease.
pub const LEASE_ENDED_BY_HOLDER: &str = events!(
    "WHERE e.revision = (SELECT revision FROM (SELECT revision, kind, token, details FROM event \
     WHERE saga = ?1 AND revision > ?2 ORDER BY revision DESC LIMIT ?3) \
     WHERE token = ?2 AND kind <> ?4 AND instr(details, '\"ended_by\"') > 0 LIMIT 1)"
);
pub const EVENTS_OF_TASK: &str = events!(
    "WHERE e.saga = (SELECT id FROM saga WHERE task_id = ?1) AND e.revision > ?2 AND e.revision <= ?3 \
     AND (?5 = 0 OR e.mark > 0) AND (?6 IS NULL OR q.name IN (SELECT value FROM json_each(?6))) \
     ORDER BY e.revision LIMIT ?4"
);
pub const EVENTS: &str = events!(
    "WHERE e.revision > ?1 AND e.revision <= ?2 AND (?3 IS NULL OR q.name IN (SELECT value FROM json_each(?3))) \
     ORDER BY e.revision LIMIT ?4"
);
pub const EVENTS_MARKED: &str = events!(
    "WHERE e.mark > 0 AND e.revision > ?1 AND e.revision <= ?2 \
     AND (?3 IS NULL OR q.name IN (SELECT value FROM json_each(?3))) ORDER BY e.revision LIMIT ?4"
);
/// Where a bounded stretch of the history ends, of each sort.
pub const EVENTS_WINDOW: &str =
    "SELECT revision FROM event WHERE revision > ?1 AND revision <= ?2 ORDER BY revision LIMIT 1 OFFSET ?3";
pub const EVENTS_MARKED_WINDOW: &str = "SELECT revision FROM event WHERE mark > 0 AND revision > ?1 AND revision <= ?2 \
     ORDER BY revision LIMIT 1 OFFSET ?3";
pub const EVENTS_OF_TASK_WINDOW: &str = "SELECT revision FROM event WHERE saga = (SELECT id FROM saga WHERE task_id = ?4) \
     AND revision > ?1 AND revision <= ?2 ORDER BY revision LIMIT 1 OFFSET ?3";
pub const STALE_WINDOW: &str = "SELECT expired_revision FROM work WHERE expired_revision > ?1 AND expired_revision <= ?2 \
     ORDER BY expired_revision LIMIT 1 OFFSET ?3";

/// `ready > 0` says nothing new, but without it SQLite does not see that the index has every row with `ready = ?1`.
pub const READY: &str = "SELECT id, priority FROM work WHERE ready = ?1 AND ready > 0 AND queue = ?2 \
     AND priority <= ?3 AND (priority < ?3 OR id > ?4) ORDER BY priority DESC, id LIMIT ?5";

pub const QUEUE_ID: &str = "SELECT id FROM queue WHERE name = ?1";
pub const QUEUE_BY_ID: &str = "SELECT 1 FROM queue WHERE id = ?1";
pub const INSERT_QUEUE: &str = "INSERT INTO queue (name) VALUES (?1)";
pub const SET_PAUSED: &str = "UPDATE queue SET paused = ?2, actor = ?3, reason = ?4, change_time = ?5 WHERE name = ?1";
pub const QUEUES: &str =
    "SELECT name, paused, actor, reason, change_time, id FROM queue WHERE name > ?1 ORDER BY name LIMIT ?2";
pub const QUEUES_BRIEF: &str = "SELECT id, name, paused FROM queue ORDER BY name";
pub const PAUSED: &str = "SELECT name FROM queue WHERE paused = 1";

pub const ANSWER: &str = "SELECT digest, time, sagas FROM answer WHERE request_id = ?1";
pub const KEEP_ANSWER: &str = "INSERT OR REPLACE INTO answer (request_id, digest, time, sagas) VALUES (?1, ?2, ?3, ?4)";
/// The oldest are the first: only so many are looked at.
pub const FORGET_ANSWERS: &str = "DELETE FROM answer WHERE n IN ( \
     SELECT n FROM (SELECT n, time FROM answer ORDER BY n LIMIT ?2) WHERE time <= ?1)";

/// `state >= 5` says nothing new, but without it SQLite does not see that the index has every row with `state = ?1`.
pub const PURGEABLE: &str = "SELECT id, update_time FROM work WHERE state = ?1 AND state >= 5 AND update_time < ?2 \
     ORDER BY update_time, id LIMIT ?3";
/// The same, with all that is told of them before they go.
pub const ENDED: &str =
    whole_saga!("WHERE w.state = ?1 AND w.state >= 5 AND w.update_time < ?2 ORDER BY w.update_time, w.id LIMIT ?3");
pub const COUNTED_AS: &str = "SELECT queue, state FROM work WHERE id = ?1";
pub const WEIGHED: &str = "SELECT count(*), coalesce(max(revision), 0), \
     (SELECT count(*) FROM compensation WHERE saga = ?1) FROM event WHERE saga = ?1";
pub const REMOVE_EVENTS: &str = "DELETE FROM event WHERE saga = ?1";
pub const REMOVE_COMPENSATIONS: &str = "DELETE FROM compensation WHERE saga = ?1";
pub const REMOVE_WORK: &str = "DELETE FROM work WHERE id = ?1";
pub const REMOVE_SAGA: &str = "DELETE FROM saga WHERE id = ?1";

pub const META: &str = "SELECT value FROM meta WHERE key = ?1";
pub const RAISE_META: &str = "UPDATE meta SET value = max(value, ?2) WHERE key = ?1";
pub const SET_META: &str = "UPDATE meta SET value = ?2 WHERE key = ?1";

pub const ADD_GAP: &str = "INSERT OR REPLACE INTO gap (after_revision, through) VALUES (?1, ?2)";
/// The gap that a revision lies in, if any.
pub const GAP_AT: &str = "SELECT 1 FROM (SELECT through FROM gap WHERE after_revision < ?1 \
     ORDER BY after_revision DESC LIMIT 1) WHERE through >= ?1";

pub const HEAD: &str = "SELECT coalesce(max(revision), 0) FROM event";
pub const LAST_EVENT_TIME: &str = "SELECT revision, time FROM event ORDER BY revision DESC LIMIT 1";
/// With the row that has it; of an empty store, nothing twice.
pub const LAST_HEARTBEAT_TIME: &str = "SELECT id, max(lease_heartbeat) AS lease_heartbeat FROM work WHERE state < 5";
pub const LAST_ROW: &str = "SELECT coalesce(max(id), 0) FROM saga";
pub const FIRST_ROW: &str = "SELECT min(id) FROM saga";
pub const DUE: &str = "SELECT id, due_at, due_since, queue, state FROM work WHERE due_at IS NOT NULL";
pub const QUEUE_NAMES: &str = "SELECT id, name FROM queue";
/// What waits to be compensated, with a row for each pending kind, and what is reserved and not delayed: what is due to it
/// next lies behind its delay.
pub const READY_TO_COMPENSATE: &str = "SELECT w.id, w.priority, w.queue, c.kind FROM work w \
     LEFT JOIN compensation c ON c.saga = w.id AND c.state IN (1, 3) WHERE w.ready = 2 AND w.ready > 0";
pub const RESERVED: &str = "SELECT id, priority, queue, assignee FROM work \
     WHERE assignee IS NOT NULL AND (not_before IS NULL OR not_before < due_at)";

/// What is counted once in a store's life, and by the verification.
pub const SCANNED_COUNTS: &str = "SELECT queue, state, count(*) FROM work GROUP BY queue, state";
pub const STORED_COUNTS: &str = "SELECT queue, planned, dispatched, running, compensating, completed, failed, \
     compensated, quarantined FROM queue_count";
pub const PUT_COUNT: &str = "INSERT OR REPLACE INTO queue_count (queue, planned, dispatched, running, compensating, \
     completed, failed, compensated, quarantined) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
/// How many sagas went from which state to which behind a revision.
pub const MOVES_BEHIND: &str = "SELECT s.queue, e.from_state, e.to_state, count(*) FROM event e \
     JOIN saga s ON s.id = e.saga WHERE e.revision > ?1 AND e.from_state IS NOT e.to_state GROUP BY 1, 2, 3";
pub const STALE_COUNTS: &str = "SELECT queue, count(*) FROM work WHERE expired_revision IS NOT NULL GROUP BY queue";
/// The index has all that this looks at.
pub const READY_COUNTS: &str = "SELECT queue, count(*) FROM work WHERE ready = 1 AND ready > 0 GROUP BY queue";
/// The next lower priority of what is ready in a queue.
pub const READY_PRIORITY: &str = "SELECT priority FROM work WHERE ready = 1 AND ready > 0 AND queue = ?1 \
     AND priority < ?2 ORDER BY priority DESC LIMIT 1";
/// What is ready with a priority, in order of creation: when it was created, and since when it is ready.
pub const READY_SINCE: &str = "SELECT s.create_time, max(s.create_time, coalesce(w.not_before, 0)) FROM work w \
     JOIN saga s ON s.id = w.id WHERE w.ready = 1 AND w.ready > 0 AND w.queue = ?1 AND w.priority = ?2 ORDER BY w.id";

/// Copies what it can without waiting.
pub const CHECKPOINT_PASSIVE: &str = "PRAGMA wal_checkpoint(PASSIVE)";
/// Copies everything, and lets the next commit begin the log anew.
pub const CHECKPOINT_RESTART: &str = "PRAGMA wal_checkpoint(RESTART)";

/// Pages that hold nothing, and all pages.
pub const FREE_PAGES: &str = "PRAGMA freelist_count";
pub const PAGES: &str = "PRAGMA page_count";
/// The same, and cuts the log's file to nothing.
pub const CHECKPOINT_TRUNCATE: &str = "PRAGMA wal_checkpoint(TRUNCATE)";
/// Writes everything anew, without empty pages.
pub const VACUUM: &str = "VACUUM";
/// One step of giving pages back. A page that is not empty goes elsewhere first, so it writes up to some two hundred: a few
/// milliseconds.
pub const GIVE_BACK: &str = "PRAGMA incremental_vacuum(64)";
pub const AUTO_VACUUM: &str = "PRAGMA auto_vacuum";

/// Everything that a database says it is made of.
pub const SCHEMA: &str = "SELECT type, name, tbl_name, sql FROM sqlite_schema";

/// Verification: SQLite's own, and what it does not know.
pub const INTEGRITY_CHECK: &str = "PRAGMA integrity_check(100)";
pub const FOREIGN_KEY_CHECK: &str = "PRAGMA foreign_key_check";
pub const SAGAS_WITHOUT_WORK: &str = "SELECT id FROM saga WHERE id NOT IN (SELECT id FROM work)";
pub const WORK_UNLIKE_SAGA: &str = "SELECT s.id, s.task_id, w.queue <> s.queue FROM saga s JOIN work w ON w.id = s.id \
     WHERE w.queue <> s.queue OR w.priority <> s.priority";
pub const GAPS: &str = "SELECT after_revision, through FROM gap";
pub const ANSWER_TIMES: &str = "SELECT n, time FROM answer";
pub const EVENTS_IN_GAPS: &str =
    "SELECT e.revision FROM gap g JOIN event e ON e.revision > g.after_revision AND e.revision <= g.through";
pub const EVENTS_OUT_OF_TIME: &str = "SELECT revision FROM (SELECT revision, time, lag(time) OVER (ORDER BY revision) \
     AS before FROM event) WHERE time < before";
pub const ALL_SAGAS: &str = whole_saga!("ORDER BY s.id", "w.due_at");
pub const EVENTS_OF_ROW: &str = events!("WHERE e.saga = ?1 ORDER BY e.revision");
