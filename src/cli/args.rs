//! Values and groups of arguments that several commands share.

use std::{collections::BTreeMap, fs::File, io::Read, time::Duration};

use bytes::Bytes;
use clap::Args;
use uuid::Uuid;

use super::{actor, errors::CliError};
use crate::{
    client::{ClientOptions, LeaseKey},
    proto::{CompensationSpec, LeasePurpose, SagaState},
};

/// The longest length of time that is taken: more than anybody waits for, and the sum of several fits into every clock,
/// timer and header.
const DURATION_MAX: Duration = Duration::from_secs(100 * 366 * 24 * 3600);

/// The longest that one call may take, and the shortest: longer ones are watches, and in less not even this machine answers.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);
const TIMEOUT_MIN: Duration = Duration::from_millis(1);

/// The most that is read as a payload, a result or progress. The coordinator takes less, and says how much.
const CONTENT_BYTES: u64 = 4 << 20;

/// Makes an enum of the values of an option. Each stands for the value of the same name in the contract.
macro_rules! contract_values {
    ($(#[$doc:meta])* $name:ident => $contract:ident { $($(#[$help:meta])* $value:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
        pub enum $name {
            $($(#[$help])* $value,)*
        }

        impl From<$name> for $contract {
            fn from(value: $name) -> Self {
                match value {
                    $($name::$value => $contract::$value,)*
                }
            }
        }
    };
}
pub(super) use contract_values;

/// A length such as `30s`, `5m`, `1h30m`, `250ms`, of 100 years at most.
pub fn duration(text: &str) -> Result<Duration, String> {
    let length = humantime::parse_duration(text).map_err(|error| format!("{error} (write it as 30s, 5m or 1h30m)"))?;
    if length > DURATION_MAX { Err("is more than 100 years".to_owned()) } else { Ok(length) }
}

/// How long a call may take.
pub fn timeout(text: &str) -> Result<Duration, String> {
    between(text, TIMEOUT_MIN, TIMEOUT_MAX)
}

/// A length within bounds, both included.
pub fn between(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let told = |length: Duration| humantime::format_duration(length).to_string();
    match duration(text)? {
        length if length < least => Err(format!("is less than {}", told(least))),
        length if length > most => Err(format!("is more than {}", told(most))),
        length => Ok(length),
    }
}

/// A count of at least 1. In the contract 0 is "as by default", and whoever writes 0 does not mean that.
pub fn count(text: &str) -> Result<i32, String> {
    match text.parse() {
        Ok(count) if count >= 1 => Ok(count),
        Ok(_) | Err(_) => Err("write a number of at least 1".to_owned()),
    }
}

/// `KEY=VALUE`; the value may be empty.
pub fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err("write it as KEY=VALUE".to_owned()),
    }
}

/// `KIND=TARGET`, neither empty. The target may contain further `=`.
pub fn kind_target(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((kind, target)) if !kind.is_empty() && !target.is_empty() => Ok((kind.to_owned(), target.to_owned())),
        Some(_) | None => Err("write it as KIND=TARGET".to_owned()),
    }
}

/// The compensations of `--compensate`, all with the same reason.
pub fn compensations(given: Vec<(String, String)>, reason: &str) -> Vec<CompensationSpec> {
    given.into_iter().map(|(kind, target)| CompensationSpec { kind, target, reason: reason.to_owned() }).collect()
}

/// Labels or details; of a repeated key the last counts.
pub fn map(given: Vec<(String, String)>) -> BTreeMap<String, String> {
    given.into_iter().collect()
}

/// Bytes given as text, as `@FILE`, or as `@-` for standard input. A text that begins with `@` is written `@@…`.
pub fn content(text: Option<String>) -> Result<Bytes, CliError> {
    let Some(text) = text else { return Ok(Bytes::new()) };
    let Some(path) = text.strip_prefix('@') else { return Ok(Bytes::from(text)) };
    if path.starts_with('@') {
        return Ok(Bytes::from(path.to_owned()));
    }
    let mut bytes = Vec::new();
    let read = match path {
        "-" => std::io::stdin().take(CONTENT_BYTES + 1).read_to_end(&mut bytes),
        path => File::open(path).and_then(|file| file.take(CONTENT_BYTES + 1).read_to_end(&mut bytes)),
    };
    match read {
        Err(error) => Err(CliError::Usage(format!("can't read {path}: {error}"))),
        Ok(length) if length as u64 > CONTENT_BYTES => {
            Err(CliError::Usage(format!("{path} has more than {} MiB", CONTENT_BYTES >> 20)))
        }
        Ok(_) => Ok(Bytes::from(bytes)),
    }
}

/// The id that makes a change safe to repeat.
#[derive(Clone, Debug, Args)]
pub struct RequestIdArg {
    /// A UUID that makes the call safe to repeat for an hour: the same id changes nothing twice [default: a new one]
    #[arg(long, value_name = "UUID")]
    request_id: Option<Uuid>,
}

impl RequestIdArg {
    /// The given one.
    pub fn given(&self) -> Option<Uuid> {
        self.request_id
    }

    /// The given one, or a new one.
    pub fn or_new(&self) -> String {
        self.request_id.unwrap_or_else(Uuid::new_v4).to_string()
    }
}

/// Which lease a call is made under. `sagad work` sets the variables for the command that it runs.
#[derive(Clone, Debug, Args)]
pub struct LeaseArgs {
    /// The saga's task id.
    #[arg(value_name = "ID", env = "SAGAD_TASK_ID")]
    task_id: String,
    /// Who holds the lease.
    #[arg(long, env = "SAGAD_OWNER", value_name = "ID")]
    owner: String,
    /// The lease's fencing token.
    #[arg(long, env = "SAGAD_TOKEN")]
    token: i64,
}

impl LeaseArgs {
    /// The key of that lease.
    pub fn key(self) -> LeaseKey {
        LeaseKey { task_id: self.task_id, owner_id: self.owner, fencing_token: self.token }
    }
}

/// What a worker takes, whatever it does with the sagas.
#[derive(Clone, Debug, Args)]
pub struct WorkerArgs {
    /// The queues to claim from; repeatable, or separated by commas.
    #[arg(long = "queue", value_delimiter = ',', required = true, value_name = "QUEUE")]
    pub queues: Vec<String>,
    /// The id of this worker, which no other worker has [default: a name for this process, after the token's principal]
    #[arg(long, value_name = "ID")]
    owner: Option<String>,
    /// The length of leases. This long after a worker dies, its saga is stale, and its policy or a person decides.
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = duration)]
    pub ttl: Duration,
    /// How long a command that has to end has between TERM and KILL.
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = duration)]
    pub kill_after: Duration,
}

impl WorkerArgs {
    /// The given owner, or a name for this process: below the principal that the token names, as the coordinator wants it.
    pub fn owner(&self, options: &ClientOptions) -> String {
        self.owner.clone().unwrap_or_else(|| match options.principal() {
            Some(principal) => format!("{principal}/{}", actor::worker()),
            None => actor::worker(),
        })
    }
}

/// A person's decision on a saga, for the history.
#[derive(Clone, Debug, Args)]
pub struct DecisionArgs {
    /// The saga's task id.
    #[arg(value_name = "ID")]
    pub task_id: String,
    /// Why, for the history.
    #[arg(long)]
    pub reason: String,
    #[command(flatten)]
    pub actor: ActorArg,
    #[command(flatten)]
    pub request_id: RequestIdArg,
}

/// Who decided, for the history.
#[derive(Clone, Debug, Args)]
pub struct ActorArg {
    /// Who does this, for the history [default: USER@HOST]
    #[arg(long, env = "SAGAD_ACTOR")]
    actor: Option<String>,
}

impl ActorArg {
    /// The given one, or this user on this machine.
    pub fn or_me(&self) -> String {
        self.actor.clone().unwrap_or_else(actor::me)
    }
}

contract_values! {
    /// What a lease is for.
    Purpose => LeasePurpose {
        /// To do the work.
        Execute,
        /// To undo it.
        Compensate,
    }
}

contract_values! {
    /// A saga's state.
    State => SagaState {
        Planned,
        Dispatched,
        Running,
        Compensating,
        Completed,
        Failed,
        Compensated,
        Quarantined,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn durations_with_units_are_parsed_and_bounded() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5_400)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for wrong in ["30", "", "soon", "-1s", "9999999999999999999999s", "99999999999999h", "101y"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert!(duration("100y").is_ok());
        assert_eq!(timeout("25h"), Err("is more than 1day".to_owned()));
        assert_eq!(timeout("0s"), Err("is less than 1ms".to_owned()));
    }

    #[test]
    fn a_target_may_contain_equals_signs() {
        assert_eq!(kind_target("url=http://x/?a=b"), Ok(("url".to_owned(), "http://x/?a=b".to_owned())));
        for wrong in ["branch", "=x", "branch=", ""] {
            assert!(kind_target(wrong).is_err(), "{wrong}");
        }
        assert_eq!(key_value("k="), Ok(("k".to_owned(), String::new())));
    }

    #[test]
    fn content_is_text_or_a_file() {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(b"\x00\xff").expect("written");
        let read = |text: String| content(Some(text));
        assert_eq!(read("plain".to_owned()).expect("text"), "plain");
        assert_eq!(read("@@at".to_owned()).expect("text"), "@at");
        assert_eq!(read(format!("@{}", file.path().display())).expect("a file"), &b"\x00\xff"[..]);
        assert!(matches!(read("@/nowhere/at/all".to_owned()), Err(CliError::Usage(_))));
        assert!(
            matches!(read("@/dev/zero".to_owned()), Err(CliError::Usage(told)) if told.contains("more than 4 MiB"))
        );
        assert!(content(None).expect("nothing").is_empty());
    }
}
