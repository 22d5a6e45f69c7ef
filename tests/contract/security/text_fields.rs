//! Which characters each text field of the contract accepts. The fields are found by the descriptors, so a new one is tested, too.

use std::collections::BTreeSet;

use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage, Value,
};
use sagad::proto::{CreateSagaRequest, ListSagasRequest};
use tonic::Code;
use tonic_types::StatusExt;

use super::raw_rpc;
use crate::support::{Daemon, create};

/// Fields with names and ids, in which invisible characters are refused.
const NAMES: &[&str] = &[
    "task_id",
    "saga_id",
    "retry_of",
    "queue",
    "queues",
    "owner_id",
    "assignee",
    "actor",
    "principal",
    "kind",
    "compensation_kinds",
    "request_id",
    "page_token",
    "principal",
];
/// Free text.
const TEXTS: &[&str] = &["branch", "worktree", "target", "reason", "note", "detail", "terminal_reason"];

/// A request with one text field set, and the field's path in an error.
struct RequestWithText {
    message: DynamicMessage,
    path: String,
    /// The field.
    field: String,
    /// True if the text is the key of a map.
    is_key: bool,
}

/// A request for each text field of the message and of the messages in it.
fn each_text(message: &MessageDescriptor, text: &str) -> Vec<RequestWithText> {
    message.fields().flat_map(|field| in_field(message, &field, text)).collect()
}

fn in_field(message: &MessageDescriptor, field: &FieldDescriptor, text: &str) -> Vec<RequestWithText> {
    let with = |value: Value, path: String, inner: Option<&RequestWithText>, is_key: bool| {
        let mut message = DynamicMessage::new(message.clone());
        message.set_field(field, value);
        let name = inner.map_or_else(|| field.name().to_owned(), |inner| inner.field.clone());
        RequestWithText { message, path, field: name, is_key: inner.map_or(is_key, |inner| inner.is_key) }
    };
    let name = field.name();
    if field.is_map() {
        let map = |key: &str, value: &str| {
            Value::Map([(MapKey::String(key.to_owned()), Value::String(value.to_owned()))].into())
        };
        return vec![
            with(map(text, "v"), format!("{name}[{text}]"), None, true),
            with(map("k", text), format!("{name}[k]"), None, false),
        ];
    }
    match field.kind() {
        Kind::String if field.is_list() => {
            let list = Value::List(vec![Value::String("x".into()), Value::String(text.into())]);
            vec![with(list, format!("{name}[1]"), None, false)]
        }
        Kind::String => vec![with(Value::String(text.into()), name.to_owned(), None, false)],
        Kind::Message(inner) if inner.full_name().starts_with("sagad.") => each_text(&inner, text)
            .iter()
            .map(|given| {
                let value = Value::Message(given.message.clone());
                if field.is_list() {
                    with(Value::List(vec![value]), format!("{name}[0].{}", given.path), Some(given), false)
                } else {
                    with(value, format!("{name}.{}", given.path), Some(given), false)
                }
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// Calls each rpc with each of its text fields; returns the fields.
async fn each_is_refused(daemon: &Daemon, text: &str, tried: impl Fn(&RequestWithText) -> bool) -> BTreeSet<String> {
    let channel = daemon.channel().await;
    let pool = DescriptorPool::decode(sagad::proto::DESCRIPTORS).unwrap();
    let mut fields = BTreeSet::new();
    for rpc in raw_rpc::contract() {
        let method = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
        let method = method.into_iter().find(|method| rpc.path.ends_with(&format!("/{}", method.name()))).unwrap();
        if rpc.name == "KeepAlive" {
            // It reports errors in its items, which are parsed as heartbeats are.
            let heartbeat = pool.get_message_by_name("sagad.v1.HeartbeatRequest").unwrap();
            let paths = |message| each_text(message, text).into_iter().map(|given| given.path).collect::<Vec<_>>();
            assert_eq!(paths(&method.input()), paths(&heartbeat));
            continue;
        }
        if rpc.name == "Session" {
            // Each item is the request of another rpc, which is tried on its own.
            for field in method.input().fields() {
                match field.kind() {
                    Kind::Message(call) if call.full_name().starts_with("sagad.") => {
                        let unary = field.name().split('_').map(capital).collect::<String>();
                        assert_eq!(call.full_name(), format!("sagad.v1.{unary}Request"));
                    }
                    Kind::String => panic!("{} is tried nowhere", field.name()),
                    _ => {}
                }
            }
            continue;
        }
        for given in each_text(&method.input(), text).into_iter().filter(&tried) {
            let status = raw_rpc::call(&channel, &rpc.path, rpc.streams, given.message.encode_to_vec(), &[]).await;
            let told = format!("{} of {}: {text:?}", given.path, rpc.name);
            let status = status.expect_err(&told);
            assert_eq!(status.code(), Code::InvalidArgument, "{told}: {status:?}");
            let violations = status.get_details_bad_request().map(|request| request.field_violations);
            let named: Vec<String> = violations.unwrap_or_default().into_iter().map(|field| field.field).collect();
            assert!(named.contains(&given.path), "{told}: {named:?}");
            fields.insert(given.field.clone());
        }
    }
    fields
}

/// A word with a capital, as in the names of rpcs.
fn capital(word: &str) -> String {
    let (first, rest) = word.split_at(1);
    first.to_uppercase() + rest
}

#[tokio::test]
async fn nul_is_refused_in_each_text_field_with_the_field_named() {
    let daemon = Daemon::start();
    let tried = each_is_refused(&daemon, "a\0b", |_| true).await;
    let known = NAMES.iter().chain(TEXTS).chain(&["labels", "details"]).map(|name| (*name).to_owned()).collect();
    assert_eq!(tried, known, "add a new text field to NAMES or TEXTS");
    let api = daemon.api().await;
    assert!(api.list_sagas(ListSagasRequest::default()).await.unwrap().sagas.is_empty(), "no saga was created");
}

#[tokio::test]
async fn invisible_characters_are_refused_in_names() {
    let daemon = Daemon::start();
    for text in ["a\u{9b}b", "a\u{7f}b", "a\u{202e}b", "a\u{2066}b", "a\u{200f}b", "a\u{2028}b", "a\nb"] {
        let names = |given: &RequestWithText| given.is_key || NAMES.contains(&given.field.as_str());
        each_is_refused(&daemon, text, names).await;
    }
    // Free text may contain them: it is escaped where it is shown.
    let api = daemon.api().await;
    let free = "a\u{9b}\u{202e}\u{2028}\n\tb".to_owned();
    let request = CreateSagaRequest {
        branch: free.clone(),
        worktree: free.clone(),
        labels: [("k".to_owned(), free.clone())].into(),
        ..create("t")
    };
    assert_eq!(api.create_saga(request).await.unwrap().branch, free);
}

/// The search through the descriptors finds nested and repeated fields, too.
#[test]
fn all_text_fields_of_the_contract_are_found() {
    let descriptor = CreateSagaRequest::default().encode_to_vec();
    let pool = DescriptorPool::decode(sagad::proto::DESCRIPTORS).unwrap();
    let message = pool.get_message_by_name("sagad.v1.BatchCreateSagasRequest").unwrap();
    assert!(DynamicMessage::decode(message.clone(), descriptor.as_slice()).unwrap().descriptor() == message);
    let paths: BTreeSet<String> = each_text(&message, "x").into_iter().map(|given| given.path).collect();
    for path in ["request_id", "requests[0].labels[x]", "requests[0].labels[k]", "requests[0].compensations[0].target"]
    {
        assert!(paths.contains(path), "{path}: {paths:?}");
    }
}
