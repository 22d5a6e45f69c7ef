//! The contract's descriptors: whether the field that an error names exists, and which requests there are. The fuzz targets
//! use this, too.

use std::{collections::BTreeSet, sync::LazyLock};

use prost_reflect::{DescriptorPool, Kind, MessageDescriptor};

use crate::proto::DESCRIPTORS;

static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).expect("the build made the descriptors"));

/// The request messages of all rpcs, by name.
pub fn requests() -> BTreeSet<String> {
    let of_all = POOL.services().flat_map(|service| service.methods().collect::<Vec<_>>());
    of_all.map(|method| method.input().name().to_owned()).collect()
}

/// Whether a path such as `requests[3].compensations[2].kind` or `labels[a.b]` leads to a field of a message.
pub fn has_field(message: &str, path: &str) -> bool {
    POOL.get_message_by_name(&format!("sagad.v1.{message}")).is_some_and(|message| leads(&message, path))
}

/// Whether a message has any field.
#[cfg(test)]
pub fn has_fields(message: &str) -> bool {
    POOL.get_message_by_name(&format!("sagad.v1.{message}")).is_some_and(|message| message.fields().len() > 0)
}

fn leads(message: &MessageDescriptor, path: &str) -> bool {
    let end = path.find(['.', '[']).unwrap_or(path.len());
    let (name, rest) = path.split_at(end);
    if rest.is_empty() && message.oneofs().any(|oneof| oneof.name() == name && oneof.fields().len() > 1) {
        // A oneof is named when none of its fields is set.
        return true;
    }
    let Some(field) = message.get_field_by_name(name) else { return false };
    if field.is_map() {
        // A map's key is quoted as it was sent, whatever it contains; a long one is truncated.
        return rest.is_empty() || (rest.starts_with('[') && (rest.ends_with(']') || rest.ends_with('…')));
    }
    let rest = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((index, rest)) if field.is_list() && index.parse::<usize>().is_ok() => rest,
        Some(_) => return false,
        None => rest,
    };
    match (rest.strip_prefix('.'), field.kind()) {
        (None, _) => rest.is_empty(),
        (Some(rest), Kind::Message(inner)) => leads(&inner, rest),
        (Some(_), _) => false,
    }
}

#[test]
fn only_existing_paths_are_found() {
    for there in ["task_id", "labels[a].b]", "compensations[127].kind", "policy.on_stale", "delay.seconds", "labels"] {
        assert!(has_field("CreateSagaRequest", there), "{there}");
    }
    for absent in ["", "task", "task_id.x", "task_id[0]", "compensations[x].kind", "compensations[1]kind", "policy.x"] {
        assert!(!has_field("CreateSagaRequest", absent), "{absent}");
    }
    assert!(has_field("SessionRequest", "call") && has_field("SessionRequest", "fail.compensations[0].kind"));
    assert!(!has_field("SessionRequest", "call.task_id"));
    assert!(has_field("BatchCreateSagasRequest", "requests[7].compensations[1].target"));
}
