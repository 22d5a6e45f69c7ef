//! Who said what: a flag wins over a variable, a variable over the file.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use toml::{Table, Value};

use super::{ConfigError, Origin, ServeArgs, args::KEYS, value::Parsed};

/// Looks up an environment variable.
pub(crate) type Environment<'a> = dyn Fn(&str) -> Option<OsString> + 'a;

/// All places that values come from.
pub(super) struct Sources<'a> {
    args: &'a ServeArgs,
    environment: &'a Environment<'a>,
    file: Option<(PathBuf, Table)>,
}

impl<'a> Sources<'a> {
    /// Reads the file, if `--config` or `SAGAD_CONFIG` names one, and refuses keys that mean nothing.
    pub(super) fn gather(args: &'a ServeArgs, environment: &'a Environment<'a>) -> Result<Self, ConfigError> {
        let mut sources = Sources { args, environment, file: None };
        let named = match &args.config {
            Some(file) => Some(file.clone()),
            None => sources.variable("config")?.map(|(_, file)| file.into()),
        };
        if let Some(file) = named {
            let table = read(&file)?;
            sources.file = Some((file, table));
        }
        Ok(sources)
    }

    /// The value of a key, from whoever may say it first.
    pub(super) fn read<T>(&self, key: &str, parse: impl Fn(&str) -> Parsed<T>) -> Result<Option<T>, ConfigError> {
        let Some((origin, value)) = self.find(key)? else { return Ok(None) };
        match parse(&value) {
            Ok(parsed) => Ok(Some(parsed)),
            Err(problem) => Err(ConfigError::Invalid { origin, value, problem }),
        }
    }

    fn find(&self, key: &str) -> Result<Option<(Origin, String)>, ConfigError> {
        if let Some(value) = self.args.given(key) {
            return Ok(Some((Origin::Flag(format!("--{}", key.replace('_', "-"))), value)));
        }
        if let Some(found) = self.variable(key)? {
            return Ok(Some(found));
        }
        let Some((file, table)) = &self.file else { return Ok(None) };
        let Some(value) = table.get(key) else { return Ok(None) };
        let origin = Origin::Key { file: file.clone(), key: key.to_owned() };
        match value {
            Value::String(text) => Ok(Some((origin, text.clone()))),
            Value::Integer(number) => Ok(Some((origin, number.to_string()))),
            Value::Boolean(flag) => Ok(Some((origin, flag.to_string()))),
            Value::Float(_) | Value::Datetime(_) | Value::Array(_) | Value::Table(_) => Err(ConfigError::Invalid {
                origin,
                value: value.to_string(),
                problem: format!("is a TOML {}; a string, an integer or a boolean is needed", value.type_str()),
            }),
        }
    }

    /// A variable that is set and not empty: an empty one is how a container's environment says nothing.
    fn variable(&self, key: &str) -> Result<Option<(Origin, String)>, ConfigError> {
        let variable = format!("SAGAD_{}", key.to_uppercase());
        match (self.environment)(&variable).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(value)) if value.is_empty() => Ok(None),
            Some(Ok(value)) => Ok(Some((Origin::Variable(variable), value))),
            Some(Err(_)) => Err(ConfigError::NotText { variable }),
        }
    }
}

fn read(file: &Path) -> Result<Table, ConfigError> {
    let text =
        std::fs::read_to_string(file).map_err(|source| ConfigError::Unreadable { file: file.to_owned(), source })?;
    let table: Table = text.parse().map_err(|error: toml::de::Error| ConfigError::Malformed {
        file: file.to_owned(),
        problem: error.to_string().trim_end().to_owned(),
    })?;
    match table.keys().find(|key| !KEYS.contains(&key.as_str())) {
        None => Ok(table),
        Some(key) => Err(ConfigError::UnknownKey { file: file.to_owned(), key: key.clone(), known: KEYS.join(", ") }),
    }
}
