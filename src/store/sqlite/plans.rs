//! Tests that each statement uses its index.

use rusqlite::Connection;

use super::{connection::keep_query_plans, migrate::MIGRATIONS, sql};

/// SQLite's query plan, a line for each table.
fn plan(statement: &str) -> Vec<String> {
    let connection = Connection::open_in_memory().unwrap();
    keep_query_plans(&connection).unwrap();
    for migration in MIGRATIONS {
        connection.execute_batch(migration).unwrap();
    }
    let mut explained = connection.prepare(&format!("EXPLAIN QUERY PLAN {statement}")).unwrap();
    // Unbound parameters are NULL; the plan doesn't depend on them.
    explained.raw_query().mapped(|row| row.get("detail")).map(Result::unwrap).collect()
}

/// True if the step neither scans a whole table nor sorts.
fn is_bounded(line: &str) -> bool {
    let of_a_request = line.starts_with("SCAN json_each") || line.starts_with("SCAN (subquery");
    (!line.starts_with("SCAN") || of_a_request) && !line.contains("TEMP B-TREE FOR ORDER BY")
}

#[test]
fn each_statement_uses_its_index() {
    let mut wrong = Vec::new();
    for (name, statement, index) in [
        ("READY", sql::READY, "INDEX work_ready (ready=? AND queue=? AND priority<?)"),
        ("READY_TO_COMPENSATE", sql::READY_TO_COMPENSATE, "INDEX work_ready (ready=?)"),
        ("STALE", sql::STALE, "INDEX work_stale (expired_revision>? AND expired_revision<?)"),
        ("LIST", sql::LIST, "w USING INTEGER PRIMARY KEY (rowid>?)"),
        ("LIST_NEWEST", sql::LIST_NEWEST, "w USING INTEGER PRIMARY KEY (rowid<?)"),
        ("LIST_IN_FLIGHT", sql::LIST_IN_FLIGHT, "w USING INTEGER PRIMARY KEY (rowid>?)"),
        ("LIST_IN_FLIGHT_NEWEST", sql::LIST_IN_FLIGHT_NEWEST, "w USING INTEGER PRIMARY KEY (rowid<?)"),
        ("PURGEABLE", sql::PURGEABLE, "INDEX work_terminal (state=? AND update_time<?)"),
        ("ENDED", sql::ENDED, "INDEX work_terminal (state=? AND update_time<?)"),
        ("EVENTS", sql::EVENTS, "e USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
        ("EVENTS_WINDOW", sql::EVENTS_WINDOW, "event USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
        ("EVENTS_MARKED_WINDOW", sql::EVENTS_MARKED_WINDOW, "INDEX event_mark (revision>? AND revision<?)"),
        ("STALE_WINDOW", sql::STALE_WINDOW, "INDEX work_stale (expired_revision>? AND expired_revision<?)"),
        ("EVENT_OF_SAGA", sql::EVENT_OF_SAGA, "e USING INTEGER PRIMARY KEY (rowid=?)"),
        ("EVENT_BY_REVISION", sql::EVENT_BY_REVISION, "e USING INTEGER PRIMARY KEY (rowid=?)"),
        ("ENDS_LEASE", sql::ENDS_LEASE, "event USING INTEGER PRIMARY KEY (rowid=?)"),
        ("ENDS_LEASE_OLD", sql::ENDS_LEASE_OLD, "INDEX event_of_saga (saga=? AND revision>?)"),
        ("OLD_EVENTS_OF_SAGA", sql::OLD_EVENTS_OF_SAGA, "INDEX event_of_saga (saga=? AND revision>? AND revision<?)"),
        ("NEXT_PLACE", sql::NEXT_PLACE, "COVERING INDEX event_place (saga=? AND revision>?)"),
        ("PLACE_OF_TASK", sql::PLACE_OF_TASK, "INDEX sqlite_autoindex_saga_1 (task_id=?)"),
        ("NEWEST_OF_ROW", sql::NEWEST_OF_ROW, "ended USING INTEGER PRIMARY KEY (rowid=?)"),
        ("EVENTS_MARKED", sql::EVENTS_MARKED, "INDEX event_marked (revision>? AND revision<?)"),
        ("COUNT_OLD_EVENTS", sql::COUNT_OLD_EVENTS, "INDEX event_of_saga (saga=?)"),
        ("REMOVE_OLD_EVENTS", sql::REMOVE_OLD_EVENTS, "INDEX event_of_saga (saga=?)"),
        ("REMOVE_COMPENSATIONS", sql::REMOVE_COMPENSATIONS, "compensation USING PRIMARY KEY (saga=?)"),
        ("COMPENSATIONS", sql::COMPENSATIONS, "compensation USING PRIMARY KEY (saga=?)"),
        ("SAGA_BY_TASK", sql::SAGA_BY_TASK, "INDEX sqlite_autoindex_saga_1 (task_id=?)"),
        ("SAGA_BY_SAGA", sql::SAGA_BY_SAGA, "INDEX sqlite_autoindex_saga_2 (saga_id=?)"),
        ("SAGA_BY_ROW", sql::SAGA_BY_ROW, "s USING INTEGER PRIMARY KEY (rowid=?)"),
        ("BRIEF_BY_ROW", sql::BRIEF_BY_ROW, "s USING INTEGER PRIMARY KEY (rowid=?)"),
        ("PAYLOAD_BY_ROW", sql::PAYLOAD_BY_ROW, "saga USING INTEGER PRIMARY KEY (rowid=?)"),
        ("UPDATE_WORK", sql::UPDATE_WORK, "work USING INTEGER PRIMARY KEY (rowid=?)"),
        ("UPDATE_INDEXED", sql::UPDATE_INDEXED, "work USING INTEGER PRIMARY KEY (rowid=?)"),
        ("UPDATE_LEASE", sql::UPDATE_LEASE, "work USING INTEGER PRIMARY KEY (rowid=?)"),
        ("ANSWER", sql::ANSWER, "INDEX sqlite_autoindex_answer_1 (request_id=?)"),
        ("QUEUES", sql::QUEUES, "INDEX sqlite_autoindex_queue_1 (name>?)"),
        ("QUEUE_ID", sql::QUEUE_ID, "INDEX sqlite_autoindex_queue_1 (name=?)"),
        ("READY_COUNTS", sql::READY_COUNTS, "COVERING INDEX work_ready (ready=?)"),
        ("READY_PRIORITY", sql::READY_PRIORITY, "COVERING INDEX work_ready (ready=? AND queue=? AND priority<?)"),
        ("READY_SINCE", sql::READY_SINCE, "INDEX work_ready (ready=? AND queue=? AND priority=?)"),
        ("STALE_COUNTS", sql::STALE_COUNTS, "INDEX work_stale (expired_revision>?)"),
        ("MOVES_BEHIND", sql::MOVES_BEHIND, "e USING INTEGER PRIMARY KEY (rowid>?)"),
        ("GAP_AT", sql::GAP_AT, "gap USING INTEGER PRIMARY KEY (rowid<?)"),
    ] {
        let plan = plan(statement);
        if !plan.iter().any(|line| line.contains(index)) || !plan.iter().all(|line| is_bounded(line)) {
            wrong.push(format!("{name} is to use {index}: {plan:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn scans_in_key_order_need_no_sorting() {
    // They scan in the order of the table's key and stop after as many rows as they need.
    for (name, statement) in
        [("FORGET_ANSWERS", sql::FORGET_ANSWERS), ("LAST_EVENT_TIME", sql::LAST_EVENT_TIME), ("HEAD", sql::HEAD)]
    {
        let plan = plan(statement);
        assert!(!plan.iter().any(|line| line.contains("TEMP B-TREE")), "{name}: {plan:#?}");
    }
}
