//! Names and numbers that are always valid: the only way to make one is to parse it.

use std::{fmt, sync::Arc};

use super::bounds::{ID_BYTES, QUEUE_BYTES};

/// Why a value was not accepted. The text doesn't name the field, which the caller knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(pub String);

/// Bytes allowed in names. A table, because every name of every call is checked.
const IN_NAMES: [bool; 256] = {
    let mut found = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        found[byte] = matches!(byte as u8, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b':' | b'/' | b'@' | b'+' | b'-');
        byte += 1;
    }
    found
};

/// Parses 1 to `max` bytes of `[A-Za-z0-9._:/@+-]` that begin with a letter or digit and don't contain `..`: safe in
/// URLs, file names and shell words.
pub(super) fn parse_name(value: &str, max: usize) -> Result<Arc<str>, Malformed> {
    let bytes = value.as_bytes();
    if bytes.is_empty() {
        return Err(Malformed("is required".into()));
    }
    if bytes.len() > max {
        return Err(Malformed(format!("is {} bytes long; at most {max} are allowed", bytes.len())));
    }
    if !bytes[0].is_ascii_alphanumeric() {
        return Err(Malformed("must begin with a letter or digit".into()));
    }
    if !bytes.iter().all(|byte| IN_NAMES[usize::from(*byte)]) {
        let bad = value.chars().find(|c| !c.is_ascii() || !IN_NAMES[*c as usize]).unwrap_or_default();
        return Err(Malformed(format!("holds {bad:?}; letters, digits and . _ : / @ + - are allowed")));
    }
    if value.contains("..") {
        return Err(Malformed("must not hold '..'".into()));
    }
    Ok(value.into())
}

/// Defines a text type that can only be made by its parse function.
macro_rules! parsed_text {
    ($(#[$doc:meta])* $name:ident, $parse:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// Parses a value; the error says what is wrong with it.
            pub fn parse(value: &str) -> Result<Self, $crate::domain::ids::Malformed> {
                $parse(value).map($name)
            }

            /// The value as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}
pub(super) use parsed_text;

parsed_text!(
    /// A task's id: unique among all stored sagas.
    TaskId, |value| parse_name(value, ID_BYTES)
);
parsed_text!(
    /// A saga's id: unique among all stored sagas; the task's id unless given.
    SagaId, |value| parse_name(value, ID_BYTES)
);
parsed_text!(
    /// Who holds a lease, or for whom a saga is reserved.
    OwnerId, |value| parse_name(value, ID_BYTES)
);
parsed_text!(
    /// A queue's name.
    QueueName, |value| parse_name(value, QUEUE_BYTES)
);

impl TaskId {
    /// The saga id that a saga gets when none is given.
    pub fn to_saga_id(&self) -> SagaId {
        SagaId(self.0.clone())
    }
}

impl OwnerId {
    /// True if the owner is `name`, or `name` followed by a slash and more: then it belongs to the principal of that
    /// name.
    pub fn belongs_to(&self, name: &str) -> bool {
        is_or_is_below(self.as_str(), name)
    }
}

/// True if `name` is `other`, or `other` followed by a slash and more.
pub(super) fn is_or_is_below(name: &str, other: &str) -> bool {
    let rest = name.strip_prefix(other);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Default for QueueName {
    fn default() -> Self {
        QueueName("default".into())
    }
}

/// The position of an event in the total order of a store's events: 1, 2, … with gaps; below 2^53.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub i64);

impl Revision {
    /// Before every event.
    pub const ZERO: Revision = Revision(0);

    /// The revision `steps` later.
    #[must_use]
    pub const fn after(self, steps: usize) -> Self {
        Revision(self.0.saturating_add_unsigned(steps as u64))
    }
}

/// Identifies a lease. A worker passes it to every resource that it writes to, so that the resource can refuse an
/// older lease. It is the revision of the lease's `claimed` event, so a later lease has a larger token. (Kleppmann,
/// "How to do distributed locking", 2016; Chubby's sequencers)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(pub i64);

impl From<Revision> for FencingToken {
    fn from(revision: Revision) -> Self {
        FencingToken(revision.0)
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_plain() {
        for good in ["a", "9", "issue/42@host+x_y-z.1:2", &"a".repeat(200)] {
            assert!(TaskId::parse(good).is_ok(), "{good}");
        }
        for bad in ["", ".a", "-a", "a..b", "a b", "ä", "a\n", "a\0", &"a".repeat(201)] {
            assert!(TaskId::parse(bad).is_err(), "{bad}");
        }
        assert!(QueueName::parse(&"q".repeat(100)).is_ok());
        assert!(QueueName::parse(&"q".repeat(101)).is_err());
    }
}
