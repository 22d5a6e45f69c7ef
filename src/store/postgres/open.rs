//! Opens a store: connects, brings the schema up to date, waits until no other coordinator writes, and takes over.

use std::{sync::Arc, thread, time::Duration};

use crate::{clock::Clock, coordinator::InitialState, domain::time::Span, metrics::LogMetrics};

use super::{
    super::{
        Store, StoreOptions,
        writer::{self, OpenedBackend, WriterThread},
    },
    connect_options::ConnectOptions,
    connection::PostgresConnection,
    durability::check_durability,
    election::{CoordinatorName, wait_for_epoch},
    initial_state::read_initial_state,
    migrate::migrate,
    open_error::OpenError,
    reader::PostgresReader,
    writer::PostgresWriter,
};

/// How often sagad tries again to reach the database.
const TRY_EVERY: Duration = Duration::from_millis(500);
/// How often the log says that the database can't be reached.
const TELL_EVERY: Span = Span::from_secs(10);

/// The parts of a store that this coordinator has opened as its writer. Nothing runs yet.
pub struct OpenedPostgres {
    /// Writes the store.
    pub writer: PostgresWriter,
    /// The state with which the coordinator begins.
    pub initial_state: InitialState,
    /// Reads the store.
    pub reader: PostgresReader,
}

/// Waits until this coordinator may write, and starts its writer. It blocks, and also waits for a database that can't
/// be reached, which may be starting. `waiting` is called with the coordinator that writes meanwhile.
pub fn open(
    connect: &ConnectOptions,
    me: &CoordinatorName,
    options: &StoreOptions,
    clock: Arc<dyn Clock>,
    waiting: impl FnMut(&CoordinatorName),
) -> Result<(Store, WriterThread), OpenError> {
    let mut waiting = waiting;
    let mut told_at = None;
    let opened = loop {
        match open_parts(connect, me, options.readers, &clock, &mut waiting) {
            Err(error) if error.may_pass() => {
                let now = clock.now();
                if told_at.is_none_or(|told: crate::domain::time::Timestamp| now.since(told) >= TELL_EVERY) {
                    tracing::warn!("{error}; trying again");
                    told_at = Some(now);
                }
                thread::sleep(TRY_EVERY);
            }
            opened => break opened?,
        }
    };
    let OpenedPostgres { writer, initial_state, reader } = opened;
    let description = format!("postgres at {connect}");
    let opened = OpenedBackend {
        make: || Ok(writer),
        opening: initial_state,
        reader: Arc::new(reader),
        log: Arc::new(LogMetrics::default()),
        description,
        guard: (),
    };
    writer::start(options, clock, opened).map_err(|error| OpenError::Unusable(error.to_string()))
}

/// The parts of an opened store, for [`open`] and for tests that drive a coordinator themselves.
pub fn open_parts(
    connect: &ConnectOptions,
    me: &CoordinatorName,
    readers: usize,
    clock: &Arc<dyn Clock>,
    waiting: impl FnMut(&CoordinatorName),
) -> Result<OpenedPostgres, OpenError> {
    let failed = |error| connect.error(error);
    let connection = PostgresConnection::connect(connect)?;
    check_durability(&connection, connect)?;
    migrate(&connection, connect)?;
    let epoch = wait_for_epoch(&connection, me, waiting).map_err(failed)?;
    let (initial_state, queues) = read_initial_state(&connection).map_err(failed)?;
    let writer = PostgresWriter::new(connect.clone(), connection, epoch, queues, Arc::clone(clock)).map_err(failed)?;
    let reader = PostgresReader::new(connect.clone(), readers).map_err(|e| OpenError::Unusable(e.to_string()))?;
    tracing::info!(epoch = epoch.epoch, "this coordinator writes");
    Ok(OpenedPostgres { writer, initial_state, reader })
}
