//! [`Statements`]: a connection with its prepared statements. Each is prepared once and kept until the connection
//! closes. (`rusqlite`'s cache looks statements up by their text and clears their parameters after each use.)
//! Parameters stay bound, so only those that differ from the last use are bound again: half of what a change writes
//! doesn't differ.

use std::cell::RefCell;

use rusqlite::{Connection, Statement, types::Null};

/// The value of a parameter.
#[derive(Clone, Copy)]
pub(super) enum Param<'a> {
    Null,
    Integer(i64),
    Text(&'a str),
    Blob(&'a [u8]),
}

/// Parameters, in order.
macro_rules! params {
    ($($value:expr),* $(,)?) => { &[$($crate::store::sqlite::statements::Param::from($value)),*] };
}
pub(super) use params;

macro_rules! integers {
    ($($kind:ty),*) => { $(impl From<$kind> for Param<'_> {
        fn from(number: $kind) -> Self {
            Param::Integer(number.into())
        }
    })* };
}
integers!(i64, i32, u32, bool);

impl From<usize> for Param<'_> {
    fn from(number: usize) -> Self {
        Param::Integer(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl<'a> From<&'a str> for Param<'a> {
    fn from(text: &'a str) -> Self {
        Param::Text(text)
    }
}

impl<'a> From<&'a [u8]> for Param<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Param::Blob(bytes)
    }
}

impl<'a, T: Into<Param<'a>>> From<Option<T>> for Param<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Param::Null, T::into)
    }
}

/// What a parameter is currently bound to.
#[derive(Clone, Copy, PartialEq)]
enum BoundValue {
    Null,
    Integer(i64),
    /// A value whose comparison would cost as much as binding it.
    Other,
}

/// A prepared statement.
struct PreparedStatement<'c> {
    /// The address of its text, which identifies it.
    text: *const u8,
    statement: Statement<'c>,
    bound: Vec<BoundValue>,
}

impl PreparedStatement<'_> {
    fn execute(&mut self, params: &[Param<'_>]) -> Result<usize, rusqlite::Error> {
        debug_assert_eq!(params.len(), self.bound.len(), "as many as the statement has");
        for (place, (param, bound)) in params.iter().zip(&mut self.bound).enumerate() {
            let wanted = match param {
                Param::Null => BoundValue::Null,
                Param::Integer(number) => BoundValue::Integer(*number),
                Param::Text(_) | Param::Blob(_) => BoundValue::Other,
            };
            if wanted == *bound && wanted != BoundValue::Other {
                continue;
            }
            // In case binding fails.
            *bound = BoundValue::Other;
            match param {
                Param::Null => self.statement.raw_bind_parameter(place + 1, Null),
                Param::Integer(number) => self.statement.raw_bind_parameter(place + 1, number),
                Param::Text(text) => self.statement.raw_bind_parameter(place + 1, text),
                Param::Blob(bytes) => self.statement.raw_bind_parameter(place + 1, bytes),
            }?;
            *bound = wanted;
        }
        self.statement.raw_execute()
    }
}

/// The statements prepared so far. The most used ones are needed first, so they come first: a linear search costs less
/// than hashing.
type StatementList<'c> = RefCell<Vec<PreparedStatement<'c>>>;

self_cell::self_cell!(
    /// A connection and the statements that borrow it.
    struct StatementCell {
        owner: Connection,
        #[not_covariant]
        dependent: StatementList,
    }
);

/// A connection and its prepared statements. It can't be sent to another thread.
pub(super) struct Statements(StatementCell);

impl Statements {
    pub(super) fn of(connection: Connection) -> Self {
        Statements(StatementCell::new(connection, |_| RefCell::default()))
    }

    pub(super) fn connection(&self) -> &Connection {
        self.0.borrow_owner()
    }

    /// Executes a statement that returns no rows; returns how many it changed.
    pub(super) fn execute(&self, sql: &'static str, params: &[Param<'_>]) -> Result<usize, rusqlite::Error> {
        self.0.with_dependent(|connection, all| {
            let mut all = all.borrow_mut();
            let place = match all.iter().position(|held| held.text == sql.as_ptr()) {
                Some(place) => place,
                None => {
                    let statement = connection.prepare(sql)?;
                    let bound = vec![BoundValue::Null; statement.parameter_count()];
                    all.push(PreparedStatement { text: sql.as_ptr(), statement, bound });
                    all.len() - 1
                }
            };
            all[place].execute(params)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_prepared_once_and_reset_after_each_use() {
        let statements = Statements::of(Connection::open_in_memory().unwrap());
        statements.execute("CREATE TABLE t (x UNIQUE)", &[]).unwrap();
        let insert = "INSERT INTO t VALUES (?1)";
        for value in [Some(1), None, None] {
            assert_eq!(statements.execute(insert, params![value]), Ok(1));
        }
        // A failed statement can be used again, and has changed nothing.
        assert!(statements.execute(insert, params![1]).is_err());
        assert_eq!(statements.execute(insert, params![2]), Ok(1));
        let found: (i64, i64) = statements
            .connection()
            .query_row("SELECT count(*), count(x) FROM t", [], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        assert_eq!(found, (4, 2));
        assert_eq!(statements.0.with_dependent(|_, held| held.borrow().len()), 2);
    }

    #[test]
    fn each_execution_uses_its_own_parameters() {
        let statements = Statements::of(Connection::open_in_memory().unwrap());
        statements.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, x, y)", &[]).unwrap();
        let insert = "INSERT INTO t VALUES (?1, ?2, ?3)";
        let values = [
            (Param::Integer(7), Param::Null),
            (Param::Integer(7), Param::Integer(7)),
            (Param::Text("a"), Param::Integer(7)),
            (Param::Integer(7), Param::Blob(b"b")),
            (Param::Null, Param::Text("")),
            (Param::Null, Param::Null),
            (Param::Text("c"), Param::Null),
            (Param::Text("d"), Param::Integer(0)),
        ];
        for (n, (x, y)) in values.into_iter().enumerate() {
            assert!(n != 4 || statements.execute(insert, &[Param::Integer(1), x, y]).is_err(), "row 1 exists already");
            assert_eq!(statements.execute(insert, &[Param::from(n), x, y]), Ok(1));
        }
        let all = "SELECT group_concat(quote(x) || quote(y), ' ' ORDER BY n) FROM t";
        let found: String = statements.connection().query_row(all, [], |row| row.get(0)).unwrap();
        assert_eq!(found, "7NULL 77 'a'7 7X'62' NULL'' NULLNULL 'c'NULL 'd'0");
    }
}
