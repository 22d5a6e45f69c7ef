//! [`ColumnArrays`]: rows as one array per column; a statement turns them back into rows with `unnest`.

use std::error::Error;

use bytes::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

/// A value of a column.
#[derive(Clone, Debug)]
pub enum ColumnValue<'a> {
    Integer(Option<i64>),
    Text(Option<&'a str>),
    /// An owned text, made for this row.
    Made(Option<String>),
    Bytes(Option<&'a [u8]>),
}

macro_rules! integers {
    ($($kind:ty),*) => { $(impl From<$kind> for ColumnValue<'_> {
        fn from(number: $kind) -> Self {
            ColumnValue::Integer(Some(number.into()))
        }
    })* };
}
integers!(i64, i32, u32, bool);

impl From<usize> for ColumnValue<'_> {
    fn from(number: usize) -> Self {
        ColumnValue::Integer(Some(i64::try_from(number).unwrap_or(i64::MAX)))
    }
}

impl From<Option<i64>> for ColumnValue<'_> {
    fn from(number: Option<i64>) -> Self {
        ColumnValue::Integer(number)
    }
}

impl<'a> From<&'a str> for ColumnValue<'a> {
    fn from(text: &'a str) -> Self {
        ColumnValue::Text(Some(text))
    }
}

impl<'a> From<Option<&'a str>> for ColumnValue<'a> {
    fn from(text: Option<&'a str>) -> Self {
        ColumnValue::Text(text)
    }
}

impl From<String> for ColumnValue<'_> {
    fn from(text: String) -> Self {
        ColumnValue::Made(Some(text))
    }
}

impl From<Option<String>> for ColumnValue<'_> {
    fn from(text: Option<String>) -> Self {
        ColumnValue::Made(text)
    }
}

impl<'a> From<&'a [u8]> for ColumnValue<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        ColumnValue::Bytes(Some(bytes))
    }
}

impl ToSql for ColumnValue<'_> {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            ColumnValue::Integer(number) => number.to_sql(kind, out),
            ColumnValue::Text(text) => text.to_sql(kind, out),
            ColumnValue::Made(text) => text.to_sql(kind, out),
            ColumnValue::Bytes(bytes) => bytes.to_sql(kind, out),
        }
    }

    fn accepts(kind: &Type) -> bool {
        [Type::INT8, Type::TEXT, Type::BYTEA].contains(kind)
    }

    to_sql_checked!();
}

/// Rows, stored by column.
#[derive(Debug, Default)]
pub struct ColumnArrays<'a> {
    columns: Vec<Vec<ColumnValue<'a>>>,
}

/// Adds a row: its values in the order of the columns.
macro_rules! add_row {
    ($arrays:expr; $($value:expr),* $(,)?) => { $arrays.add([$($value.into()),*]) };
}
pub(super) use add_row;

impl<'a> ColumnArrays<'a> {
    /// Adds a row.
    pub fn add<const N: usize>(&mut self, row: [ColumnValue<'a>; N]) {
        self.columns.resize_with(N, Vec::new);
        self.columns.iter_mut().zip(row).for_each(|(column, value)| column.push(value));
    }

    /// True if it has no rows.
    pub fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    /// The arrays, as a statement's parameters.
    pub fn parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.columns.iter().map(|column| column as &(dyn ToSql + Sync)).collect()
    }
}
