//! Checks that the database keeps what it acknowledges, before anything is written and after each new connection.

use super::{
    connect_options::ConnectOptions, connection::PostgresConnection, error::PostgresError, open_error::OpenError,
    values::integer,
};

const SETTINGS: &str = "SELECT current_setting('fsync'), current_setting('full_page_writes'), \
    current_setting('synchronous_commit'), current_setting('synchronous_standby_names'), \
    current_setting('server_encoding'), (pg_is_in_recovery())::int, current_setting('transaction_read_only'), \
    (SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'async')";
/// Sent if the settings of the role or the database turn it off.
const COMMIT_DURABLY: &str = "SET synchronous_commit = on";

/// Checks the database's settings, and sets the session up to commit durably.
///
/// # Errors
/// The database could lose what it acknowledges. Or it only reads at the moment, which can pass.
pub fn check_durability(connection: &PostgresConnection, options: &ConnectOptions) -> Result<(), OpenError> {
    let failed = |error: PostgresError| options.error(error);
    let found = connection.run(async |client| {
        let row = client.query_one(SETTINGS, &[]).await?;
        let text = |index| row.try_get::<_, String>(index);
        Ok(Settings {
            fsync: text(0)?,
            full_page_writes: text(1)?,
            synchronous_commit: text(2)?,
            synchronous_standby_names: text(3)?,
            server_encoding: text(4)?,
            only_reads: integer::<i64>(&row, 5)? == 1 || text(6)? == "on",
            asynchronous_standbys: integer(&row, 7)?,
        })
    });
    let found = found.map_err(failed)?;
    for (name, value) in [("fsync", &found.fsync), ("full_page_writes", &found.full_page_writes)] {
        if value != "on" {
            return Err(OpenError::Unsafe(format!("{name} is {value}, and has to be on")));
        }
    }
    if found.server_encoding != "UTF8" {
        let what = format!("its encoding is {}; create one with ENCODING 'UTF8'", found.server_encoding);
        return Err(OpenError::Unusable(what));
    }
    if found.only_reads {
        return Err(options.unreachable("it only reads: it is a standby, or default_transaction_read_only is on"));
    }
    if ["off", "local"].contains(&found.synchronous_commit.as_str()) {
        connection.run(async |client| Ok(client.batch_execute(COMMIT_DURABLY).await?)).map_err(failed)?;
    }
    if found.synchronous_standby_names.is_empty() {
        let standbys = match found.asynchronous_standbys {
            0 => "it has no standby",
            _ => "its standbys are asynchronous",
        };
        tracing::warn!(
            "the database has no synchronous standby ({standbys}): if its machine is lost, so are the changes that were \
             acknowledged last; see synchronous_standby_names"
        );
    }
    Ok(())
}

struct Settings {
    fsync: String,
    full_page_writes: String,
    synchronous_commit: String,
    synchronous_standby_names: String,
    server_encoding: String,
    only_reads: bool,
    asynchronous_standbys: i64,
}
