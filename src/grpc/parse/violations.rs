//! [`Violations`]: everything that is wrong with one request.

use std::fmt::Display;

use crate::{
    domain::ids::Malformed,
    grpc::status::cut,
    mutants::{self, Mutant},
};

/// Longest path and longest description, in bytes. A path can quote a label's key.
const ENTRY_BYTES: usize = 160;
/// Longest list, in bytes. It is sent in a header, and some clients accept at most 8 KiB of headers.
const LIST_BYTES: usize = 3 * 1024;

/// Violations by proto path, in the order in which they were found.
#[derive(Debug, Default)]
pub struct Violations {
    prefix: String,
    list: Vec<(String, String)>,
    bytes: usize,
    left_out: usize,
}

impl Violations {
    /// Adds a violation of `field`, whose description follows the path, such as "is required".
    pub fn add(&mut self, field: impl Display, wrong: impl Into<String>) {
        let field = if mutants::on(Mutant::ViolationsUnnamed) {
            "request".to_owned()
        } else {
            format!("{}{field}", self.prefix)
        };
        let entry = (cut(field, ENTRY_BYTES), cut(wrong.into(), ENTRY_BYTES));
        let bytes = entry.0.len() + entry.1.len();
        if self.bytes + bytes > LIST_BYTES {
            self.left_out += 1;
        } else {
            self.bytes += bytes;
            self.list.push(entry);
        }
    }

    /// The parsed value; or none, and a violation is added.
    pub fn check<T>(&mut self, field: impl Display, parsed: Result<T, Malformed>) -> Option<T> {
        parsed.map_err(|malformed| self.add(field, malformed.0)).ok()
    }

    /// Parses a part of the request; the paths of its fields begin with `prefix`.
    pub fn within<T>(&mut self, prefix: impl Display, parse: impl FnOnce(&mut Self) -> T) -> T {
        let outer = self.prefix.len();
        self.prefix.push_str(&prefix.to_string());
        let parsed = parse(self);
        self.prefix.truncate(outer);
        parsed
    }

    /// Whether there are no violations.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty() && self.left_out == 0
    }

    /// The parsed value if there are no violations, else the violations.
    pub fn unless_any<T>(self, parsed: Option<T>) -> Result<T, Self> {
        match parsed {
            Some(value) if self.is_empty() => Ok(value),
            // A parser that returns none has added a violation.
            Some(_) | None => Err(self),
        }
    }

    /// All violations that fit into an answer; the last entry then counts the others.
    pub fn into_list(mut self) -> Vec<(String, String)> {
        if self.left_out > 0 {
            self.list.push((String::new(), format!("and {} more violations", self.left_out)));
        }
        self.list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_named_by_path_and_bounded() {
        let mut violations = Violations::default();
        violations.within("requests[3].", |v| v.within("compensations[2].", |v| v.add("kind", "is required")));
        assert_eq!(violations.list, [("requests[3].compensations[2].kind".to_owned(), "is required".to_owned())]);
        for i in 0..10_000 {
            violations.add(format_args!("labels[{}{i}]", "ä".repeat(1000)), "wrong ".repeat(1000));
        }
        let list = violations.into_list();
        assert!(list.iter().map(|(field, wrong)| field.len() + wrong.len()).sum::<usize>() < LIST_BYTES + 100);
        assert!(list.last().unwrap().1.ends_with("more violations"));
    }
}
