//! The columns in which a SQL database stores sagas and events: the numbers of enum values, fields that few sagas have,
//! and how rows are decoded. The backends share them, so their tables have the same columns.

pub mod codes;
pub mod decode;
pub mod rare_fields;

pub use decode::{DamagedValue, Quantity, ResultRow, StoredInteger};
