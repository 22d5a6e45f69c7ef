//! What the worker and the watcher have in common: settings out of the environment, and events on stdout.

use std::{env, fmt::Display, io::Write, process::exit, time::Duration};

use sagad::client::{
    Client, Shutdown,
    connect::DEFAULT_SERVER,
    retry::{Again, Backoff},
    time,
};
use sagad::proto::GetStatsRequest;
use serde_json::{Value, json};

pub mod report;

/// The deadline of a call.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// The settings, with their defaults.
pub struct Settings {
    /// A client of the coordinator that was named.
    pub client: Client,
    /// The queues.
    pub queues: Vec<String>,
    /// The `owner_id` of leases, and the actor of decisions.
    pub owner_id: String,
    /// The leases' length.
    pub ttl: Duration,
    /// Where the watcher keeps its place.
    pub revision_file: Option<String>,
}

impl Settings {
    /// Reads them; a bad one ends the program with code 2. To be called within a tokio runtime.
    pub fn read() -> Self {
        let server = setting("SAGAD_SERVER").unwrap_or_else(|| DEFAULT_SERVER.to_owned());
        let client = Client::new(&server, CALL_TIMEOUT).unwrap_or_else(|error| wrong("SAGAD_SERVER", error));
        let queues: Vec<String> = setting("SAGAD_QUEUES")
            .unwrap_or_else(|| "default".to_owned())
            .split(',')
            .map(|queue| queue.trim().to_owned())
            .collect();
        if queues.iter().any(String::is_empty) {
            wrong("SAGAD_QUEUES", "it names queues, separated by commas");
        }
        let ttl = setting("SAGAD_TTL").unwrap_or_else(|| "30".to_owned());
        let ttl = ttl.parse().ok().filter(|seconds| (0.1..=86_400.0).contains(seconds));
        let ttl = ttl.unwrap_or_else(|| wrong("SAGAD_TTL", "it is a number of seconds, from 0.1 to 86400"));
        Settings {
            client,
            queues,
            owner_id: setting("SAGAD_OWNER").unwrap_or_else(|| format!("rust-{}-{}", host(), std::process::id())),
            ttl: Duration::from_secs_f64(ttl),
            revision_file: setting("SAGAD_REVISION_FILE"),
        }
    }

    /// Waits until the coordinator answers; false when the program was told to end before.
    pub async fn connect(&self, shutdown: &Shutdown) -> bool {
        let mut backoff = Backoff::default();
        loop {
            let soon = || time::now() + CALL_TIMEOUT;
            let ask = self.client.call(GetStatsRequest {}, Again::Unknown, soon, |mut sagas, request| async move {
                sagas.get_stats(request).await
            });
            let answered = async {
                let answered = ask.await.is_ok();
                if !answered {
                    tokio::time::sleep(backoff.delay()).await;
                }
                answered
            };
            tokio::select! {
                true = answered => return true,
                () = shutdown.drain.cancelled() => return false,
                else => {}
            }
        }
    }
}

/// SIGTERM and SIGINT, the first and the second, as switches.
pub fn shutdown() -> Shutdown {
    Shutdown::on_signals(|notice| eprintln!("{notice}")).unwrap_or_else(|error| {
        eprintln!("signals can't be listened for: {error}");
        exit(1)
    })
}

/// One event: a line of JSON on stdout, at once.
pub fn emit(event: &str, mut fields: Value) {
    fields["event"] = json!(event);
    let mut stdout = std::io::stdout().lock();
    // There is nowhere to complain to when stdout is gone, and the work is worth more than its events.
    writeln!(stdout, "{fields}").and_then(|()| stdout.flush()).ok();
}

/// An event about a saga; `fields` is an object.
pub fn emit_of(event: &str, task_id: &str, mut fields: Value) {
    fields["task_id"] = json!(task_id);
    emit(event, fields);
}

fn setting(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn wrong(name: &str, rule: impl Display) -> ! {
    eprintln!("{name}: {rule}");
    exit(2)
}

fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "host".to_owned() } else { name.to_owned() }
}
