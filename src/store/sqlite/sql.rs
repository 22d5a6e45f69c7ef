//! Every statement, named and gathered. None is built at run time, and no rule hides in one.

/// The columns of a saga in flight, in the order in which `columns::decode` reads them; what only ended sagas have is NULL.
macro_rules! in_flight {
    ($payload:literal, $progress:literal, $result:literal $(, $added:literal)?) => {
        concat!(
            spec_columns!("s.id", $payload),
            in_flight_columns!(),
            $progress,
            ", ",
            $result,
            $(", ", $added,)?
            " FROM saga s JOIN work w ON w.id = s.id JOIN queue q ON q.id = s.queue "
        )
    };
    // Without contents, and from one saga in flight to the next: of those in between, which are many, nothing is looked at.
    (brief) => {
        concat!(
            spec_columns!("w.id", "x''"),
            in_flight_columns!(),
            "x'', x'' FROM work w CROSS JOIN saga s ON s.id = w.id JOIN queue q ON q.id = s.queue "
        )
    };
}

/// The same of an ended saga.
macro_rules! ended {
    ($payload:literal, $progress:literal, $result:literal $(, $added:literal)?) => {
        concat!(
            spec_columns!("s.id", $payload),
            ended_columns!(),
            $progress,
            ", ",
            $result,
            $(", ", $added,)?
            " FROM saga s JOIN ended w ON w.id = s.id JOIN queue q ON q.id = s.queue "
        )
    };
    (brief) => {
        concat!(
            spec_columns!("w.id", "x''"),
            ended_columns!(),
            "x'', x'' FROM ended w CROSS JOIN saga s ON s.id = w.id JOIN queue q ON q.id = s.queue "
        )
    };
}

macro_rules! in_flight_columns {
    () => {
        "w.more, w.state, w.revision, w.attempt, 0 AS expirations, 0 AS failures, w.compensations, w.update_time, \
         NULL AS end_time, NULL AS not_before, NULL AS settle_until, NULL AS idle_since, w.lease_token, w.lease_purpose, w.lease_acquire, w.lease_heartbeat, w.lease_expire, w.lease_ttl, \
         w.lease_limit, w.lease_progress_time, w.lease_standing, NULL AS expired_at, w.expired_revision, w.lease_owner, \
         NULL AS assignee, NULL AS reserved_until, NULL AS cancel_actor, NULL AS cancel_reason, \
         NULL AS terminal_reason, "
    };
}

macro_rules! ended_columns {
    () => {
        "NULL AS more, w.state, w.revision, w.attempt, w.expirations, w.failures, w.compensations, w.update_time, \
         w.end_time, w.not_before, w.settle_until, w.idle_since, w.lease_token, w.lease_purpose, \
         w.lease_acquire, w.lease_heartbeat, w.lease_expire, w.lease_ttl, w.lease_limit, \
         w.lease_progress_time, w.lease_standing, w.expired_at, w.expired_revision, w.lease_owner, \
         w.assignee, w.reserved_until, w.cancel_actor, w.cancel_reason, w.terminal_reason, "
    };
}

macro_rules! spec_columns {
    ($id:literal, $payload:literal) => {
        concat!(
            "SELECT ",
            $id,
            ", s.task_id, s.saga_id, q.name, s.priority, s.issue, s.branch, s.worktree, s.labels, \
             s.retry_of, s.create_time, s.on_stale, s.max_expirations, s.on_failure, s.max_attempts, \
             s.retry_backoff, s.retry_backoff_max, s.execution_timeout, s.progress_timeout, s.settle, \
             s.compensation_timeout, ",
            $payload,
            ", "
        )
    };
}

/// Whole sagas, in flight or ended; `$order` is about both together.
macro_rules! whole_saga {
    ($where:literal $(, $order:literal)?) => {
        concat!(
            in_flight!("s.payload", "w.progress", "w.result"),
            $where,
            " UNION ALL ",
            ended!("s.payload", "w.progress", "w.result"),
            $where,
            $($order)?
        )
    };
}

/// Events of both histories; `$order` is about both together. (A column by name may be wanted only where both have it.)
macro_rules! events {
    ($where:literal $(, $order:literal)?) => {
        concat!(
            "SELECT e.revision, s.task_id, s.saga_id, q.name, e.time, e.kind, e.actor, e.reason, e.from_state, \
             e.to_state, e.token, e.details, e.mark, e.owner, e.expire_time, e.cause, e.purpose, e.attempt \
             FROM event e JOIN saga s ON s.id = e.saga JOIN queue q ON q.id = s.queue ",
            $where,
            " UNION ALL SELECT e.revision, s.task_id, s.saga_id, q.name, e.time, e.kind, e.actor, e.reason, \
             e.from_state, e.to_state, e.token, e.details, e.mark, e.owner, e.expire_time, e.cause, NULL, NULL \
             FROM old_event e JOIN saga s ON s.id = e.saga JOIN queue q ON q.id = s.queue ",
            $where,
            $($order)?
        )
    };
}

/// A statement over the revisions of a saga's events in the new history, from ?1 back to what lies behind ?2.
macro_rules! chain {
    ($statement:literal) => {
        concat!(
            "WITH RECURSIVE chain (revision, prev) AS (SELECT revision, prev FROM event WHERE revision = ?1 \
             UNION ALL SELECT e.revision, e.prev FROM chain JOIN event e ON e.revision = chain.prev \
             WHERE chain.prev > ?2 AND chain.prev < chain.revision) ",
            $statement
        )
    };
}

pub const SAGA_BY_TASK: &str = whole_saga!("WHERE s.task_id = ?1");
pub const SAGA_BY_SAGA: &str = whole_saga!("WHERE s.saga_id = ?1");
pub const SAGA_BY_ROW: &str = whole_saga!("WHERE s.id = ?1");

/// A saga without its contents, and how large they are, which SQLite tells without reading them.
pub const BRIEF_BY_ROW: &str = concat!(
    in_flight!(
        "x''",
        "x''",
        "x''",
        "length(s.payload) AS payload_bytes, \
         coalesce(length(w.progress), 0) + coalesce(length(w.result), 0) AS outcome_bytes"
    ),
    "WHERE s.id = ?1 UNION ALL ",
    ended!("x''", "x''", "x''", "length(s.payload), length(w.progress) + length(w.result)"),
    "WHERE s.id = ?1"
);
pub const PAYLOAD_BY_ROW: &str = "SELECT payload FROM saga WHERE id = ?1";

/// A saga's place, and the revision of its newest event.
pub const PLACE_OF_TASK: &str = "SELECT s.id, w.revision FROM saga s JOIN work w ON w.id = s.id WHERE s.task_id = ?1 \
     UNION ALL SELECT s.id, w.revision FROM saga s JOIN ended w ON w.id = s.id WHERE s.task_id = ?1";
pub const NEWEST_OF_ROW: &str =
    "SELECT revision FROM work WHERE id = ?1 UNION ALL SELECT revision FROM ended WHERE id = ?1";

/// Pages of all sagas, and of those in flight, in order of creation and the other way round.
pub const LIST: &str =
    concat!(in_flight!(brief), "WHERE w.id > ?1 UNION ALL ", ended!(brief), "WHERE w.id > ?1 ORDER BY 1 LIMIT ?2");
pub const LIST_NEWEST: &str =
    concat!(in_flight!(brief), "WHERE w.id < ?1 UNION ALL ", ended!(brief), "WHERE w.id < ?1 ORDER BY 1 DESC LIMIT ?2");
pub const LIST_IN_FLIGHT: &str = concat!(in_flight!(brief), "WHERE w.id > ?1 ORDER BY 1 LIMIT ?2");
pub const LIST_IN_FLIGHT_NEWEST: &str = concat!(in_flight!(brief), "WHERE w.id < ?1 ORDER BY 1 DESC LIMIT ?2");

/// Stale sagas in order of their lease_expired events.
pub const STALE: &str = concat!(
    in_flight!("s.payload", "w.progress", "w.result"),
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
/// What each change writes says OR FAIL: each is about one row, which is written whole or not at all, so there is nothing that a
/// journal of the statement's own would have to undo. An error of the disk ends the transaction anyway.
pub const INSERT_WORK: &str = "INSERT OR FAIL INTO work (id, queue, priority, ready, state, revision, update_time, due_at, \
     due_since, attempt, compensations, expired_revision, lease_token, lease_purpose, lease_acquire, lease_heartbeat, \
     lease_expire, lease_ttl, lease_limit, lease_progress_time, lease_standing, lease_owner, more, progress, result) \
     VALUES (?1, ?22, ?23, ?20, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?21, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, \
     ?24, ?25)";
/// All that changes but what an index holds: so none is touched.
pub const UPDATE_WORK: &str = "UPDATE OR FAIL work SET state = ?2, revision = ?3, update_time = ?4, due_at = ?5, due_since = ?6, \
     attempt = ?7, compensations = ?8, lease_token = ?9, lease_purpose = ?10, lease_acquire = ?11, \
     lease_heartbeat = ?12, lease_expire = ?13, lease_ttl = ?14, lease_limit = ?15, lease_progress_time = ?16, \
     lease_standing = ?17, lease_owner = ?18, more = ?19 WHERE id = ?1";
/// The same with what the indexes hold.
pub const UPDATE_INDEXED: &str = "UPDATE OR FAIL work SET state = ?2, revision = ?3, update_time = ?4, due_at = ?5, \
     due_since = ?6, attempt = ?7, compensations = ?8, lease_token = ?9, lease_purpose = ?10, lease_acquire = ?11, \
     lease_heartbeat = ?12, lease_expire = ?13, lease_ttl = ?14, lease_limit = ?15, lease_progress_time = ?16, \
     lease_standing = ?17, lease_owner = ?18, more = ?19, ready = ?20, expired_revision = ?21 WHERE id = ?1";
/// What a heartbeat changes.
pub const UPDATE_LEASE: &str = "UPDATE OR FAIL work SET due_at = ?2, due_since = ?3, lease_heartbeat = ?4, lease_expire = ?5, \
     lease_ttl = ?6, lease_limit = ?7, lease_progress_time = ?8 WHERE id = ?1";
pub const UPDATE_PROGRESS: &str = "UPDATE work SET progress = ?2 WHERE id = ?1";
pub const UPDATE_RESULT: &str = "UPDATE work SET result = ?2 WHERE id = ?1";
/// A saga that ends, or an ended one that is amended, whose row was removed before.
pub const PUT_ENDED: &str = "INSERT OR FAIL INTO ended (id, queue, priority, ready, state, revision, attempt, \
     expirations, failures, compensations, update_time, end_time, lease_token, lease_purpose, lease_acquire, \
     lease_heartbeat, lease_expire, lease_ttl, lease_limit, lease_progress_time, lease_standing, lease_owner, \
     cancel_actor, cancel_reason, terminal_reason, progress, result, not_before, settle_until, idle_since) \
     VALUES (?1, ?2, ?3, 0, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, \
     ?23, ?24, ?25, ?26, ?27, ?28, ?29)";
pub const REMOVE_WORK: &str = "DELETE FROM work WHERE id = ?1";
pub const REMOVE_ENDED: &str = "DELETE FROM ended WHERE id = ?1";

pub const INSERT_EVENT: &str = "INSERT OR FAIL INTO event (revision, saga, prev, time, kind, from_state, to_state, token, actor, \
     reason, details) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
pub const INSERT_CLAIMED: &str = "INSERT OR FAIL INTO event (revision, saga, prev, time, kind, from_state, to_state, token, \
     actor, reason, details, expire_time, purpose, attempt, mark) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, NULL, ?11, ?12, ?13, ?14)";
pub const INSERT_MARKED: &str = "INSERT OR FAIL INTO event (revision, saga, prev, time, kind, from_state, to_state, token, \
     actor, reason, details, expire_time, mark, owner, cause) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)";

pub const EVENT_BY_REVISION: &str = events!("WHERE e.revision = ?1");
pub const EVENT_OF_SAGA: &str = events!("WHERE e.revision = ?2 AND e.saga = ?1");
/// The event before, and whether an event ends the lease with token ?3 by its holder's own word. Those of kind ?4 can be many
/// and large, and end no lease.
pub const ENDS_LEASE: &str = "SELECT prev, coalesce(token = ?3 AND kind <> ?4 AND instr(details, '\"ended_by\"') > 0, 0) \
     FROM event WHERE revision = ?1 AND saga = ?2";
/// The revision of such an event in the old history; looks at no more of the saga's newest events than it is told to.
pub const ENDS_LEASE_OLD: &str = "SELECT revision FROM (SELECT revision, kind, token, details FROM old_event \
     WHERE saga = ?1 AND revision > ?2 ORDER BY revision DESC LIMIT ?3) \
     WHERE token = ?2 AND kind <> ?4 AND instr(details, '\"ended_by\"') > 0 LIMIT 1";
/// A saga's own history: in the old one by its index, in the new one from place to place.
pub const OLD_EVENTS_OF_SAGA: &str = "SELECT revision FROM old_event WHERE saga = ?1 AND revision > ?2 AND revision <= ?3 \
     ORDER BY revision LIMIT ?4";
pub const NEXT_PLACE: &str = "SELECT revision FROM event WHERE saga = ?1 AND revision > ?2 AND revision % 61 = 0 \
     ORDER BY revision LIMIT 1";
pub const CHAIN: &str = chain!("SELECT revision FROM chain");
pub const EVENTS: &str = events!(
    "WHERE e.revision > ?1 AND e.revision <= ?2 AND (?3 IS NULL OR q.name IN (SELECT value FROM json_each(?3)))",
    " ORDER BY 1 LIMIT ?4"
);
pub const EVENTS_MARKED: &str = events!(
    "WHERE e.mark > 0 AND e.revision > ?1 AND e.revision <= ?2 \
     AND (?3 IS NULL OR q.name IN (SELECT value FROM json_each(?3)))",
    " ORDER BY 1 LIMIT ?4"
);
/// Where a bounded stretch of the history ends, of each sort.
pub const EVENTS_WINDOW: &str = "SELECT revision FROM event WHERE revision > ?1 AND revision <= ?2 \
     UNION ALL SELECT revision FROM old_event WHERE revision > ?1 AND revision <= ?2 ORDER BY 1 LIMIT 1 OFFSET ?3";
pub const EVENTS_MARKED_WINDOW: &str = "SELECT revision FROM event WHERE mark > 0 AND revision > ?1 AND revision <= ?2 \
     UNION ALL SELECT revision FROM old_event WHERE mark > 0 AND revision > ?1 AND revision <= ?2 \
     ORDER BY 1 LIMIT 1 OFFSET ?3";
pub const STALE_WINDOW: &str = "SELECT expired_revision FROM work WHERE expired_revision > ?1 AND expired_revision <= ?2 \
     ORDER BY expired_revision LIMIT 1 OFFSET ?3";

pub const READY: &str = "SELECT id, priority FROM work WHERE ready = ?1 AND queue = ?2 \
     AND priority <= ?3 AND (priority < ?3 OR id > ?4) ORDER BY priority DESC, id LIMIT ?5";

pub const READY_OF_ROW: &str = "SELECT coalesce(ready, 0) FROM work WHERE id = ?1";

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
pub const PURGEABLE: &str = "SELECT id, update_time FROM ended WHERE state = ?1 AND state >= 5 AND update_time < ?2 \
     ORDER BY update_time, id LIMIT ?3";
/// The same, with all that is told of them before they go.
pub const ENDED: &str = concat!(
    ended!("s.payload", "w.progress", "w.result"),
    "WHERE w.state = ?1 AND w.state >= 5 AND w.update_time < ?2 ORDER BY w.update_time, w.id LIMIT ?3"
);
pub const COUNTED_AS: &str = "SELECT queue, state FROM ended WHERE id = ?1";
/// How many events a saga has, the newest of which is ?1; they are counted from there back. Then the same in the old history.
pub const COUNT_EVENTS: &str = chain!("SELECT count(*) FROM chain");
pub const COUNT_OLD_EVENTS: &str = "SELECT count(*) FROM old_event WHERE saga = ?1";
pub const REMOVE_EVENTS: &str = chain!("DELETE FROM event WHERE revision IN (SELECT revision FROM chain)");
pub const REMOVE_OLD_EVENTS: &str = "DELETE FROM old_event WHERE saga = ?1";
pub const COUNT_COMPENSATIONS: &str = "SELECT count(*) FROM compensation WHERE saga = ?1";
pub const REMOVE_COMPENSATIONS: &str = "DELETE FROM compensation WHERE saga = ?1";
pub const REMOVE_SAGA: &str = "DELETE FROM saga WHERE id = ?1";

pub const META: &str = "SELECT value FROM meta WHERE key = ?1";
pub const RAISE_META: &str = "UPDATE meta SET value = max(value, ?2) WHERE key = ?1";
pub const SET_META: &str = "UPDATE meta SET value = ?2 WHERE key = ?1";

pub const ADD_GAP: &str = "INSERT OR REPLACE INTO gap (after_revision, through) VALUES (?1, ?2)";
/// The gap that a revision lies in, if any.
pub const GAP_AT: &str = "SELECT 1 FROM (SELECT through FROM gap WHERE after_revision < ?1 \
     ORDER BY after_revision DESC LIMIT 1) WHERE through >= ?1";

pub const HEAD: &str = "SELECT coalesce((SELECT max(revision) FROM event), (SELECT max(revision) FROM old_event), 0)";
pub const LAST_EVENT_TIME: &str =
    "SELECT revision, time FROM event UNION ALL SELECT revision, time FROM old_event ORDER BY 1 DESC LIMIT 1";
/// With the row that has it; of an empty store, nothing twice.
pub const LAST_HEARTBEAT_TIME: &str = "SELECT id, max(lease_heartbeat) AS lease_heartbeat FROM work";
pub const LAST_ROW: &str = "SELECT coalesce(max(id), 0) FROM saga";
pub const FIRST_ROW: &str = "SELECT min(id) FROM saga";
pub const DUE: &str = "SELECT id, due_at, due_since, queue, state FROM work WHERE due_at IS NOT NULL";
pub const QUEUE_NAMES: &str = "SELECT id, name FROM queue";
/// What waits to be compensated, with a row for each pending kind, and what is reserved.
pub const READY_TO_COMPENSATE: &str = "SELECT w.id, w.priority, w.queue, c.kind FROM work w \
     LEFT JOIN compensation c ON c.saga = w.id AND c.state IN (1, 3) WHERE w.ready = 2";
pub const RESERVED: &str = "SELECT id, priority, queue, due_at, more FROM work WHERE state = 2 AND more IS NOT NULL";

/// What is counted once in a store's life, and by the verification.
pub const SCANNED_COUNTS: &str = "SELECT queue, state, count(*) FROM \
     (SELECT queue, state FROM work UNION ALL SELECT queue, state FROM ended) GROUP BY queue, state";
pub const STORED_COUNTS: &str = "SELECT queue, planned, dispatched, running, compensating, completed, failed, \
     compensated, quarantined FROM queue_count";
pub const PUT_COUNT: &str = "INSERT OR REPLACE INTO queue_count (queue, planned, dispatched, running, compensating, \
     completed, failed, compensated, quarantined) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
/// How many sagas went from which state to which behind a revision.
pub const MOVES_BEHIND: &str = "SELECT s.queue, e.from_state, e.to_state, count(*) FROM event e \
     JOIN saga s ON s.id = e.saga WHERE e.revision > ?1 AND e.from_state IS NOT e.to_state GROUP BY 1, 2, 3 \
     UNION ALL SELECT s.queue, e.from_state, e.to_state, count(*) FROM old_event e \
     JOIN saga s ON s.id = e.saga WHERE e.revision > ?1 AND e.from_state IS NOT e.to_state GROUP BY 1, 2, 3";
pub const STALE_COUNTS: &str = "SELECT queue, count(*) FROM work WHERE expired_revision IS NOT NULL GROUP BY queue";
/// The index has all that this looks at.
pub const READY_COUNTS: &str = "SELECT queue, count(*) FROM work WHERE ready = 1 GROUP BY queue";
/// The next lower priority of what is ready in a queue.
pub const READY_PRIORITY: &str = "SELECT priority FROM work WHERE ready = 1 AND queue = ?1 \
     AND priority < ?2 ORDER BY priority DESC LIMIT 1";
/// What is ready with a priority, in order of creation: when it was created, and what else it has.
pub const READY_SINCE: &str = "SELECT s.id, s.create_time, w.more FROM work w JOIN saga s ON s.id = w.id \
     WHERE w.ready = 1 AND w.queue = ?1 AND w.priority = ?2 ORDER BY w.id";

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
pub const SAGAS_WITHOUT_WORK: &str =
    "SELECT id FROM saga WHERE id NOT IN (SELECT id FROM work) AND id NOT IN (SELECT id FROM ended)";
/// Rows of tables without foreign keys that belong to no saga.
pub const ROWS_WITHOUT_SAGA: &str = "SELECT 'work', id FROM work WHERE id NOT IN (SELECT id FROM saga) \
     UNION ALL SELECT 'event', revision FROM event WHERE saga NOT IN (SELECT id FROM saga)";
pub const IN_FLIGHT_AND_ENDED: &str =
    "SELECT s.task_id, s.id FROM saga s JOIN work w ON w.id = s.id JOIN ended e ON e.id = s.id";
pub const WORK_UNLIKE_SAGA: &str = "SELECT s.id, s.task_id, w.queue <> s.queue FROM saga s JOIN work w ON w.id = s.id \
     WHERE w.queue <> s.queue OR w.priority <> s.priority \
     UNION ALL SELECT s.id, s.task_id, w.queue <> s.queue FROM saga s JOIN ended w ON w.id = s.id \
     WHERE w.queue <> s.queue OR w.priority <> s.priority";
pub const GAPS: &str = "SELECT after_revision, through FROM gap";
pub const ANSWER_TIMES: &str = "SELECT n, time FROM answer";
pub const EVENTS_IN_GAPS: &str = "SELECT e.revision FROM gap g JOIN event e ON e.revision > g.after_revision AND e.revision <= g.through \
     UNION ALL SELECT e.revision FROM gap g JOIN old_event e ON e.revision > g.after_revision AND e.revision <= g.through";
pub const EVENTS_OUT_OF_TIME: &str = "SELECT revision FROM (SELECT revision, time, lag(time) OVER (ORDER BY revision) \
     AS before FROM (SELECT revision, time FROM event UNION ALL SELECT revision, time FROM old_event)) WHERE time < before";
/// Where the old history lies that new events were written behind: all of it is older.
pub const EVENTS_OUT_OF_PLACE: &str =
    "SELECT revision FROM event WHERE revision <= (SELECT max(revision) FROM old_event)";
pub const PREV: &str = "SELECT prev FROM event WHERE revision = ?1";
pub const COUNT_ALL_EVENTS: &str = "SELECT (SELECT count(*) FROM event) + (SELECT count(*) FROM old_event)";
pub const ALL_SAGAS: &str = concat!(
    in_flight!("s.payload", "w.progress", "w.result", "w.due_at AS due_at, w.ready AS ready, 1 AS in_flight"),
    " UNION ALL ",
    ended!("s.payload", "w.progress", "w.result", "w.due_at, nullif(w.ready, 0), 0"),
    " ORDER BY 1"
);
