//! Renders events.

use crate::{domain::event::Event, proto};

use super::{
    enums::{event_type, state},
    time,
};

pub fn event(event: &Event) -> proto::SagaEvent {
    proto::SagaEvent {
        revision: event.revision.0,
        task_id: event.task_id.to_string(),
        saga_id: event.saga_id.to_string(),
        queue: event.queue.to_string(),
        time: Some(time(event.time)),
        r#type: event_type(event.kind).into(),
        actor: event.actor.as_ref().map(ToString::to_string).unwrap_or_default(),
        reason: event.reason.to_string(),
        from_state: event.from_state.map_or(proto::SagaState::Unspecified, state).into(),
        to_state: state(event.to_state).into(),
        fencing_token: event.token.map_or(0, |token| token.0),
        details: (*event.details).clone(),
    }
}
