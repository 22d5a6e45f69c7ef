//! The proto3 JSON form of the contract's messages, both ways, by their descriptors.

use std::sync::OnceLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};

use crate::proto;

/// A message that has a JSON form here.
pub trait Named: Message + Default {
    /// Its full name in the contract.
    const NAME: &'static str;
}

macro_rules! named {
    ($($message:ident),* $(,)?) => {
        $(impl Named for proto::$message {
            const NAME: &'static str = concat!("sagad.v1.", stringify!($message));
        })*

        #[cfg(test)]
        const NAMES: &[&str] = &[$(<proto::$message as Named>::NAME),*];
    };
}

named!(
    AnnotateRequest,
    CreateSagaRequest,
    GetServerInfoResponse,
    GetStatsResponse,
    GetVitalsResponse,
    HeartbeatResponse,
    PauseQueueRequest,
    PurgeSagasResponse,
    QuarantineRequest,
    Queue,
    RecoverRequest,
    RequestCancelRequest,
    ResumeQueueRequest,
    Saga,
    SagaEvent,
    WaiveCompensationRequest,
    WatchEventsResponse,
    WatchStaleResponse,
);

fn descriptor<M: Named>() -> Result<MessageDescriptor, String> {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    let pool = POOL.get_or_init(|| DescriptorPool::decode(proto::DESCRIPTORS).unwrap_or_default());
    pool.get_message_by_name(M::NAME).ok_or_else(|| format!("{} has no descriptor", M::NAME))
}

/// The message in one line of JSON: camelCase names, 64-bit numbers as strings, defaults left out.
///
/// # Errors
/// A message without descriptor: a mistake in the build.
pub fn render<M: Named>(message: &M) -> Result<String, String> {
    let mut dynamic = DynamicMessage::new(descriptor::<M>()?);
    let failed = |error: String| format!("{} has no JSON form: {error}", M::NAME);
    dynamic.transcode_from(message).map_err(|error| failed(error.to_string()))?;
    let mut line = Vec::with_capacity(512);
    let mut serializer = serde_json::Serializer::new(&mut line);
    let options = SerializeOptions::new();
    dynamic.serialize_with_options(&mut serializer, &options).map_err(|error| failed(error.to_string()))?;
    String::from_utf8(line).map_err(|error| failed(error.to_string()))
}

/// A message from one line of JSON; names in camelCase or as in the contract, unknown ones refused.
///
/// # Errors
/// What is wrong with the line.
pub fn parse<M: Named>(line: &str) -> Result<M, String> {
    let descriptor = descriptor::<M>()?;
    let mut deserializer = serde_json::Deserializer::from_str(line);
    let options = DeserializeOptions::new();
    let dynamic = DynamicMessage::deserialize_with_options(descriptor, &mut deserializer, &options);
    let dynamic = dynamic.map_err(|error| error.to_string())?;
    deserializer.end().map_err(|error| error.to_string())?;
    dynamic.transcode_to().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_in_the_contract() {
        let pool = DescriptorPool::decode(proto::DESCRIPTORS).expect("the build made it");
        for name in NAMES {
            assert!(pool.get_message_by_name(name).is_some(), "{name}");
        }
    }

    #[test]
    fn messages_round_trip() {
        let line = r#"{"taskId":"t-1","issue":"7","payload":"AP8=","policy":{"onStale":"STALE_ACTION_REQUEUE"},"delay":"1.500s"}"#;
        let request: proto::CreateSagaRequest = parse(line).expect("valid");
        assert_eq!(request.payload, &b"\x00\xff"[..]);
        assert_eq!(request.issue, Some(7));
        assert_eq!(render(&request).expect("has a form"), line);
        let snake: proto::CreateSagaRequest = parse(r#"{"task_id":"t-1"}"#).expect("both names are taken");
        assert_eq!(snake.task_id, "t-1");
    }

    #[test]
    fn what_is_not_the_message_is_refused() {
        for wrong in [r#"{"tsk":1}"#, "[]", "", "{} {}", r#"{"payload":"%"}"#] {
            assert!(parse::<proto::CreateSagaRequest>(wrong).is_err(), "{wrong}");
        }
    }
}
