//! Something that a check found.

use std::time::Duration;

use serde_json::json;

use crate::cli::text::printable;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Work stands still, or will, unless somebody does something.
    Problem,
    /// Not as it should be.
    Warning,
    /// Good to know.
    Note,
}

impl Severity {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Problem => "problem",
            Severity::Warning => "warning",
            Severity::Note => "note",
        }
    }
}

/// A finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which check found it. Names don't change: programs go by them.
    pub check: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What was seen, with figures.
    pub seen: String,
    /// Why that matters.
    pub why: &'static str,
    /// What mends it: a command, as a rule.
    pub mend: String,
}

impl Finding {
    /// A paragraph for people.
    pub fn text(&self) -> String {
        let Finding { check, severity, seen, why, mend } = self;
        format!(
            "{} ({check}): {}\n  why: {why}\n  do:  {}",
            severity.name().to_uppercase(),
            printable(seen),
            printable(mend)
        )
    }

    /// A line for programs.
    pub fn json(&self) -> String {
        let Finding { check, severity, seen, why, mend } = self;
        json!({ "check": check, "severity": severity.name(), "seen": seen, "why": why, "do": mend }).to_string()
    }
}

/// Findings of one sort that are told one by one.
const TOLD: usize = 10;

/// The first few of findings of one sort, the last of them with how many more there are.
pub fn first_few(found: impl Iterator<Item = Finding>) -> Vec<Finding> {
    let mut found: Vec<Finding> = found.collect();
    let more = found.len().saturating_sub(TOLD);
    found.truncate(TOLD);
    if let Some(last) = found.last_mut().filter(|_| more > 0) {
        last.seen.push_str(&format!(" (and {more} more like this are not shown)"));
    }
    found
}

/// A length on the wire.
pub fn length(length: Option<&prost_types::Duration>) -> Duration {
    length.map(crate::client::convert::from_proto).unwrap_or_default()
}

/// A signed length in seconds.
pub fn seconds(length: Option<&prost_types::Duration>) -> f64 {
    length.map_or(0.0, |length| length.seconds as f64 + f64::from(length.nanos) / 1e9)
}
