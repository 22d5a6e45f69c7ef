//! The sources of values: a flag overrides a variable, a variable overrides the file.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    path::PathBuf,
};

use toml::{Spanned, Value};

use super::{
    ConfigError, Origin, ServeArgs, Setting, SettingValue,
    args::KEYS,
    setting::{HIDDEN, SECRETS},
    value::{self, Parsed},
};

/// Looks up an environment variable.
pub(crate) type Environment<'a> = dyn Fn(&str) -> Option<OsString> + 'a;

/// All sources of values, and the values found there.
pub(super) struct Sources<'a> {
    args: &'a ServeArgs,
    environment: &'a Environment<'a>,
    file: Option<File>,
    secrets: &'a [&'a str],
    settings: RefCell<Vec<Setting>>,
    /// Keys whose value is known to be invalid: their defaults are used, so that the rest can be checked.
    passed_over: BTreeSet<&'static str>,
}

/// The configuration file: its keys and their positions.
struct File {
    path: PathBuf,
    text: String,
    table: BTreeMap<Spanned<String>, Value>,
}

impl<'a> Sources<'a> {
    /// Reads the file that `--config` or `SAGAD_CONFIG` names, if any.
    pub(super) fn gather(args: &'a ServeArgs, environment: &'a Environment<'a>) -> Result<Self, ConfigError> {
        let settings = RefCell::new(Vec::with_capacity(KEYS.len()));
        let passed_over = BTreeSet::new();
        let mut sources = Sources { args, environment, file: None, secrets: SECRETS, settings, passed_over };
        let named = match &args.config {
            Some(file) => Some(file.clone()),
            None => sources.variable("config")?.map(|(_, file)| file.into()),
        };
        if let Some(file) = named {
            sources.file = Some(read(file)?);
        }
        Ok(sources)
    }

    /// Reads a key from the first source that has it, and records the value and its source as a [`Setting`].
    pub(super) fn read<T>(
        &self,
        key: &'static str,
        default: T,
        parse: impl Fn(&str) -> Parsed<T>,
        show: impl Fn(&T) -> SettingValue,
    ) -> Result<T, ConfigError> {
        let secret = self.secrets.contains(&key);
        let (value, origin) = match self.find(key)? {
            None => (default, None),
            Some((origin, said)) => match parse(&said) {
                Ok(value) => (value, Some(origin)),
                Err(problem) => {
                    let value = if secret { HIDDEN.to_owned() } else { told(key, &said) };
                    return Err(ConfigError::Invalid { origin, value, problem });
                }
            },
        };
        let shown = (!secret).then(|| show(&value));
        self.settings.borrow_mut().push(Setting { key, value: shown, origin });
        Ok(value)
    }

    /// The unknown keys of the file.
    pub(super) fn unknown_keys(&self) -> Vec<ConfigError> {
        let Some(file) = &self.file else { return Vec::new() };
        let unknown = file.table.keys().filter(|key| !KEYS.contains(&key.get_ref().as_str()));
        let mut unknown: Vec<_> = unknown.map(|key| (file.line(key), key.get_ref())).collect();
        unknown.sort_unstable();
        let told = unknown.into_iter().map(|(line, key)| ConfigError::UnknownKey {
            file: file.path.clone(),
            key: key.clone(),
            line,
            hint: match meant(key) {
                Some(near) => format!("is {near} meant?"),
                None => format!("known: {}", KEYS.join(", ")),
            },
        });
        told.collect()
    }

    /// Ignores the value of a key from now on and forgets all values that were read; false if the key was ignored
    /// already.
    pub(super) fn pass_over(&mut self, key: &str) -> bool {
        self.settings.borrow_mut().clear();
        let key = KEYS.iter().find(|known| **known == key);
        key.is_some_and(|key| self.passed_over.insert(key))
    }

    /// The source of a key that was read.
    pub(super) fn origin(&self, key: &str) -> Option<Origin> {
        self.settings.borrow().iter().find(|setting| setting.key == key)?.origin.clone()
    }

    /// The file, if any, and all settings that were read, in the order of reading.
    pub(super) fn told(self) -> (Option<PathBuf>, Vec<Setting>) {
        (self.file.map(|file| file.path), self.settings.into_inner())
    }

    fn find(&self, key: &str) -> Result<Option<(Origin, String)>, ConfigError> {
        if self.passed_over.contains(key) {
            return Ok(None);
        }
        if let Some(value) = self.args.given(key) {
            return Ok(Some((Origin::Flag(format!("--{}", key.replace('_', "-"))), value)));
        }
        if let Some(found) = self.variable(key)? {
            return Ok(Some(found));
        }
        let Some(file) = &self.file else { return Ok(None) };
        let Some((at, value)) = file.table.get_key_value(key) else { return Ok(None) };
        let origin = Origin::Key { file: file.path.clone(), key: key.to_owned(), line: file.line(at) };
        match value {
            Value::String(text) => Ok(Some((origin, text.clone()))),
            Value::Integer(number) => Ok(Some((origin, number.to_string()))),
            Value::Boolean(flag) => Ok(Some((origin, flag.to_string()))),
            Value::Float(_) | Value::Datetime(_) | Value::Array(_) | Value::Table(_) => Err(ConfigError::Invalid {
                origin,
                value: if self.secrets.contains(&key) { HIDDEN.to_owned() } else { told(key, &value.to_string()) },
                problem: format!("is a TOML {}; a string, an integer or a boolean is needed", value.type_str()),
            }),
        }
    }

    /// A variable that is set and not empty: container environments leave a variable empty to mean unset.
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

/// How an error shows an invalid value. URLs may contain a password, which is also why such URLs are refused.
fn told(key: &str, value: &str) -> String {
    if key == "otlp_endpoint" { value::without_password(value) } else { value::without_passwords(value) }
}

fn read(path: PathBuf) -> Result<File, ConfigError> {
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(source) => return Err(ConfigError::Unreadable { file: path, source }),
    };
    let table: BTreeMap<Spanned<String>, Value> = match toml::from_str(&text) {
        Ok(table) => table,
        Err(error) => {
            // The message of the TOML parser quotes the line.
            let problem = value::without_passwords(error.to_string().trim_end());
            return Err(ConfigError::Malformed { file: path, problem });
        }
    };
    Ok(File { path, text, table })
}

impl File {
    /// The line of a key, from 1.
    fn line(&self, key: &Spanned<String>) -> usize {
        1 + self.text.bytes().take(key.span().start).filter(|byte| *byte == b'\n').count()
    }
}

/// The key that was probably meant: the same name with dashes, or one that differs by one or two letters.
fn meant(key: &str) -> Option<&'static str> {
    /// Edit distance: an inserted, missing, swapped or wrong letter counts as one.
    const SLIPS: usize = 2;
    let key = key.replace('-', "_").to_lowercase();
    let near = KEYS.iter().map(|known| (strsim::osa_distance(&key, known), *known)).min()?;
    (near.0 <= SLIPS).then_some(near.1)
}

#[cfg(test)]
mod tests {
    use super::{super::setting, *};

    #[test]
    fn a_secret_is_neither_shown_nor_told_by_an_error() {
        let args =
            ServeArgs { log: Some("hush".to_owned()), log_format: Some("hush".to_owned()), ..ServeArgs::default() };
        let mut sources = Sources::gather(&args, &|_| None).unwrap();
        sources.secrets = &["log", "log_format", "data"];
        assert_eq!(sources.read("log", String::new(), |text| Ok(text.to_owned()), setting::text).unwrap(), "hush");
        let error = sources.read("log_format", Default::default(), value::log_format, setting::log_format).unwrap_err();
        assert_eq!(error.to_string(), "--log-format: \"(secret)\" is neither text nor json");
        let table = toml::from_str("data = ['hush']").unwrap();
        sources.file = Some(File { path: "f".into(), text: String::new(), table });
        let error = sources.read("data", String::new(), |text| Ok(text.to_owned()), setting::text).unwrap_err();
        assert!(error.to_string().starts_with("data in f:1: \"(secret)\" is a TOML array"), "{error}");
        let (_, settings) = sources.told();
        assert!(settings.iter().all(|setting| setting.shown() == "(secret)") && settings.len() == 1, "{settings:?}");
    }
}
