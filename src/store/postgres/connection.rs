//! [`PostgresConnection`]: a connection to the database, driven by the thread that uses it.

use std::{cell::Cell, time::Duration};

use tokio::{runtime::Runtime, time::timeout};
use tokio_postgres::{Client, error::SqlState};

use super::{connect_options::ConnectOptions, error::PostgresError, open_error::OpenError};

/// How long the thread waits for an answer; after that, the connection counts as lost. A commit that waits for a slow
/// disk or a standby takes less.
const ANSWER_WAIT: Duration = Duration::from_secs(8);
/// The same at the start, when all sagas in flight are read.
const START_WAIT: Duration = Duration::from_secs(120);
/// The oldest server that is supported, as `server_version_num`.
const OLDEST_SERVER: u32 = 140_000;

/// The settings of each session. The statements have arrays as parameters, for which generic plans are right. All of
/// them can use an index, so scans of whole tables and hash and merge joins are off.
const SESSION: &str = "SET search_path = sagad, pg_catalog; SET enable_seqscan = off; SET enable_hashjoin = off; \
    SET enable_mergejoin = off; SET jit = off; SET plan_cache_mode = force_generic_plan; SET lock_timeout = '5s'; \
    SET statement_timeout = '30s'; SET idle_in_transaction_session_timeout = '10s'; SET client_min_messages = warning; \
    SET default_transaction_isolation = 'read committed'; SET DateStyle = ISO; SET tcp_user_timeout = 5000; \
    SET tcp_keepalives_idle = 4; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3";

/// A connection, and the runtime that it runs on.
pub struct PostgresConnection {
    client: Client,
    /// None only while it is dropped.
    runtime: Option<Runtime>,
    /// True after an answer did not come in time. That answer would be taken for the next statement's, so the
    /// connection must not be used again.
    is_stuck: Cell<bool>,
}

impl Drop for PostgresConnection {
    fn drop(&mut self) {
        // Dropping a runtime waits for its tasks, which must not happen inside another runtime. No task here is worth
        // waiting for.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl PostgresConnection {
    /// Connects, and sets the session up. Blocks.
    pub fn connect(options: &ConnectOptions) -> Result<Self, OpenError> {
        let unusable = |error: std::io::Error| OpenError::Unusable(error.to_string());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unusable)?;
        let client = runtime.block_on(async {
            let connected = timeout(ANSWER_WAIT, options.connect()).await;
            let client = connected.map_err(|_| options.unreachable("it does not answer"))?;
            client.map_err(|error| refused(options, error))
        })?;
        let connection = PostgresConnection { client, runtime: Some(runtime), is_stuck: Cell::new(false) };
        let failed = |error| options.error(error);
        let version = connection.run(async |client| {
            let row = client.query_one("SELECT current_setting('server_version_num')", &[]).await?;
            Ok(row.try_get::<_, &str>(0)?.to_owned())
        });
        let version = version.map_err(failed)?;
        if version.parse::<u32>().is_ok_and(|number| number < OLDEST_SERVER) {
            return Err(OpenError::TooOld { version });
        }
        connection.run(async |client| Ok(client.batch_execute(SESSION).await?)).map_err(failed)?;
        Ok(connection)
    }

    /// Runs something on the connection, and waits at most `ANSWER_WAIT` for it.
    pub fn run<T>(&self, work: impl AsyncFnOnce(&Client) -> Result<T, PostgresError>) -> Result<T, PostgresError> {
        self.run_within(ANSWER_WAIT, work)
    }

    /// The same for reading all sagas in flight, with `START_WAIT`.
    pub fn run_long<T>(&self, work: impl AsyncFnOnce(&Client) -> Result<T, PostgresError>) -> Result<T, PostgresError> {
        self.run_within(START_WAIT, work)
    }

    fn run_within<T>(
        &self,
        wait: Duration,
        work: impl AsyncFnOnce(&Client) -> Result<T, PostgresError>,
    ) -> Result<T, PostgresError> {
        let runtime = self.runtime.as_ref().expect("there until it is dropped");
        let done = runtime.block_on(async { timeout(wait, work(&self.client)).await });
        done.unwrap_or_else(|_| {
            self.is_stuck.set(true);
            Err(PostgresError::Away("the database does not answer".into()))
        })
    }

    /// True if it must not be used any more.
    pub fn is_closed(&self) -> bool {
        self.is_stuck.get() || self.client.is_closed()
    }
}

/// Converts an error of connecting; the result says whether it is worth trying again.
fn refused(options: &ConnectOptions, error: tokio_postgres::Error) -> OpenError {
    match error.code() {
        Some(code) if [SqlState::INVALID_PASSWORD, SqlState::INVALID_AUTHORIZATION_SPECIFICATION].contains(code) => {
            OpenError::NotAllowed(error.as_db_error().map_or_else(|| error.to_string(), |e| e.message().to_owned()))
        }
        Some(code) if *code == SqlState::INVALID_CATALOG_NAME => {
            OpenError::NoDatabase(error.as_db_error().map_or_else(|| error.to_string(), |e| e.message().to_owned()))
        }
        _ => match PostgresError::from(error) {
            PostgresError::Away(what) => options.unreachable(&what),
            other => options.error(other),
        },
    }
}
