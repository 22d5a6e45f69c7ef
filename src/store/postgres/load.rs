//! Reads sagas and events from rows, for the writer and for the readers.

use tokio_postgres::Row;

use crate::{
    coordinator::RowId,
    domain::{compensation::Compensation, event::Event, saga::Saga},
};

use super::{
    super::columns::{DamagedValue, decode},
    error::PostgresError,
    values::integer,
};

/// The column of `sql::COMPENSATIONS` with the saga's row number.
const SAGA_OF_COMPENSATION: usize = 11;

/// A saga that was read, or what is wrong with its row.
pub(super) type ReadSaga = Result<(RowId, Saga), DamagedValue>;

/// The compensations of several sagas, in order of saga and position.
pub(super) struct Compensations<'a> {
    rows: &'a [Row],
    sagas: Vec<RowId>,
}

impl<'a> Compensations<'a> {
    /// The compensations in these rows.
    pub(super) fn of_rows(rows: &'a [Row]) -> Result<Self, PostgresError> {
        let sagas = rows.iter().map(|row| integer(row, SAGA_OF_COMPENSATION)).collect::<Result<_, _>>()?;
        Ok(Compensations { rows, sagas })
    }

    /// The compensations of one saga.
    pub(super) fn of(&self, id: RowId) -> Result<Vec<Compensation>, DamagedValue> {
        let first = self.sagas.partition_point(|saga| *saga < id);
        let own = self.sagas.iter().skip(first).take_while(|saga| **saga == id).count();
        self.rows.iter().skip(first).take(own).map(decode::compensation).collect()
    }
}

/// The sagas in `rows`, with their compensations in the other rows.
pub(super) fn sagas(rows: &[Row], compensations: &[Row]) -> Result<Vec<ReadSaga>, PostgresError> {
    let compensations = Compensations::of_rows(compensations)?;
    let read = |row: &Row| {
        let (id, mut saga, count) = decode::saga(row)?;
        if count > 0 {
            saga.compensations = compensations.of(id)?;
        }
        Ok((id, saga))
    };
    Ok(rows.iter().map(read).collect())
}

/// The events in these rows.
pub(super) fn events(rows: &[Row]) -> Result<Vec<Event>, PostgresError> {
    rows.iter().map(|row| Ok(decode::event(row)?)).collect()
}
