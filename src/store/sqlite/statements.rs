//! A connection with the statements that were prepared on it: each is prepared once and held until the connection closes. (A
//! cache of statements, as `rusqlite` has it, looks each up by its whole text and clears its parameters after each use.)

use std::cell::RefCell;

use rusqlite::{Connection, Params, Statement};

/// Those prepared so far, found by where their texts lie. The few that are used all the time come first, since they are needed
/// first: looking through them costs less than hashing.
type Held<'c> = RefCell<Vec<(*const u8, Statement<'c>)>>;

self_cell::self_cell!(
    /// Belongs to the thread that made it.
    struct Cell {
        owner: Connection,
        #[not_covariant]
        dependent: Held,
    }
);

/// A connection and its held statements. It can't be sent to another thread.
pub(super) struct Statements(Cell);

impl Statements {
    pub(super) fn of(connection: Connection) -> Self {
        Statements(Cell::new(connection, |_| RefCell::default()))
    }

    pub(super) fn connection(&self) -> &Connection {
        self.0.borrow_owner()
    }

    /// Executes a statement that returns no rows; how many it changed.
    pub(super) fn execute(&self, sql: &'static str, params: impl Params) -> Result<usize, rusqlite::Error> {
        self.0.with_dependent(|connection, held| {
            let mut held = held.borrow_mut();
            let place = match held.iter().position(|(text, _)| *text == sql.as_ptr()) {
                Some(place) => place,
                None => {
                    held.push((sql.as_ptr(), connection.prepare(sql)?));
                    held.len() - 1
                }
            };
            held[place].1.execute(params)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_prepared_once_and_starts_afresh_each_time() {
        let statements = Statements::of(Connection::open_in_memory().unwrap());
        statements.execute("CREATE TABLE t (x UNIQUE)", []).unwrap();
        let insert = "INSERT INTO t VALUES (?1)";
        for value in [Some(1), None, None] {
            assert_eq!(statements.execute(insert, [value]), Ok(1));
        }
        // One that failed is as good as before, and what it did is undone.
        assert!(statements.execute(insert, [1]).is_err());
        assert_eq!(statements.execute(insert, [2]), Ok(1));
        let found: (i64, i64) = statements
            .connection()
            .query_row("SELECT count(*), count(x) FROM t", [], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        assert_eq!(found, (4, 2));
        assert_eq!(statements.0.with_dependent(|_, held| held.borrow().len()), 2);
    }
}
