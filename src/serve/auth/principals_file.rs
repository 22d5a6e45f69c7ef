//! Parses the file of principals. The first error is reported, with its line, entry and field.
//!
//! Errors quote nothing of the file but well-formed names: somebody may have pasted a token in the wrong place.

use std::collections::{BTreeSet, HashMap};

use chrono::DateTime;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::domain::{
    bounds::QUEUES,
    ids::{Malformed, QueueName},
    principal::{Principal, PrincipalName, Role, Scope},
    text::Actor,
    time::Timestamp,
};

/// Most entries. Each call is compared with the tokens of all of them.
const PRINCIPALS: usize = 1000;
/// Most tokens of an entry; rotation needs two.
const TOKENS: usize = 8;
/// Longest certificate name, in bytes: enough for a URI with a host and a path.
const CERTIFICATE_BYTES: usize = 512;
/// Prefix of a token's hash in the file.
pub const HASH_PREFIX: &str = "sha256:";
const FIELDS: [&str; 6] = ["name", "roles", "queues", "tokens", "certificate", "not_after"];

/// The SHA-256 of a token.
pub type TokenHash = [u8; 32];

/// One `[[principal]]` entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrincipalEntry {
    pub principal: Principal,
    pub tokens: Vec<TokenHash>,
    /// Client certificates with this name authenticate as the principal.
    pub certificate: Option<ConfiguredCertificateName>,
    /// From this time on the principal is refused.
    pub not_after: Option<Timestamp>,
}

/// A certificate name as the file has it. The two kinds never match each other: a DNS name that looks like a URI isn't one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ConfiguredCertificateName {
    /// A DNS name among the alternative names, or the common name of a certificate without alternative names.
    Name(String),
    /// A URI among the alternative names. In the file it begins with a scheme and a colon.
    Uri(String),
}

impl ConfiguredCertificateName {
    fn parse(text: &str) -> Self {
        let scheme = text.split_once(':').map(|(scheme, _)| scheme).filter(|scheme| {
            // RFC 3986, section 3.1.
            scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
        });
        match scheme {
            Some(_) => ConfiguredCertificateName::Uri(text.to_owned()),
            None => ConfiguredCertificateName::Name(text.to_owned()),
        }
    }
}

/// The first error in the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct FileError {
    /// The line, from 1.
    pub line: usize,
    /// The entry, the field and the problem.
    pub what: String,
}

/// A TOML value with its position.
type Value<'a> = Spanned<DeValue<'a>>;

/// Parses the file.
///
/// # Errors
/// The first error in it.
pub fn parse(text: &str) -> Result<Vec<PrincipalEntry>, FileError> {
    let at = |place: usize| 1 + text.bytes().take(place).filter(|byte| *byte == b'\n').count();
    let table = DeTable::parse(text).map_err(|error| {
        // The parser's own message quotes the line.
        let line = error.span().map_or(1, |span| at(span.start));
        FileError { line, what: "is not valid TOML (or says something twice)".to_owned() }
    })?;
    let mut entries = Vec::new();
    let mut seen = UniqueValues::default();
    for (key, value) in table.get_ref() {
        let wrong = |place: usize, what: &str| FileError { line: at(place), what: what.to_owned() };
        if key.get_ref() != "principal" {
            let text = format!("unknown key{}; an entry begins with [[principal]]", quoted(key.get_ref()));
            return Err(wrong(key.span().start, &text));
        }
        let Some(list) = value.get_ref().as_array() else {
            return Err(wrong(key.span().start, "principal has to be a list: an entry begins with [[principal]]"));
        };
        if list.len() > PRINCIPALS {
            return Err(wrong(key.span().start, &format!("there are over {PRINCIPALS} principals")));
        }
        for (index, value) in list.iter().enumerate() {
            let Some(table) = value.get_ref().as_table() else {
                return Err(wrong(value.span().start, "principal has to be a list of tables"));
            };
            let parser =
                EntryParser { table, place: value.span().start, at: &at, name: format!("principal {}", index + 1) };
            entries.push(parser.entry(&mut seen)?);
        }
    }
    if entries.is_empty() {
        // An empty list would revoke everybody; a file that is read half-written must not do that.
        return Err(FileError { line: 1, what: "there is no [[principal]]".to_owned() });
    }
    Ok(entries)
}

/// The key in backticks, if it looks like a key and not like a secret.
fn quoted(key: &str) -> String {
    let plain = key.len() <= 20 && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if plain { format!(" `{key}`") } else { String::new() }
}

/// Values that may be given only once, with the entry that has them.
#[derive(Default)]
struct UniqueValues {
    names: BTreeSet<PrincipalName>,
    tokens: HashMap<TokenHash, String>,
    certificates: HashMap<String, String>,
}

struct EntryParser<'a, A> {
    table: &'a DeTable<'a>,
    place: usize,
    at: &'a A,
    name: String,
}

impl<A: Fn(usize) -> usize> EntryParser<'_, A> {
    fn wrong(&self, place: usize, what: impl std::fmt::Display) -> FileError {
        FileError { line: (self.at)(place), what: format!("{}: {what}", self.name) }
    }

    fn field(&self, key: &str) -> Option<&Value<'_>> {
        self.table.iter().find(|(known, _)| known.get_ref() == key).map(|(_, value)| value)
    }

    fn text<'v>(&self, field: &str, value: &'v Value<'_>) -> Result<&'v str, FileError> {
        value
            .get_ref()
            .as_str()
            .ok_or_else(|| self.wrong(value.span().start, format_args!("{field}: has to be a string")))
    }

    fn texts<'v>(&self, field: &str, value: &'v Value<'_>) -> Result<Vec<(usize, &'v str)>, FileError> {
        let list = value.get_ref().as_array();
        let list =
            list.ok_or_else(|| self.wrong(value.span().start, format_args!("{field}: has to be a list of strings")))?;
        list.iter().map(|value| Ok((value.span().start, self.text(field, value)?))).collect()
    }

    fn entry(mut self, seen: &mut UniqueValues) -> Result<PrincipalEntry, FileError> {
        let name = self.principal_name(seen)?;
        if let Some((key, _)) = self.table.iter().find(|(key, _)| !FIELDS.contains(&key.get_ref().as_ref())) {
            let known = FIELDS.join(", ");
            let text = format!("unknown key{} (known: {known})", quoted(key.get_ref()));
            return Err(self.wrong(key.span().start, text));
        }
        let roles = self.roles()?;
        let queues = self.queues(roles.contains(&Role::Worker))?;
        let tokens = self.tokens(seen)?;
        let certificate = self.certificate(seen)?;
        let not_after = self.not_after()?;
        if tokens.is_empty() && certificate.is_none() {
            return Err(
                self.wrong(self.place, "tokens: it has neither tokens nor a certificate, so nobody could be it")
            );
        }
        Ok(PrincipalEntry { principal: Principal { name, roles, queues }, tokens, certificate, not_after })
    }

    fn principal_name(&mut self, seen: &mut UniqueValues) -> Result<PrincipalName, FileError> {
        let Some(value) = self.field("name") else { return Err(self.wrong(self.place, "name: is missing")) };
        let (place, text) = (value.span().start, self.text("name", value)?);
        // The parser's own message may quote a character of what was pasted.
        let name = PrincipalName::parse(text).map_err(|Malformed(_)| {
            let form =
                "has to be 1 to 64 letters, digits and . _ : / @ + -, beginning with a letter or digit, without '..'";
            self.wrong(place, format_args!("name: {form}"))
        })?;
        if name.is_the_coordinators() {
            let why = "is the coordinator's own in the history, and so is all that begins with it and a slash";
            return Err(self.wrong(place, format_args!("name: `{}` {why}", Actor::coordinator())));
        }
        if seen.names.contains(&name) {
            return Err(self.wrong(place, format_args!("name: there is another principal `{name}`")));
        }
        // An owner id begins with its principal's name, so the shorter of these two could act for the longer.
        let nested =
            |other: &&PrincipalName| name.is_or_is_below(other.as_str()) || other.is_or_is_below(name.as_str());
        if let Some(other) = seen.names.iter().find(nested) {
            let (above, below) = if name.is_or_is_below(other.as_str()) { (other, &name) } else { (&name, other) };
            let why = format!("`{above}` could act for `{below}`, whose name begins with it and a slash: rename one");
            return Err(self.wrong(place, format_args!("name: {why}")));
        }
        seen.names.insert(name.clone());
        self.name = format!("principal `{name}`");
        Ok(name)
    }

    fn roles(&self) -> Result<Vec<Role>, FileError> {
        let known = Role::ALL.map(Role::name).join(", ");
        let Some(value) = self.field("roles") else {
            return Err(self.wrong(self.place, format_args!("roles: is missing (there are {known})")));
        };
        let mut roles = Vec::new();
        for (place, text) in self.texts("roles", value)? {
            let role = Role::parse(text);
            let role = role
                .ok_or_else(|| self.wrong(place, format_args!("roles: there is no such role (there are {known})")))?;
            if roles.contains(&role) {
                return Err(self.wrong(place, format_args!("roles: {} is there twice", role.name())));
            }
            roles.push(role);
        }
        if roles.is_empty() {
            return Err(self.wrong(value.span().start, format_args!("roles: is empty (there are {known})")));
        }
        Ok(roles)
    }

    fn queues(&self, worker: bool) -> Result<Scope, FileError> {
        let value = match (self.field("queues"), worker) {
            (Some(value), true) => value,
            (None, true) => {
                return Err(self.wrong(self.place, "queues: is missing: a worker needs queues, or \"*\" for all"));
            }
            (Some(value), false) => {
                return Err(
                    self.wrong(value.span().start, "queues: is for the role worker only, and it has not that role")
                );
            }
            (None, false) => return Ok(Scope::All),
        };
        if value.get_ref().as_str() == Some("*") {
            return Ok(Scope::All);
        }
        let mut queues = Vec::new();
        for (place, text) in self.texts("queues", value)? {
            if text == "*" {
                return Err(self.wrong(place, "queues: \"*\" stands for all, alone: queues = \"*\""));
            }
            let queue = QueueName::parse(text);
            let queue = queue.map_err(|Malformed(_)| self.wrong(place, "queues: one of them is no name of a queue"))?;
            if queues.contains(&queue) {
                return Err(self.wrong(place, format_args!("queues: {queue} is there twice")));
            }
            queues.push(queue);
        }
        match queues.len() {
            0 => Err(self.wrong(value.span().start, "queues: is empty: a worker needs queues, or \"*\" for all")),
            1..=QUEUES => Ok(Scope::Only(queues.into())),
            _ => Err(self.wrong(
                value.span().start,
                format_args!("queues: there are over {QUEUES}: take \"*\", or two principals"),
            )),
        }
    }

    fn tokens(&self, seen: &mut UniqueValues) -> Result<Vec<TokenHash>, FileError> {
        let Some(value) = self.field("tokens") else { return Ok(Vec::new()) };
        let mut tokens = Vec::new();
        for (place, text) in self.texts("tokens", value)? {
            let hash = parse_hash(text).ok_or_else(|| {
                let form = "has to be the hash of a token, \"sha256:\" and 64 digits (`sagad token hash` makes it)";
                self.wrong(place, format_args!("tokens: {form}"))
            })?;
            if let Some(other) = seen.tokens.insert(hash, self.name.clone()) {
                return Err(self.wrong(place, format_args!("tokens: the token is one of {other}, too")));
            }
            tokens.push(hash);
        }
        if tokens.len() > TOKENS {
            return Err(self.wrong(value.span().start, format_args!("tokens: there are over {TOKENS}")));
        }
        Ok(tokens)
    }

    fn certificate(&self, seen: &mut UniqueValues) -> Result<Option<ConfiguredCertificateName>, FileError> {
        let Some(value) = self.field("certificate") else { return Ok(None) };
        let (place, text) = (value.span().start, self.text("certificate", value)?);
        if text.is_empty() || text.len() > CERTIFICATE_BYTES || text.chars().any(char::is_control) {
            let text = format!("certificate: has to be 1 to {CERTIFICATE_BYTES} bytes of a name, on one line");
            return Err(self.wrong(place, text));
        }
        if let Some(other) = seen.certificates.insert(text.to_owned(), self.name.clone()) {
            return Err(self.wrong(place, format_args!("certificate: the same name stands for {other}")));
        }
        Ok(Some(ConfiguredCertificateName::parse(text)))
    }

    fn not_after(&self) -> Result<Option<Timestamp>, FileError> {
        let Some(value) = self.field("not_after") else { return Ok(None) };
        // A TOML date-time, without quotes and with an offset.
        let time = value.get_ref().as_datetime().map(ToString::to_string);
        let time = time.and_then(|time| DateTime::parse_from_rfc3339(&time).ok());
        let time = time.ok_or_else(|| {
            let form = "has to be a date and time with its offset, unquoted, such as 2030-01-31T12:00:00Z";
            self.wrong(value.span().start, format_args!("not_after: {form}"))
        })?;
        Ok(Some(Timestamp::from_micros(time.timestamp_micros())))
    }
}

/// `sha256:` and 64 hexadecimal digits.
fn parse_hash(text: &str) -> Option<TokenHash> {
    let digits = text.strip_prefix(HASH_PREFIX)?;
    if digits.len() != 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(hash)
}

/// A hash in the form that the file has.
pub fn format_hash(hash: &TokenHash) -> String {
    use std::fmt::Write;
    let mut text = HASH_PREFIX.to_owned();
    for byte in hash {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
#[path = "principals_file_tests.rs"]
mod tests;
