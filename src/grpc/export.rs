//! A saga with its history as a line of JSON: what retention writes down before it purges.

use crate::{
    domain::{event::Event, saga::Saga},
    proto::json,
    store::ReadTime,
};

use super::render;

/// What ends a line that [`begin`] began, without the line's end.
pub const END: &str = "]}";

/// Begins a line: `{"saga":…,"events":[`. [`event`]s follow with commas between them, and [`END`]. Each part is in the proto3 JSON
/// form that `sagad get -o json` and `sagad history -o json` show it in.
///
/// # Errors
/// A message without descriptor: a mistake in the build.
pub fn begin(saga: &Saga, read_time: &ReadTime) -> Result<String, String> {
    Ok(format!("{{\"saga\":{},\"events\":[", json::render(&render::saga::saga(saga, read_time))?))
}

/// An event of the line.
///
/// # Errors
/// As of [`begin`].
pub fn event(event: &Event) -> Result<String, String> {
    json::render(&render::event::event(event))
}
