//! A saga with its history as one line of JSON, which retention writes before it purges the saga.

use crate::{
    domain::{event::Event, saga::Saga},
    proto::json,
    store::Moment,
};

use super::render;

/// Ends a line that [`begin`] began; the line break is not included.
pub const END: &str = "]}";

/// Begins a line: `{"saga":…,"events":[`. [`event`]s follow, separated by commas, then [`END`]. Each part is proto3 JSON,
/// as `sagad get -o json` and `sagad history -o json` print it.
///
/// # Errors
/// A message has no descriptor: a bug of the build.
pub fn begin(saga: &Saga, moment: &Moment) -> Result<String, String> {
    Ok(format!("{{\"saga\":{},\"events\":[", json::render(&render::saga::saga(saga, moment))?))
}

/// One event of the line.
///
/// # Errors
/// Like [`begin`].
pub fn event(event: &Event) -> Result<String, String> {
    json::render(&render::event::event(event))
}
