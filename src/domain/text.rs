//! Free text, labels and bytes, within their bounds.

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;

use super::{
    bounds::{ACTOR_BYTES, BLOB_BYTES, KIND_BYTES, LABEL_KEY_BYTES, LABEL_VALUE_BYTES, LABELS, TEXT_BYTES},
    characters::is_control,
    ids::{Malformed, parsed_text},
};

fn within(value: &str, max: usize) -> Result<(), Malformed> {
    if value.len() > max {
        return Err(Malformed(format!("is {} bytes long; at most {max} are allowed", value.len())));
    }
    Ok(())
}

fn printable(value: &str, max: usize) -> Result<Arc<str>, Malformed> {
    if value.is_empty() {
        return Err(Malformed("is required".into()));
    }
    within(value, max)?;
    if let Some(bad) = value.chars().find(|c| is_control(*c)) {
        return Err(Malformed(format!("holds {bad:?}; only printable characters are allowed")));
    }
    Ok(value.into())
}

/// Refuses NUL, which program arguments, environment variables and most file names can't contain.
fn without_nul(value: &str, max: usize) -> Result<(), Malformed> {
    within(value, max)?;
    if value.contains('\0') {
        return Err(Malformed("holds a NUL character ('\\0'), which is not allowed".into()));
    }
    Ok(())
}

/// Accepts what an earlier version stored, even if it would be refused today.
fn stored(value: &str, max: usize) -> Result<Arc<str>, Malformed> {
    within(value, max).map(|()| value.into())
}

parsed_text!(
    /// Who did something: a person, a worker, or `sagad` itself. 1 to 200 bytes, printable.
    Actor, |value| printable(value, ACTOR_BYTES)
);
parsed_text!(
    /// The kind of a compensation: the name of the handler that runs it. 1 to 100 bytes, printable.
    Kind, |value| printable(value, KIND_BYTES)
);

impl Actor {
    /// One that a store holds. Earlier versions accepted more characters.
    pub fn stored(value: &str) -> Result<Self, Malformed> {
        stored(value, ACTOR_BYTES).map(Actor)
    }

    /// The coordinator itself, deciding by a saga's policy.
    pub fn coordinator() -> Self {
        Actor("sagad".into())
    }
}

impl Kind {
    /// One that a store holds. Earlier versions accepted more characters.
    pub fn stored(value: &str) -> Result<Self, Malformed> {
        stored(value, KIND_BYTES).map(Kind)
    }
}

/// Up to 4 KiB of text without NUL, empty allowed: a reason, a note, a target, a branch, a worktree.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(Arc<str>);

impl Text {
    /// Parses a text; the error says by how much it is too long, or that it holds NUL.
    pub fn parse(value: &str) -> Result<Self, Malformed> {
        without_nul(value, TEXT_BYTES)?;
        Ok(Text(value.into()))
    }

    /// One that a store holds. Earlier versions accepted NUL.
    pub fn stored(value: &str) -> Result<Self, Malformed> {
        stored(value, TEXT_BYTES).map(Text)
    }

    /// A text of the coordinator's own, truncated if what it quotes makes it too long.
    pub fn own(value: &str) -> Self {
        let mut end = value.len().min(TEXT_BYTES);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        Text(value[..end].into())
    }

    /// It as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True if the text is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Up to 64 KiB of bytes that only workers interpret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blob(Bytes);

impl Blob {
    /// Takes the bytes; the error says by how much they are too many.
    pub fn parse(value: Bytes) -> Result<Self, Malformed> {
        if value.len() > BLOB_BYTES {
            return Err(Malformed(format!("is {} bytes long; at most {BLOB_BYTES} are allowed", value.len())));
        }
        Ok(Blob(value))
    }

    /// The bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }
}

/// Labels of a saga, or details of a note: up to 64 pairs, keys of 1 to 63 bytes, values of up to 256.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// Checks the pairs; an error carries the key it is about, or none when there are too many.
    pub fn parse(pairs: BTreeMap<String, String>) -> Result<Self, Vec<(Option<String>, Malformed)>> {
        let mut wrong = Vec::new();
        if pairs.len() > LABELS {
            wrong.push((None, Malformed(format!("has {} entries; at most {LABELS} are allowed", pairs.len()))));
        }
        for (key, value) in &pairs {
            if let Err(e) = printable(key, LABEL_KEY_BYTES) {
                wrong.push((Some(key.clone()), Malformed(format!("key {}", e.0))));
            }
            if let Err(e) = without_nul(value, LABEL_VALUE_BYTES) {
                wrong.push((Some(key.clone()), Malformed(format!("value {}", e.0))));
            }
        }
        if wrong.is_empty() { Ok(Labels(pairs)) } else { Err(wrong) }
    }

    /// Those that a store holds, or the first that is out of bounds. Earlier versions accepted more characters.
    pub fn stored(pairs: BTreeMap<String, String>) -> Result<Self, Malformed> {
        if pairs.len() > LABELS {
            return Err(Malformed(format!("has {} entries; at most {LABELS} are allowed", pairs.len())));
        }
        for (key, value) in &pairs {
            within(key, LABEL_KEY_BYTES)?;
            within(value, LABEL_VALUE_BYTES)?;
        }
        Ok(Labels(pairs))
    }

    /// The pairs, in order of their keys.
    pub fn pairs(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// Whether every pair of `wanted` is among these.
    pub fn contains_all(&self, wanted: &Labels) -> bool {
        wanted.0.iter().all(|(key, value)| self.0.get(key) == Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_text_is_truncated_between_characters() {
        let long = "ä".repeat(TEXT_BYTES);
        assert!(Text::own(&long).as_str().len() <= TEXT_BYTES);
        assert!(Text::parse(&long).is_err());
    }

    #[test]
    fn labels_name_what_is_wrong() {
        let pairs = BTreeMap::from([("k".repeat(64), "v".into()), ("ok".into(), "v".repeat(257))]);
        let wrong = Labels::parse(pairs).unwrap_err();
        assert_eq!(wrong.len(), 2);
        assert!(wrong.iter().any(|(key, _)| key.as_deref() == Some("ok")));
    }

    #[test]
    fn actors_are_printable() {
        assert!(Actor::parse("Jo Müller <jo@example.org>").is_ok());
        assert!(Actor::parse("a\nb").is_err());
        assert!(Actor::parse("").is_err());
        for bad in ["a\u{202e}b", "a\u{2028}b", "a\u{9b}b", "a\0b"] {
            assert!(Actor::parse(bad).is_err() && Kind::parse(bad).is_err(), "{bad:?}");
            assert_eq!(Actor::stored(bad).unwrap().as_str(), bad, "what is stored stays readable");
            assert_eq!(Kind::stored(bad).unwrap().as_str(), bad);
            let pairs = BTreeMap::from([(bad.to_owned(), bad.to_owned())]);
            assert!(Labels::parse(pairs.clone()).is_err() && Labels::stored(pairs).is_ok(), "{bad:?}");
        }
        assert!(Actor::parse("\u{645}\u{6cc}\u{200c}\u{62e}\u{648}").is_ok(), "what joins letters is part of a name");
        assert!(Text::parse("a\0").is_err() && Text::parse("a\u{202e}\n").is_ok() && Text::stored("a\0").is_ok());
    }
}
