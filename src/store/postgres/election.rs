//! Elects the coordinator that writes.
//!
//! A coordinator must hold a session advisory lock to become the writer. The lock ends with its session, so the others
//! notice at once when the writer's process ends. The lock is only a hint. The epoch keeps a former writer from
//! writing: a coordinator that takes over raises it, and every turn begins with a statement that finds its row only
//! under the writer's own epoch. (This is fencing as in M. Kleppmann, "How to do distributed locking", 2016.) If a
//! writer holds the lock but has not updated `alive_time` for [`ALIVE_WITHIN_S`], it is frozen or cut off, and its
//! session is ended.

use std::{thread, time::Duration};

use super::{
    super::REVISION_JUMP, connection::PostgresConnection, error::PostgresError, open_error::SCHEMA_VERSION,
    values::integer,
};

/// How often a waiting coordinator checks whether the writer is gone.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A writer counts as gone if it has not updated `alive_time` for so many seconds, by the database's clock. It does so
/// at least every second.
pub const ALIVE_WITHIN_S: i64 = 6;

const TRY_LOCK: &str = "SELECT pg_try_advisory_lock(126879415100464)::int";
/// Ends the session that holds the lock, if the writer has not updated `alive_time` for too long.
const END_SILENT_WRITER: &str = "SELECT count(pg_terminate_backend(l.pid)) FROM pg_locks l, writer w \
    WHERE l.locktype = 'advisory' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
    AND (l.classid::bigint << 32) + l.objid::bigint = 126879415100464 AND l.granted AND l.pid <> pg_backend_pid() \
    AND w.alive_time < clock_timestamp() - make_interval(secs => $1::bigint)";
/// Takes over: from here on, the writer of the previous epoch can't write.
const RAISE_EPOCH: &str = "UPDATE writer SET epoch = epoch + 1, alive_time = clock_timestamp() \
    WHERE schema_version = $1::bigint RETURNING epoch, turn";
const RECORD_EPOCH: &str =
    "INSERT INTO epoch VALUES ($1::bigint, $2::bigint, clock_timestamp(), $3, $4, pg_backend_pid())";
/// Only the newest epochs are needed.
const FORGET_EPOCHS: &str = "DELETE FROM epoch WHERE epoch <= $1::bigint - 1000";
/// The current writer.
const WRITER_NOW: &str = "SELECT e.name, e.address FROM epoch e ORDER BY e.epoch DESC LIMIT 1";
/// After the database has failed over or was restored, the last acknowledged changes may be missing. So revisions jump
/// above all that can have been assigned.
const JUMP_ON_NEW_TIMELINE: &str = "UPDATE writer w SET next_revision = greatest(w.next_revision, w.compacted + 1, \
    coalesce((SELECT max(revision) FROM event), 0) + 1) + $1::bigint, system_identifier = s.system_identifier, \
    timeline = c.timeline_id FROM pg_control_system() s, pg_control_checkpoint() c \
    WHERE (w.system_identifier, w.timeline) <> (s.system_identifier, c.timeline_id::bigint) RETURNING w.next_revision";

/// The name and address that the other coordinators see.
#[derive(Clone, Debug)]
pub struct CoordinatorName {
    /// A name for people.
    pub name: String,
    /// The address where clients reach it.
    pub address: String,
}

/// The right to write, until another coordinator raises the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// Its number.
    pub epoch: i64,
    /// The number of turns that were committed before it.
    pub turn: i64,
}

/// Waits until no other coordinator writes, then takes over. `waiting` is called once with the current writer.
pub fn wait_for_epoch(
    connection: &PostgresConnection,
    me: &CoordinatorName,
    mut waiting: impl FnMut(&CoordinatorName),
) -> Result<Epoch, PostgresError> {
    let mut is_told = false;
    while !try_lock(connection)? {
        if !is_told && let Some(writer) = writer_now(connection)? {
            waiting(&writer);
            is_told = true;
        }
        let ended = connection.run(async |client| {
            let row = client.query_one(END_SILENT_WRITER, &[&ALIVE_WITHIN_S]).await?;
            integer::<i64>(&row, 0)
        })?;
        if ended > 0 {
            tracing::warn!("the writer has not shown itself for {ALIVE_WITHIN_S} s; its session was ended");
            continue;
        }
        thread::sleep(LOOK_EVERY);
    }
    take_over(connection, me)
}

/// Takes the lock if nobody has it.
pub fn try_lock(connection: &PostgresConnection) -> Result<bool, PostgresError> {
    connection.run(async |client| {
        let row = client.query_one(TRY_LOCK, &[]).await?;
        Ok(integer::<i64>(&row, 0)? == 1)
    })
}

fn writer_now(connection: &PostgresConnection) -> Result<Option<CoordinatorName>, PostgresError> {
    connection.run(async |client| {
        let row = client.query_opt(WRITER_NOW, &[]).await?;
        Ok(match row {
            Some(row) => Some(CoordinatorName { name: row.try_get(0)?, address: row.try_get(1)? }),
            None => None,
        })
    })
}

fn take_over(connection: &PostgresConnection, me: &CoordinatorName) -> Result<Epoch, PostgresError> {
    connection.run(async |client| {
        client.batch_execute("BEGIN").await?;
        let Some(row) = client.query_opt(RAISE_EPOCH, &[&SCHEMA_VERSION]).await? else {
            return Err(PostgresError::Refused("a newer sagad has changed the schema".into()));
        };
        let (epoch, turn): (i64, i64) = (integer(&row, 0)?, integer(&row, 1)?);
        let first_turn = turn + 1;
        client.execute(RECORD_EPOCH, &[&epoch, &first_turn, &me.name, &me.address]).await?;
        client.execute(FORGET_EPOCHS, &[&epoch]).await?;
        let jumped = client.query_opt(JUMP_ON_NEW_TIMELINE, &[&REVISION_JUMP]).await?;
        client.batch_execute("COMMIT").await?;
        if let Some(row) = jumped {
            let next: i64 = integer(&row, 0)?;
            tracing::warn!(next_revision = next, "the database failed over or was restored; revisions jump");
        }
        Ok(Epoch { epoch, turn })
    })
}
