//! `sagad top`: a live screen of queues, leases and stale sagas, with an operator's actions on keys.
//!
//! # Parts and data flow
//!
//! The state and the drawing are pure functions, so that tests need neither a terminal nor a coordinator. What happens arrives
//! as a [`Message`], in one channel. [`Model::update`] takes it and returns [`Effect`]s, which [`live`] carries out.
//!
//! ```text
//!  thread: screen::read_keys ────── keys, pasted text ─────┐
//!  task: signals ────────────────── Terminate ─────────────┤
//!  task: server::poll_snapshots ─── Fetched, FetchFailed ──┼─► Model::update ─► Effect::Fetch ─► poll_snapshots: a new Query
//!  task: server::count_events ───── Counted, each second ──┤        │           Effect::Send ──► task: server::send_action
//!  task: server::send_action ────── Answered ──────────────┘        │           Effect::Leave ─► the end
//!                                                                   ▼
//!                                                  draw::draw(&Model) ─► Screen ─► the terminal
//! ```
//!
//! | file | subject |
//! |---|---|
//! | `model`, `key_bindings` | [`Model`], the state of the screen, and what each key does to it |
//! | `action_dialog`, `operator_action` | the dialog of one action: target, reason, request, confirmation, answer; the requests |
//! | `query`, `snapshot`, `rates` | what is fetched: the [`Query`], its answer, and events per second by queue |
//! | `selection`, `sort` | the selected row, which is found by its name after each snapshot; the order of rows |
//! | `draw` | the screen from the model: a file for each part of the screen |
//! | `server` | all calls to the coordinator |
//! | `screen` | the terminal in full-screen mode, restored on every way out; its keys |
//! | `once` | `--once`: one screen as text or JSON, without a terminal |
//!
//! # Rules
//!
//! - An action is sent once, after its request was shown and confirmed. If the answer is lost, only the user sends it again, with
//!   the same `request_id`.
//! - A saga that left the page is not replaced by its neighbour as the target of the next key.
//! - Times left are measured by the coordinator's clock ([`snapshot::ServerClock`]), never by this machine's wall clock.
//!
//! # Bounds
//!
//! A page has 200 sagas; a search reads at most 5,000 per page. A detail view has the last 500 of at most 5,000 events. Rates are
//! kept for 1,000 queues and 5 seconds. 64 messages wait for the screen; then their senders wait. A snapshot is fetched at most
//! every 100 ms.

mod action_dialog;
mod draw;
mod key_bindings;
mod model;
mod once;
mod operator_action;
mod query;
mod rates;
mod screen;
mod selection;
mod server;
mod snapshot;
mod sort;

use std::time::Duration;

use clap::Args;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

use super::{
    args::{self, ActorArg},
    context::Context,
    errors::CliError,
    output::{Format, notice},
};
use crate::client::time;
use action_dialog::DialogStage;
use draw::Theme;
use model::{Effect, Message, Model, Settings};
use query::{Query, View};
use screen::Screen;

/// How often the times on the screen are updated.
const TICK: Duration = Duration::from_millis(250);
/// Most messages that wait for the screen; further senders wait.
const MESSAGES: usize = 64;
/// The shortest interval: each snapshot reads the counts and a page.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// The longest: a screen that is older shows another day.
const INTERVAL_MAX: Duration = Duration::from_secs(24 * 3600);

/// What `top` takes.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sagad top\n  sagad top --queue builds --view stale\n  sagad top --read-only --interval 5s\n  \
                        sagad top --once\n  sagad top --once -o json | jq .stats.stale\n\n\
                        Keys: ? shows them. Each action asks for a reason, shows the request that it will send, and has\n\
                        to be confirmed: with a y, or with the saga's id if a live worker loses its lease. The times\n\
                        left of leases are by the server's clock. NO_COLOR turns colours off; in a locale that is\n\
                        not UTF-8 the screen is ASCII.\n\n\
                        Exit codes: 0 ended by a key, 2 there is no terminal; with --once those of the other commands."
)]
pub struct TopArgs {
    /// Only these queues; repeatable, or separated by commas.
    #[arg(long = "queue", value_delimiter = ',', value_name = "QUEUE")]
    queues: Vec<String>,
    /// Which sagas to begin with.
    #[arg(long, value_enum, default_value = "running")]
    view: View,
    /// How often to look at the server, 100ms to 24h.
    #[arg(long, default_value = "1s", value_name = "DURATION", value_parser = interval)]
    interval: Duration,
    /// Disable the keys that change something.
    #[arg(long)]
    read_only: bool,
    /// Print one screen as text, or with `-o json` what is on it, and end.
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    actor: ActorArg,
}

fn interval(text: &str) -> Result<Duration, String> {
    args::between(text, INTERVAL_MIN, INTERVAL_MAX)
}

/// Shows the screen until the user leaves it.
pub async fn run(context: &Context, args: TopArgs) -> Result<(), CliError> {
    let server = context.client.server().to_owned();
    let settings = Settings { server, actor: args.actor.or_me(), read_only: args.read_only };
    let query = Query { view: args.view, queues: args.queues, ..Query::default() };
    let model = Model::new(settings, query, time::now());
    if args.once {
        let snapshot = server::fetch_snapshot(&context.client, &model.query).await?;
        return once::print(&context.output, model, snapshot);
    }
    if context.output.format() == Format::Json {
        return Err(CliError::Usage(
            "-o json goes with --once; a stream of events is `sagad watch -o json`".to_owned(),
        ));
    }
    if !screen::has_terminal() {
        let told = "top needs a terminal; without one: `sagad stats`, `sagad list`, or `sagad top --once`";
        return Err(CliError::Usage(told.to_owned()));
    }
    live(context, model, args.interval).await
}

async fn live(context: &Context, mut model: Model, interval: Duration) -> Result<(), CliError> {
    let theme = Theme::here();
    let (sender, mut messages) = mpsc::channel(MESSAGES);
    let (queries, asked) = watch::channel(model.query.clone());
    end_on_signals(&sender)?;
    let mut screen = Screen::take()?;
    screen::read_keys(sender.clone());
    tokio::spawn(server::poll_snapshots(context.client.clone(), asked, interval, sender.clone()));
    tokio::spawn(server::count_events(context.client.clone(), model.query.queues.clone(), sender.clone()));
    let mut on = true;
    while on {
        screen.show(&model, theme)?;
        let mut next = tokio::select! {
            message = messages.recv() => message,
            () = tokio::time::sleep(TICK) => Some(Message::Tick),
        };
        // All that has come is taken in before it is drawn again.
        while let Some(message) = next {
            for effect in model.update(time::now(), message) {
                match effect {
                    Effect::Fetch(query) => drop(queries.send_replace(query)),
                    Effect::Send(action) => {
                        let (client, sender) = (context.client.clone(), sender.clone());
                        tokio::spawn(async move {
                            sender.send(Message::Answered(server::send_action(&client, *action).await)).await
                        });
                    }
                    Effect::Leave => on = false,
                }
            }
            next = messages.try_recv().ok();
        }
    }
    drop(screen);
    report_unanswered(&model);
    Ok(())
}

/// Ends the screen on the signals that end processes.
fn end_on_signals(sender: &mpsc::Sender<Message>) -> Result<(), CliError> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup(), SignalKind::quit()] {
        let (mut signals, sender) = (signal(kind)?, sender.clone());
        tokio::spawn(async move {
            signals.recv().await;
            sender.send(Message::Terminate).await.ok();
        });
    }
    Ok(())
}

/// If the user leaves before an answer came, says what may have been done.
fn report_unanswered(model: &Model) {
    let Some(dialog) = &model.dialog else { return };
    match dialog.stage {
        DialogStage::Sending | DialogStage::Unknown(_) => {
            if let Ok((rpc, request)) = dialog.request().rendered() {
                notice(&format!("there was no answer to this {rpc}, which may have been done: {request}"));
            }
        }
        DialogStage::Decision
        | DialogStage::Position
        | DialogStage::Reason
        | DialogStage::Confirm(_)
        | DialogStage::Refused(_) => {}
    }
}
