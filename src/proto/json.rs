//! Converts the contract's messages to and from proto3 JSON, using their descriptors.

use std::{collections::HashMap, fmt, sync::OnceLock};

use prost::Message;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, SerializeOptions,
};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::{domain::characters, proto};

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
    RevokePrincipalResponse,
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

/// The message as one line of JSON: camelCase names, 64-bit numbers as strings, defaults omitted, and unprintable
/// characters escaped.
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
    let line = String::from_utf8(line).map_err(|error| failed(error.to_string()))?;
    Ok(characters::json(&line).into_owned())
}

/// Parses a message from one line of JSON, with names in camelCase or as in the contract. Unknown fields are refused,
/// and so is a field given twice, under either name.
///
/// # Errors
/// What is wrong with the line, and in which field.
pub fn parse<M: Named>(line: &str) -> Result<M, String> {
    let descriptor = descriptor::<M>()?;
    let mut deserializer = serde_json::Deserializer::from_str(line);
    let options = DeserializeOptions::new();
    let dynamic = DynamicMessage::deserialize_with_options(descriptor.clone(), &mut deserializer, &options);
    let dynamic = dynamic.map_err(|error| {
        match serde_json::from_str(line).ok().map(|value| find_invalid_field(&descriptor, &value)) {
            Some(Some((path, error))) if !path.is_empty() => format!("{path}: {error}"),
            Some(_) | None => error.to_string(),
        }
    })?;
    deserializer.end().map_err(|error| error.to_string())?;
    let mut deserializer = serde_json::Deserializer::from_str(line);
    DuplicateFieldCheck(Some(descriptor)).deserialize(&mut deserializer).map_err(|error| error.to_string())?;
    dynamic.transcode_to().map_err(|error| error.to_string())
}

/// The field that can't be parsed, and why. An unknown field is reported by the path to its message.
fn find_invalid_field(message: &MessageDescriptor, value: &Value) -> Option<(String, String)> {
    let Value::Object(fields) = value else { return None };
    fields.iter().find_map(|(key, value)| {
        let alone = Value::Object(Map::from_iter([(key.clone(), value.clone())]));
        let error =
            DynamicMessage::deserialize_with_options(message.clone(), alone, &DeserializeOptions::new()).err()?;
        let Some(field) = field(message, key) else { return Some((String::new(), error.to_string())) };
        let inside = |name: String, value: &Value| {
            let (path, error) = find_invalid_field(&message_type(&field)?, value)?;
            Some((if path.is_empty() { name } else { format!("{name}.{path}") }, error))
        };
        let inside = match value {
            Value::Array(values) => {
                values.iter().enumerate().find_map(|(index, value)| inside(format!("{key}[{index}]"), value))
            }
            value => inside(key.clone(), value),
        };
        Some(inside.unwrap_or_else(|| (key.clone(), error.to_string())))
    })
}

/// A message's field by either of its names.
fn field(message: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    message.get_field_by_json_name(name).or_else(|| message.get_field_by_name(name))
}

/// The message that a field holds, where its JSON form is an object with that message's fields.
fn message_type(field: &FieldDescriptor) -> Option<MessageDescriptor> {
    match field.kind() {
        Kind::Message(message) if !field.is_map() => Some(message),
        _ => None,
    }
}

/// Checks a value without keeping it: refuses an object with a duplicate key; in a message, both names of a field are
/// one key. JSON parsers differ in which of the two they take.
struct DuplicateFieldCheck(Option<MessageDescriptor>);

impl<'de> DeserializeSeed<'de> for DuplicateFieldCheck {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for DuplicateFieldCheck {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        while values.next_element_seed(DuplicateFieldCheck(self.0.clone()))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let mut seen: HashMap<String, String> = HashMap::new();
        while let Some(key) = entries.next_key::<String>()? {
            let field = self.0.as_ref().and_then(|message| field(message, &key));
            let name = field.as_ref().map_or_else(|| key.clone(), |field| field.json_name().to_owned());
            if let Some(first) = seen.insert(name, key.clone()) {
                return Err(A::Error::custom(if first == key {
                    format!("`{key}` is given twice")
                } else {
                    format!("`{key}` and `{first}` are the same field, given twice")
                }));
            }
            entries.next_value_seed(DuplicateFieldCheck(field.as_ref().and_then(message_type)))?;
        }
        Ok(())
    }
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
    fn control_characters_are_escaped_and_the_value_is_unchanged() {
        for c in characters::all_unprintable() {
            let request = proto::CreateSagaRequest {
                branch: format!("a{c}b"),
                labels: [(format!("k{c}"), format!("{c}"))].into(),
                ..Default::default()
            };
            let line = render(&request).expect("has a form");
            assert!(!line.contains(characters::is_unprintable), "{line}");
            assert_eq!(parse::<proto::CreateSagaRequest>(&line), Ok(request));
        }
    }

    #[test]
    fn a_duplicate_field_is_refused() {
        for (line, told) in [
            (r#"{"taskId":"a","taskId":"b"}"#, "`taskId` is given twice"),
            (r#"{"taskId":"a","queue":"q","task_id":"b"}"#, "`task_id` and `taskId` are the same field"),
            (r#"{"labels":{"a":"1","a":"2"}}"#, "`a` is given twice"),
            (
                r#"{"policy":{"onStale":"STALE_ACTION_HOLD","on_stale":"STALE_ACTION_HOLD"}}"#,
                "`on_stale` and `onStale`",
            ),
            (r#"{"compensations":[{"kind":"a"},{"kind":"b","kind":"c"}]}"#, "`kind` is given twice"),
        ] {
            let error = parse::<proto::CreateSagaRequest>(line).unwrap_err();
            assert!(error.contains(told), "{line}: {error}");
        }
        let twice = r#"{"labels":{"taskId":"1","task_id":"2"},"compensations":[{"kind":"a"},{"kind":"a"}]}"#;
        assert!(parse::<proto::CreateSagaRequest>(twice).is_ok(), "different keys of a map, and of two messages");
    }

    #[test]
    fn an_error_names_its_field() {
        for (line, field) in [
            (r#"{"taskId":"a","payload":"%"}"#, "payload: "),
            (r#"{"issue":"seven"}"#, "issue: "),
            (r#"{"labels":{"a":1}}"#, "labels: "),
            (r#"{"policy":{"settle":"soon"}}"#, "policy.settle: "),
            (r#"{"compensations":[{"kind":"a"},{"target":7}]}"#, "compensations[1].target: "),
            (r#"{"compensations":[{"knid":"a"}]}"#, "compensations[0]: "),
        ] {
            let error = parse::<proto::CreateSagaRequest>(line).unwrap_err();
            assert!(error.starts_with(field), "{line}: {error}");
        }
    }

    #[test]
    fn json_of_another_form_is_refused() {
        for wrong in [r#"{"tsk":1}"#, "[]", "", "{} {}", r#"{"payload":"%"}"#] {
            assert!(parse::<proto::CreateSagaRequest>(wrong).is_err(), "{wrong}");
        }
    }
}
