//! Names and numbers that can't be invalid: each is made by parsing, or not at all.

use std::{fmt, sync::Arc};

use super::bounds::{ID_BYTES, QUEUE_BYTES};

/// Why a value was not accepted: a sentence without the value's place, which the caller knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(pub String);

/// Which bytes names are made of: each name of each call is looked at.
const IN_NAMES: [bool; 256] = {
    let mut found = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        found[byte] = matches!(byte as u8, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b':' | b'/' | b'@' | b'+' | b'-');
        byte += 1;
    }
    found
};

/// One to `max` bytes of `[A-Za-z0-9._:/@+-]`, beginning with a letter or digit, without `..`: safe in a URL, a file
/// name's part and a shell word.
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

/// A text that is valid by its making: parsed by one function, or not there.
macro_rules! parsed_text {
    ($(#[$doc:meta])* $name:ident, $parse:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// Parses it; the error says what is wrong with it.
            pub fn parse(value: &str) -> Result<Self, $crate::domain::ids::Malformed> {
                $parse(value).map($name)
            }

            /// It as text.
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
    /// Whether it is this name, or this name and what follows a slash: that of an owner which belongs to a principal.
    pub fn belongs_to(&self, name: &str) -> bool {
        is_or_is_below(self.as_str(), name)
    }
}

/// Whether a name is another one, or that one and what follows a slash.
pub(super) fn is_or_is_below(name: &str, other: &str) -> bool {
    let rest = name.strip_prefix(other);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Default for QueueName {
    fn default() -> Self {
        QueueName("default".into())
    }
}

/// A place in the one order of all events of a store: 1, 2, … with gaps; below 2^53.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub i64);

impl Revision {
    /// Before every event.
    pub const ZERO: Revision = Revision(0);

    /// The place `steps` further on.
    #[must_use]
    pub const fn after(self, steps: usize) -> Self {
        Revision(self.0.saturating_add_unsigned(steps as u64))
    }
}

/// What a lease proves itself by, and what a worker passes on to whatever it writes to: the revision of the lease's
/// `claimed` event, so that a later lease has a larger one.
/// (Kleppmann, "How to do distributed locking", 2016; Chubby's sequencers)
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
