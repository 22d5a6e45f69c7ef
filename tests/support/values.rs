//! Short constructors of the domain's values.

#![allow(dead_code, reason = "each binary uses a part of it")]

use sagad::domain::{
    compensation::CompensationSpec,
    ids::{OwnerId, QueueName, TaskId},
    text::{Actor, Blob, Kind, Text},
    time::Span,
};

pub fn text(s: &str) -> Text {
    Text::parse(s).unwrap()
}

pub fn actor(s: &str) -> Actor {
    Actor::parse(s).unwrap()
}

pub fn owner(s: &str) -> OwnerId {
    OwnerId::parse(s).unwrap()
}

pub fn queue(s: &str) -> QueueName {
    QueueName::parse(s).unwrap()
}

pub fn task(s: &str) -> TaskId {
    TaskId::parse(s).unwrap()
}

pub fn kind(s: &str) -> Kind {
    Kind::parse(s).unwrap()
}

pub fn blob(s: &str) -> Blob {
    Blob::parse(s.to_owned().into()).unwrap()
}

pub fn us(micros: i64) -> Span {
    Span::from_micros(micros).unwrap()
}

pub fn secs(n: u32) -> Span {
    Span::from_secs(n)
}

/// One compensation per kind; its target is named after it.
pub fn specs(kinds: &[&str]) -> Vec<CompensationSpec> {
    let spec = |name: &&str| CompensationSpec {
        kind: kind(name),
        target: text(&format!("/{name}")),
        reason: text("left behind"),
    };
    kinds.iter().map(spec).collect()
}
