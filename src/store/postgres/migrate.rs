//! Creates the schema, or migrates an older one, in one transaction. One coordinator does so at a time.

use super::{
    connect_options::ConnectOptions,
    connection::PostgresConnection,
    error::PostgresError,
    open_error::{OpenError, SCHEMA_VERSION},
    values::integer,
};

/// The migrations from each version to the next. The first one creates the schema.
const MIGRATIONS: &[&str] = &[include_str!("migrations/0001_begin.sql")];

/// A coordinator that migrates holds this lock until its transaction ends. The number is "sagad" and a digit, in ASCII.
const LOCK: &str = "SELECT pg_advisory_xact_lock(126879415100465)";
/// Whether the schema's first table is there, and whether the schema has any other.
const FOUND: &str = "SELECT (to_regclass('sagad.writer') IS NOT NULL)::int, \
    (EXISTS (SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'sagad'))::int";
const VERSION: &str = "SELECT schema_version::bigint FROM sagad.writer";
const FIRST_ROW: &str = "INSERT INTO sagad.writer (schema_version, epoch, turn, alive_time, next_revision, next_row, compacted, \
    last_time, system_identifier, timeline) SELECT 0, 0, 0, '-infinity', 1, 1, 0, 0, s.system_identifier, c.timeline_id \
    FROM pg_control_system() s, pg_control_checkpoint() c";
const SET_VERSION: &str = "UPDATE sagad.writer SET schema_version = $1::bigint";

/// Creates or migrates the schema.
///
/// # Errors
/// The schema is another program's, or was made by a later version: nothing was changed.
pub fn migrate(connection: &PostgresConnection, options: &ConnectOptions) -> Result<(), OpenError> {
    let failed = |error: PostgresError| options.error(error);
    match version(connection).map_err(failed)? {
        Found::Foreign => return Err(OpenError::Foreign),
        Found::Version(found) if found > SCHEMA_VERSION => return Err(OpenError::Newer { found }),
        Found::Version(SCHEMA_VERSION) => return Ok(()),
        Found::Version(_) => {}
    }
    bring_up_to_date(connection).map_err(failed)
}

fn bring_up_to_date(connection: &PostgresConnection) -> Result<(), PostgresError> {
    connection.run(async |client| {
        client.batch_execute("BEGIN").await?;
        Ok(client.batch_execute(LOCK).await?)
    })?;
    // Another coordinator may have done it meanwhile.
    if let Found::Version(begun) = version(connection)? {
        for (done, migration) in (0..).zip(MIGRATIONS).skip(usize::try_from(begun).unwrap_or(usize::MAX)) {
            connection.run(async |client| {
                client.batch_execute(migration).await?;
                if done == 0 {
                    client.batch_execute(FIRST_ROW).await?;
                }
                client.execute(SET_VERSION, &[&(done + 1_i64)]).await?;
                Ok(())
            })?;
        }
    }
    connection.run(async |client| Ok(client.batch_execute("COMMIT").await?))
}

enum Found {
    /// The version of the schema; 0 if there is none yet.
    Version(i64),
    /// The schema of another program.
    Foreign,
}

fn version(connection: &PostgresConnection) -> Result<Found, PostgresError> {
    let (has_writer, has_tables) = connection.run(async |client| {
        let row = client.query_one(FOUND, &[]).await?;
        Ok((integer::<i64>(&row, 0)? == 1, integer::<i64>(&row, 1)? == 1))
    })?;
    match (has_writer, has_tables) {
        (false, false) => Ok(Found::Version(0)),
        (false, true) => Ok(Found::Foreign),
        (true, _) => {
            let read = connection.run(async |client| {
                let row = client.query_opt(VERSION, &[]).await?;
                row.map(|row| integer(&row, 0)).transpose()
            });
            match read {
                Ok(Some(version)) => Ok(Found::Version(version)),
                // The table has no such column, or no row.
                Ok(None) | Err(PostgresError::Refused(_)) => Ok(Found::Foreign),
                Err(other) => Err(other),
            }
        }
    }
}
