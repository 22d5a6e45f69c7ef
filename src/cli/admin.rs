//! The verbs of `AdminService`: queues that are paused and resumed, old sagas purged, the server described.

use std::{
    io::{self, BufRead, IsTerminal, Read, Write},
    time::Duration,
};

use clap::Args;

use super::{
    args::{self, ActorArg, contract_values},
    context::Context,
    errors::CliError,
    output::{Cell, Columns, Format, alarming, fine, notice},
    tables::NamedValues,
    text::{counted, exact, length, or_dash, printable, stamp, when},
};
use crate::{
    client::convert::{from_proto, to_proto},
    proto::{
        Bound, GetServerInfoRequest, GetServerInfoResponse, ListQueuesRequest, PauseQueueRequest, PurgeSagasRequest,
        PurgeSagasResponse, Queue, ResumeQueueRequest, SagaState,
    },
};

/// Longest answer that is read from a terminal: a yes or a no.
const ANSWER_BYTES: u64 = 64;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sagad queues")]
pub struct QueuesArgs {}

const QUEUE_COLUMNS: Columns =
    Columns { names: &["QUEUE", "STATE", "SINCE", "BY", "REASON"], spare: &["SINCE", "BY", "REASON"] };

/// Lists queues.
pub async fn queues(context: &Context, _: QueuesArgs) -> Result<(), CliError> {
    let mut request = ListQueuesRequest::default();
    let mut is_first = true;
    loop {
        let page = context.admin(request, |mut c, r| async move { c.list_queues(r).await }).await?;
        if !page.queues.is_empty() {
            context.output.rows(&page.queues, &QUEUE_COLUMNS, is_first, queue_row)?;
            is_first = false;
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request = ListQueuesRequest { page_token: page.next_page_token, ..ListQueuesRequest::default() };
    }
    if is_first && context.output.format() == Format::Text {
        notice("no queues yet");
    }
    Ok(())
}

fn queue_row(queue: &Queue) -> Vec<Cell> {
    vec![
        Cell::new(printable(&queue.queue)),
        if queue.paused { alarming("paused".to_owned()) } else { fine("open".to_owned()) },
        Cell::new(stamp(queue.change_time.as_ref())),
        Cell::new(or_dash(&queue.actor)),
        Cell::new(or_dash(&queue.reason)),
    ]
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sagad pause builds --reason 'the registry is down'\n  \
                  sagad pause next-week --create --reason 'not before monday'\n\n\
                  Claims by id, heartbeats and policies are not affected.")]
pub struct PauseArgs {
    /// The queue.
    queue: String,
    /// Pause it even if it never had a saga; sagas that are created in it wait.
    #[arg(long)]
    create: bool,
    /// Why.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    actor: ActorArg,
}

/// Stops handing out a queue's sagas.
pub async fn pause(context: &Context, args: PauseArgs) -> Result<(), CliError> {
    let must_exist = !args.create;
    let request = PauseQueueRequest { queue: args.queue, actor: args.actor.or_me(), reason: args.reason, must_exist };
    let answer = context.admin(request, |mut c, r| async move { c.pause_queue(r).await }).await;
    let answer = answer.map_err(|error| no_such_queue(error, "; --create pauses it all the same"))?;
    context.output.message(&answer.queue.unwrap_or_default(), queue_line)
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sagad resume builds --reason 'the registry is back'")]
pub struct ResumeArgs {
    /// The queue.
    queue: String,
    /// Why.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    actor: ActorArg,
}

/// Hands out a queue's sagas again.
pub async fn resume(context: &Context, args: ResumeArgs) -> Result<(), CliError> {
    let request =
        ResumeQueueRequest { queue: args.queue, actor: args.actor.or_me(), reason: args.reason, must_exist: true };
    let answer = context.admin(request, |mut c, r| async move { c.resume_queue(r).await }).await;
    let answer = answer.map_err(|error| no_such_queue(error, ""))?;
    context.output.message(&answer.queue.unwrap_or_default(), queue_line)
}

/// The coordinator's error about a queue that is not there, with what can be done from here.
fn no_such_queue(error: CliError, hint: &str) -> CliError {
    match error {
        CliError::Call { mut refusal, request_id } if refusal.is("QUEUE_NOT_FOUND") => {
            let queue = refusal.metadata.remove("queue").unwrap_or_default();
            refusal.message = format!("the queue {queue} never had a saga and was never paused: check its name{hint}");
            CliError::Call { refusal, request_id }
        }
        other => other,
    }
}

fn queue_line(queue: &Queue) -> String {
    format!("{}  {}", printable(&queue.queue), if queue.paused { "paused" } else { "open" })
}

contract_values! {
    /// A terminal state.
    TerminalState => SagaState {
        Completed,
        Failed,
        Compensated,
        Quarantined,
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sagad purge --state completed,compensated --older-than 30days --reason 'retention' --dry-run\n  \
                        sagad purge --state completed --older-than 30days --reason 'retention' --yes\n\n\
                        Purged sagas and their histories can't be recovered. On a terminal the command says how many they\n\
                        are, and asks; elsewhere it needs --yes."
)]
pub struct PurgeArgs {
    /// In these terminal states; repeatable, or separated by commas.
    #[arg(long = "state", value_enum, value_delimiter = ',', required = true)]
    states: Vec<TerminalState>,
    /// Only sagas that have not changed for this long.
    #[arg(long, value_name = "DURATION", value_parser = args::duration)]
    older_than: Duration,
    /// How many at most [default: all]
    #[arg(long, value_name = "COUNT", value_parser = args::count)]
    max: Option<i32>,
    /// Why, for the coordinator's log.
    #[arg(long)]
    reason: String,
    /// Only count them.
    #[arg(long)]
    dry_run: bool,
    /// Don't ask for confirmation.
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    #[command(flatten)]
    actor: ActorArg,
}

/// Removes old terminal sagas, in the coordinator's steps.
pub async fn purge(context: &Context, args: PurgeArgs) -> Result<(), CliError> {
    let mut request = PurgeSagasRequest {
        states: args.states.into_iter().map(|state| SagaState::from(state).into()).collect(),
        older_than: Some(to_proto(args.older_than)),
        max_sagas: args.max.unwrap_or_default(),
        actor: args.actor.or_me(),
        reason: args.reason,
        validate_only: args.dry_run,
    };
    if !args.dry_run && !args.yes && !confirmed(context, &request).await? {
        return Err(CliError::Failed("nothing was purged".to_owned()));
    }
    let mut total = PurgeSagasResponse::default();
    loop {
        let step = context.admin(request.clone(), |mut c, r| async move { c.purge_sagas(r).await }).await?;
        total.purged_sagas = total.purged_sagas.saturating_add(step.purged_sagas);
        total.purged_events = total.purged_events.saturating_add(step.purged_events);
        total.more = step.more;
        let left = args.max.map(|max| i64::from(max).saturating_sub(total.purged_sagas));
        // A step that removed nothing would be followed by another such step.
        if !step.more || args.dry_run || step.purged_sagas == 0 || left.is_some_and(|left| left <= 0) {
            break;
        }
        request.max_sagas = left.and_then(|left| i32::try_from(left).ok()).unwrap_or_default();
    }
    context.output.message(&total, |total| {
        let verb = if args.dry_run { "would purge" } else { "purged" };
        format!("{verb} {}", amount(total))
    })
}

fn amount(total: &PurgeSagasResponse) -> String {
    let more = if total.more { ", and there are more" } else { "" };
    format!("{} and {}{more}", counted(total.purged_sagas, "saga"), counted(total.purged_events, "event"))
}

/// Says what would be purged, and asks whoever sits at the terminal.
async fn confirmed(context: &Context, request: &PurgeSagasRequest) -> Result<bool, CliError> {
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        let told =
            "purged sagas can't be recovered: add --yes to purge without a question, or --dry-run to count them first";
        return Err(CliError::Usage(told.to_owned()));
    }
    let request = PurgeSagasRequest { validate_only: true, ..request.clone() };
    let total = context.admin(request, |mut c, r| async move { c.purge_sagas(r).await }).await?;
    write!(io::stderr(), "sagad: purge {} for good? [y/N] ", amount(&total))?;
    let mut answer = String::new();
    io::stdin().lock().take(ANSWER_BYTES).read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sagad info\n  sagad info -o json | jq .bounds")]
pub struct InfoArgs {}

/// Describes the server.
pub async fn info(context: &Context, _: InfoArgs) -> Result<(), CliError> {
    let answer = context.admin(GetServerInfoRequest {}, |mut c, r| async move { c.get_server_info(r).await }).await?;
    context.output.message(&answer, info_text)?;
    match context.output.format() {
        Format::Json => Ok(()),
        Format::Text => {
            context.output.line("")?;
            context.output.tabulate(&answer.bounds, Some(&["BOUND", "VALUE", "MEANING"]), bound_row)
        }
    }
}

fn info_text(info: &GetServerInfoResponse) -> String {
    let mut facts = NamedValues::default();
    facts
        .add("version", printable(&info.version))
        .add("store", printable(&info.store))
        .add("started", info.start_time.as_ref().map(when).unwrap_or_default())
        .add("clock", clock(info))
        .add("restart grace", info.restart_grace.as_ref().map(|grace| length(from_proto(grace))).unwrap_or_default());
    facts.text()
}

fn bound_row(bound: &Bound) -> Vec<Cell> {
    vec![Cell::new(printable(&bound.name)), Cell::new(bound_value(bound)), Cell::new(printable(&bound.meaning))]
}

/// A bound as people read it: `24h`, `64 KiB`, `1000`.
fn bound_value(bound: &Bound) -> String {
    const UNITS: [(i64, &str); 2] = [(1 << 20, "MiB"), (1 << 10, "KiB")];
    match bound.unit.as_str() {
        "microseconds" => exact(Duration::from_micros(u64::try_from(bound.value).unwrap_or(0))),
        "bytes" => {
            let unit = UNITS.iter().find(|(size, _)| bound.value >= *size && bound.value % size == 0);
            unit.map_or_else(
                || format!("{} bytes", bound.value),
                |(size, name)| format!("{} {name}", bound.value / size),
            )
        }
        "count" => bound.value.to_string(),
        other => format!("{} {}", bound.value, printable(other)),
    }
}

fn clock(info: &GetServerInfoResponse) -> String {
    let offset = info.clock_offset.as_ref().map(|length| format!(" ({} from UTC)", offset(length)));
    stamp(info.current_time.as_ref()) + &offset.unwrap_or_default()
}

/// A signed length: the coordinator's clock may be ahead of UTC or behind it.
fn offset(offset: &prost_types::Duration) -> String {
    let behind = offset.seconds < 0 || offset.nanos < 0;
    let size = prost_types::Duration { seconds: offset.seconds.saturating_abs(), nanos: offset.nanos.saturating_abs() };
    format!("{}{}", if behind { "-" } else { "" }, length(from_proto(&size)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_negative_clock_offset_has_a_minus_sign() {
        assert_eq!(offset(&prost_types::Duration { seconds: -2, nanos: 0 }), "-2s");
        assert_eq!(offset(&prost_types::Duration { seconds: 0, nanos: 5_000_000 }), "5ms");
    }

    #[test]
    fn bounds_are_shown_in_readable_units() {
        let told = |value, unit: &str| bound_value(&Bound { value, unit: unit.to_owned(), ..Bound::default() });
        assert_eq!(told(86_400_000_000, "microseconds"), "1d");
        assert_eq!(told(65_536, "bytes"), "64 KiB");
        assert_eq!(told(200, "bytes"), "200 bytes");
        assert_eq!(told(1_000, "count"), "1000");
    }
}
