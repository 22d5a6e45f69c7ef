//! Who said what: a flag wins over a variable, a variable over the file, the file over the default.

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf};

use toml::Spanned;

use super::{
    ConfigError, Origin, ServeArgs, Setting, passwords,
    setting::{Kind, variable},
    settings,
    value::Value,
};

/// Looks up an environment variable.
pub(crate) type Environment<'a> = dyn Fn(&str) -> Option<OsString> + 'a;

/// All places that values come from.
pub(super) struct Sources<'a> {
    args: &'a ServeArgs,
    environment: &'a Environment<'a>,
    file: Option<File>,
}

/// The file: its keys with where they stand.
struct File {
    path: PathBuf,
    text: String,
    table: BTreeMap<Spanned<String>, toml::Value>,
}

/// A setting with its value in effect.
#[derive(Clone, Debug)]
pub struct EffectiveSetting {
    /// The setting.
    pub setting: &'static Setting,
    /// Its value.
    pub value: Value,
    /// Who said it; nobody: it is the default.
    pub origin: Option<Origin>,
}

/// All settings with their values in effect, in the order of their declarations.
#[derive(Clone, Debug)]
pub struct EffectiveSettings(Vec<EffectiveSetting>);

impl EffectiveSettings {
    /// All at their defaults.
    pub(super) fn defaults() -> Self {
        let default =
            |setting: &'static Setting| EffectiveSetting { setting, value: setting.default_value(), origin: None };
        EffectiveSettings(settings::all().map(default).collect())
    }

    /// The value of a setting, as the type that the program uses for its kind.
    pub(super) fn get<T: TryFrom<Value>>(&self, key: &str) -> T {
        let value = self.find(key).and_then(|found| T::try_from(found.value.clone()).ok());
        value.expect("a setting is read by its key, as the type of its kind: a test reads them all")
    }

    /// Who said the value of a setting.
    pub(super) fn origin(&self, key: &str) -> Option<Origin> {
        self.find(key)?.origin.clone()
    }

    /// One of them.
    pub(super) fn find(&self, key: &str) -> Option<&EffectiveSetting> {
        self.0.iter().find(|found| found.setting.key == key)
    }

    /// All of them.
    pub fn iter(&self) -> std::slice::Iter<'_, EffectiveSetting> {
        self.0.iter()
    }
}

impl<'a> Sources<'a> {
    /// Reads the file, if `--config` or `SAGAD_CONFIG` names one.
    pub(super) fn open(args: &'a ServeArgs, environment: &'a Environment<'a>) -> Result<Self, ConfigError> {
        let mut sources = Sources { args, environment, file: None };
        let named = match &args.config {
            Some(file) => Some(file.clone()),
            None => sources.variable("config")?.map(|(_, file)| file.into()),
        };
        if let Some(file) = named {
            sources.file = Some(read(file)?);
        }
        Ok(sources)
    }

    /// The file, if one was named.
    pub(super) fn file(&self) -> Option<&PathBuf> {
        self.file.as_ref().map(|file| &file.path)
    }

    /// The value of every setting, from whoever may say it first. Adds an error for each that can't be used; the default
    /// takes its place, so that the rest can be looked at.
    pub(super) fn settings(&self, errors: &mut Vec<ConfigError>) -> EffectiveSettings {
        let mut effective = EffectiveSettings::defaults();
        for one in &mut effective.0 {
            match self.value(one.setting) {
                Ok(None) => {}
                Ok(Some((origin, value))) => (one.value, one.origin) = (value, Some(origin)),
                Err(error) => errors.push(error),
            }
        }
        effective
    }

    /// The value that somebody gave, and who.
    fn value(&self, setting: &Setting) -> Result<Option<(Origin, Value)>, ConfigError> {
        let Some((origin, text)) = self.find(setting)? else { return Ok(None) };
        match setting.kind.parse(&text) {
            Ok(value) => Ok(Some((origin, value))),
            Err(problem) => Err(ConfigError::Invalid { origin, value: without_password(setting, &text), problem }),
        }
    }

    /// The file's keys that mean nothing, in the order of their lines.
    pub(super) fn unknown_keys(&self) -> Vec<ConfigError> {
        let Some(file) = &self.file else { return Vec::new() };
        let unknown = file.table.keys().filter(|key| settings::find(key.get_ref()).is_none());
        let mut unknown: Vec<_> = unknown.map(|key| (file.line(key), key.get_ref())).collect();
        unknown.sort_unstable();
        let told = unknown.into_iter().map(|(line, key)| ConfigError::UnknownKey {
            file: file.path.clone(),
            key: key.clone(),
            line,
            hint: match meant(key) {
                Some(near) => format!("is {near} meant?"),
                None => format!("known: {}", settings::all().map(|known| known.key).collect::<Vec<_>>().join(", ")),
            },
        });
        told.collect()
    }

    fn find(&self, setting: &Setting) -> Result<Option<(Origin, String)>, ConfigError> {
        let key = setting.key;
        if let Some(value) = self.args.given(key) {
            return Ok(Some((Origin::Flag(setting.flag()), value.clone())));
        }
        if let Some(found) = self.variable(key)? {
            return Ok(Some(found));
        }
        let Some(file) = &self.file else { return Ok(None) };
        let Some((at, value)) = file.table.get_key_value(key) else { return Ok(None) };
        let origin = Origin::Key { file: file.path.clone(), key: key.to_owned(), line: file.line(at) };
        match value {
            toml::Value::String(text) => Ok(Some((origin, text.clone()))),
            toml::Value::Integer(number) => Ok(Some((origin, number.to_string()))),
            toml::Value::Boolean(flag) => Ok(Some((origin, flag.to_string()))),
            toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => {
                Err(ConfigError::Invalid {
                    origin,
                    value: without_password(setting, &value.to_string()),
                    problem: format!("is a TOML {}; a string, an integer or a boolean is needed", value.type_str()),
                })
            }
        }
    }

    /// A variable that is set and not empty: an empty one is how a container's environment says nothing.
    fn variable(&self, key: &str) -> Result<Option<(Origin, String)>, ConfigError> {
        let variable = variable(key);
        match (self.environment)(&variable).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(value)) if value.is_empty() => Ok(None),
            Some(Ok(value)) => Ok(Some((Origin::Variable(variable), value))),
            Some(Err(_)) => Err(ConfigError::NotText { variable }),
        }
    }
}

/// What an error shows of a value that is refused. Addresses may have a password in them, which is why they are refused.
fn without_password(setting: &Setting, value: &str) -> String {
    if [Kind::Url, Kind::Store].contains(&setting.kind) {
        passwords::without_password(value)
    } else {
        passwords::without_passwords(value)
    }
}

fn read(path: PathBuf) -> Result<File, ConfigError> {
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(source) => return Err(ConfigError::Unreadable { file: path, source }),
    };
    let table: BTreeMap<Spanned<String>, toml::Value> = match toml::from_str(&text) {
        Ok(table) => table,
        Err(error) => {
            // It quotes the line.
            let problem = passwords::without_passwords(error.to_string().trim_end());
            return Err(ConfigError::Malformed { file: path, problem });
        }
    };
    Ok(File { path, text, table })
}

impl File {
    /// The line that a key begins on, from 1.
    fn line(&self, key: &Spanned<String>) -> usize {
        1 + self.text.bytes().take(key.span().start).filter(|byte| *byte == b'\n').count()
    }
}

/// The key that somebody may have meant: of this name but for dashes, or a slip or two away.
fn meant(key: &str) -> Option<&'static str> {
    /// An inserted, a missing, a swapped and a wrong letter are one each; more, and it is another word.
    const SLIPS: usize = 2;
    let key = key.replace('-', "_").to_lowercase();
    let near = settings::all().map(|known| (strsim::osa_distance(&key, known.key), known.key)).min()?;
    (near.0 <= SLIPS).then_some(near.1)
}
