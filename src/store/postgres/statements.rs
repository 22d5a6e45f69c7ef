//! [`WriterStatements`]: the statements of the writing connection, prepared once for each connection.

use futures::future::try_join_all;
use tokio_postgres::Statement;

use super::{connection::PostgresConnection, error::PostgresError, sql};

macro_rules! statements {
    ($($(#[$about:meta])* $name:ident = $sql:ident),* $(,)?) => {
        /// Each statement is named after what it reads or writes; see `sql.rs`.
        pub(super) struct WriterStatements {
            $($(#[$about])* pub(super) $name: Statement,)*
        }

        impl WriterStatements {
            /// Prepares all statements, without waiting for one after the other.
            pub(super) fn prepare(connection: &PostgresConnection) -> Result<Self, PostgresError> {
                connection.run(async |client| {
                    let all = try_join_all([$(sql::$sql),*].map(|sql| client.prepare(sql))).await?;
                    let mut all = all.into_iter();
                    let mut next = || all.next().expect("one for each text");
                    Ok(WriterStatements { $($name: next(),)* })
                })
            }
        }
    };
}

statements! {
    sagas = SAGAS,
    compensations = COMPENSATIONS,
    brief = BRIEF,
    compensations_of_rows = COMPENSATIONS_OF_ROWS,
    payload = PAYLOAD,
    answers = ANSWERS,
    claimed = CLAIMED,
    newest_events = NEWEST_EVENTS,
    ready = READY,
    purgeable = PURGEABLE,
    count_removal = COUNT_REMOVAL,
    is_writer = IS_WRITER,
    stay_alive = STAY_ALIVE,
    fence = FENCE,
    remove = REMOVE,
    remove_events = REMOVE_EVENTS,
    remove_compensations = REMOVE_COMPENSATIONS,
    remove_contents = REMOVE_CONTENTS,
    remove_sagas = REMOVE_SAGAS,
    add_queues = ADD_QUEUES,
    add_sagas = ADD_SAGAS,
    add_work = ADD_WORK,
    change_work = CHANGE_WORK,
    end_work = END_WORK,
    unend = UNEND,
    add_ended = ADD_ENDED,
    put_contents = PUT_CONTENTS,
    put_compensations = PUT_COMPENSATIONS,
    add_counts = ADD_COUNTS,
    add_events = ADD_EVENTS,
    keep_answers = KEEP_ANSWERS,
    set_paused = SET_PAUSED,
    forget_answers = FORGET_ANSWERS,
}
