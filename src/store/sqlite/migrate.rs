//! The versions of the schema, and the migrations between them.

use rusqlite::{Connection, TransactionBehavior};

use super::open_error::{APPLICATION_ID, FoundDatabase, SCHEMA_VERSION};

/// The migrations; each makes a version from the one before.
pub const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_begin.sql"),
    include_str!("migrations/0002_counts.sql"),
    include_str!("migrations/0003_narrow.sql"),
];
const _: () = assert!(MIGRATIONS.len() == SCHEMA_VERSION as usize, "each version of the schema has its migration");

/// Migrates a database to the newest of these versions, one transaction per version. If it is interrupted, the
/// database has some version completely, and the next start continues. Only tests pass other migrations than
/// [`MIGRATIONS`].
///
/// # Errors
/// An error of SQLite. The versions before the failed one stay.
pub fn migrate(connection: &mut Connection, found: FoundDatabase, migrations: &[&str]) -> Result<(), rusqlite::Error> {
    let have = match found {
        FoundDatabase::Nothing => 0,
        FoundDatabase::Ours(version) => version as usize,
    };
    for (version, migration) in migrations.iter().enumerate().skip(have) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", version as i64 + 1)?;
        transaction.commit()?;
        tracing::info!(version = version + 1, "the store's schema was brought up to date");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The version, the schema and the values in `meta`.
    fn state(connection: &Connection) -> (i64, Vec<String>, Vec<i64>) {
        let version = connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        let mut statement = connection.prepare("SELECT coalesce(sql, name) FROM sqlite_schema ORDER BY name").unwrap();
        let schema = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        let mut statement = connection.prepare("SELECT value FROM meta ORDER BY key").unwrap();
        let values = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        (version, schema, values)
    }

    /// A store of the first version.
    fn first() -> Connection {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, FoundDatabase::Nothing, &MIGRATIONS[..1]).unwrap();
        connection
    }

    const SECOND: &str = "CREATE TABLE second (x INTEGER) STRICT; UPDATE meta SET value = value + 1000;";
    const THIRD: &str = "ALTER TABLE second RENAME TO third;";

    #[test]
    fn each_migration_runs_once_and_in_order() {
        let mut connection = first();
        let (version, _, values) = state(&connection);
        assert_eq!(version, 1);
        let all = [MIGRATIONS[0], SECOND, THIRD];
        migrate(&mut connection, FoundDatabase::Ours(1), &all).unwrap();
        let migrated = state(&connection);
        assert_eq!(migrated.0, 3);
        assert!(migrated.1.iter().any(|sql| sql.contains("third")), "{migrated:?}");
        assert_eq!(migrated.2, values.iter().map(|value| value + 1000).collect::<Vec<_>>(), "each ran once");
        migrate(&mut connection, FoundDatabase::Ours(3), &all).unwrap();
        assert_eq!(state(&connection), migrated, "there is nothing left to do");
    }

    #[test]
    fn a_failed_migration_leaves_the_previous_version_unchanged() {
        let mut connection = first();
        migrate(&mut connection, FoundDatabase::Ours(1), &[MIGRATIONS[0], SECOND]).unwrap();
        let before = state(&connection);
        let broken = "CREATE TABLE third (x INTEGER) STRICT; DROP TABLE second; UPDATE meta SET value = 0;
                      INSERT INTO nowhere VALUES (1);";
        assert!(migrate(&mut connection, FoundDatabase::Ours(2), &[MIGRATIONS[0], SECOND, broken]).is_err());
        assert_eq!(state(&connection), before);
        migrate(&mut connection, FoundDatabase::Ours(2), &[MIGRATIONS[0], SECOND, THIRD]).unwrap();
        assert_eq!(state(&connection).0, 3, "a corrected migration continues from version 2");
    }
}
