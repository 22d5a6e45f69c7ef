//! A saga with its history as a line of JSON: what retention writes down before it purges.

use crate::{
    domain::{event::Event, saga::Saga},
    proto::json,
    store::Moment,
};

use super::render;

/// The line, without its end: `{"saga":…,"events":[…]}`, each part in the proto3 JSON form that `sagad get -o json` and
/// `sagad history -o json` show it in.
///
/// # Errors
/// A message without descriptor: a mistake in the build.
pub fn line(saga: &Saga, events: &[Event], moment: &Moment) -> Result<String, String> {
    let mut line = format!("{{\"saga\":{},\"events\":[", json::render(&render::saga::saga(saga, moment))?);
    for (index, event) in events.iter().enumerate() {
        if index > 0 {
            line.push(',');
        }
        line.push_str(&json::render(&render::event::event(event))?);
    }
    line.push_str("]}");
    Ok(line)
}
