//! What the worker and the watcher have in common: settings out of the environment, and events on stdout.

use std::{
    env,
    fmt::Display,
    io::Write,
    process::exit,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sagad::client::{
    Client, Shutdown, StatusDetails,
    connect::DEFAULT_SERVER,
    retry::{Backoff, RetryOn},
    time,
};
use sagad::proto::GetStatsRequest;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

pub mod report;

/// The deadline of a call.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// While the coordinator does not answer, that is said again after so long.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// The settings, with their defaults.
pub struct Settings {
    /// A client of the coordinator that was named.
    pub client: Client,
    /// Where it is told that this coordinator does not answer.
    pub outage: Arc<Outage>,
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
        let forms = "a length such as 30, 30s, 500ms, 2m or 1h, from 100ms to 24h";
        let ttl = length(&ttl).unwrap_or_else(|| wrong("SAGAD_TTL", format!("{ttl:?} is not {forms}")));
        Settings {
            client,
            outage: Arc::new(Outage { server, saying: Mutex::new(None) }),
            queues,
            owner_id: setting("SAGAD_OWNER").unwrap_or_else(|| format!("rust-{}-{}", host(), std::process::id())),
            ttl,
            revision_file: setting("SAGAD_REVISION_FILE"),
        }
    }

    /// Waits until the coordinator answers; false when the program was told to end before.
    pub async fn connect(&self, shutdown: &Shutdown) -> bool {
        let mut backoff = Backoff::default();
        loop {
            // Tried once: how often is decided here.
            let ask =
                self.client.call(GetStatsRequest {}, RetryOn::NotNow, time::now, |mut sagas, request| async move {
                    sagas.get_stats(request).await
                });
            let answered = tokio::select! {
                answered = ask => answered,
                () = shutdown.drain.cancelled() => return false,
            };
            let Err(status) = answered else {
                self.outage.over();
                return true;
            };
            self.outage.waiting(&StatusDetails::from(&status).message);
            tokio::select! {
                () = tokio::time::sleep(backoff.delay()) => {}
                () = shutdown.drain.cancelled() => return false,
            }
        }
    }
}

/// Says on stderr what is waited for while the coordinator does not answer: at once, then every ten seconds; and when it
/// answers.
pub struct Outage {
    server: String,
    saying: Mutex<Option<JoinHandle<()>>>,
}

impl Outage {
    /// A call was not answered, or not taken, and is tried again. To be called within a tokio runtime.
    pub fn waiting(&self, why: &str) {
        let mut saying = self.saying.lock().unwrap_or_else(PoisonError::into_inner);
        if saying.is_some() {
            return;
        }
        let line = format!("waiting for the coordinator at {}: {why}", self.server);
        *saying = Some(tokio::spawn(async move {
            loop {
                eprintln!("{line}");
                tokio::time::sleep(SAY_AGAIN).await;
            }
        }));
    }

    /// The coordinator has answered.
    pub fn over(&self) {
        if let Some(saying) = self.saying.lock().unwrap_or_else(PoisonError::into_inner).take() {
            saying.abort();
            eprintln!("the coordinator at {} answers", self.server);
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

/// A lease's length: a number with a unit, or without one, which is seconds.
fn length(text: &str) -> Option<Duration> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit_ms = match unit {
        "ms" => 1.0,
        "s" | "" => 1_000.0,
        "m" => 60_000.0,
        "h" => 3_600_000.0,
        _ => return None,
    };
    let ms = number.parse::<f64>().ok()? * unit_ms;
    (100.0..=86_400_000.0).contains(&ms).then(|| Duration::from_secs_f64(ms / 1_000.0))
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
