//! The commands that look: `get`, `list`, `history`, `stats`.

use clap::Args;

use super::{
    args::{self, State},
    context::Context,
    errors::CliError,
    output::{Cell, Columns, Format, notice},
    tables,
    text::{counted, length, printable, total},
};
use crate::{
    client::convert,
    domain::bounds::PAGE_MAX,
    proto::{
        GetSagaRequest, GetStatsRequest, GetStatsResponse, ListEventsRequest, ListSagasRequest, QueueStats, SagaState,
    },
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sagad get fix-7\n  sagad get --saga-id release-12 -o json")]
pub struct GetArgs {
    /// The saga's task id.
    #[arg(value_name = "ID", required_unless_present = "saga_id", conflicts_with = "saga_id")]
    task_id: Option<String>,
    /// The saga id, instead of the task id.
    #[arg(long, value_name = "ID")]
    saga_id: Option<String>,
}

/// Shows one saga.
pub async fn get(context: &Context, args: GetArgs) -> Result<(), CliError> {
    let request =
        GetSagaRequest { task_id: args.task_id.unwrap_or_default(), saga_id: args.saga_id.unwrap_or_default() };
    let answer = context.call(request, |mut c, r| async move { c.get_saga(r).await }).await?;
    context.output.message(&answer.saga.unwrap_or_default(), tables::saga_in_full)
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sagad list --in-flight\n  sagad list --stale --queue builds\n  \
                        sagad list --state quarantined,failed --newest-first --limit 20\n  \
                        sagad list -o json | jq -r .taskId")]
pub struct ListArgs {
    /// Only in these states; repeatable, or separated by commas.
    #[arg(long = "state", value_enum, value_delimiter = ',')]
    states: Vec<State>,
    /// Only in these queues; repeatable, or separated by commas.
    #[arg(long = "queue", value_delimiter = ',', value_name = "QUEUE")]
    queues: Vec<String>,
    /// Only sagas whose current or last lease is this worker's.
    #[arg(long, value_name = "ID")]
    owner: Option<String>,
    /// Only with this label; repeatable, all must match.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = args::key_value)]
    labels: Vec<(String, String)>,
    /// Only about this issue.
    #[arg(long, allow_negative_numbers = true)]
    issue: Option<i64>,
    /// Only sagas whose lease ran out.
    #[arg(long)]
    stale: bool,
    /// Only sagas that are not terminal.
    #[arg(long)]
    in_flight: bool,
    /// Newest first.
    #[arg(long)]
    newest_first: bool,
    /// How many at most [default: all]
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
}

/// Lists sagas, page by page.
pub async fn list(context: &Context, args: ListArgs) -> Result<(), CliError> {
    let mut left = args.limit.unwrap_or(usize::MAX);
    let mut request = ListSagasRequest {
        states: args.states.into_iter().map(|state| SagaState::from(state).into()).collect(),
        queues: args.queues,
        owner_id: args.owner.unwrap_or_default(),
        labels: args::map(args.labels),
        issue: args.issue,
        stale_only: args.stale,
        in_flight_only: args.in_flight,
        newest_first: args.newest_first,
        page_size: 0,
        page_token: String::new(),
    };
    let mut first = true;
    while left > 0 {
        request.page_size = i32::try_from(left.min(PAGE_MAX)).unwrap_or(0);
        let page = context.call(request.clone(), |mut c, r| async move { c.list_sagas(r).await }).await?;
        let shown = &page.sagas[..page.sagas.len().min(left)];
        left -= shown.len();
        if !shown.is_empty() {
            context.output.rows(shown, &tables::SAGA_COLUMNS, std::mem::take(&mut first), tables::saga_row)?;
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    if first && context.output.format() == Format::Text && args.limit != Some(0) {
        notice("no sagas match");
    }
    Ok(())
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sagad history fix-7\n  sagad history fix-7 -o json | jq -r .reason")]
pub struct HistoryArgs {
    /// The saga's task id.
    #[arg(value_name = "ID")]
    task_id: String,
}

/// Shows all that happened to a saga, the oldest first.
pub async fn history(context: &Context, args: HistoryArgs) -> Result<(), CliError> {
    let page_size = i32::try_from(PAGE_MAX).unwrap_or(0);
    let mut request = ListEventsRequest { task_id: args.task_id, page_size, page_token: String::new() };
    loop {
        let page = context.call(request.clone(), |mut c, r| async move { c.list_events(r).await }).await?;
        for event in &page.events {
            context.output.parts(event, tables::history_parts)?;
        }
        if page.next_page_token.is_empty() {
            return Ok(());
        }
        request.page_token = page.next_page_token;
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sagad stats\n  sagad stats -o json | jq .queues")]
pub struct StatsArgs {}

/// Counts sagas.
pub async fn stats(context: &Context, _: StatsArgs) -> Result<(), CliError> {
    let stats = context.call(GetStatsRequest {}, |mut c, r| async move { c.get_stats(r).await }).await?;
    if context.output.format() == Format::Json {
        return context.output.message(&stats, |_| String::new());
    }
    if !stats.queues.is_empty() {
        context.output.tabulate_what_fits(&stats.queues, &STATS_COLUMNS, true, stats_row)?;
    }
    context.output.line(&totals(&stats))
}

const STATS_COLUMNS: Columns = Columns {
    names: &["QUEUE", "READY", "OLDEST", "STALE", "PLAN", "DISP", "RUN", "COMP", "DONE", "FAILED", "UNDONE", "QUAR"],
    spare: &["UNDONE", "DISP", "DONE", "PLAN", "FAILED", "COMP", "OLDEST", "QUAR"],
};

fn stats_row(queue: &QueueStats) -> Vec<Cell> {
    let count = |state: SagaState| {
        let counts = queue.states.iter().filter(|count| count.state() == state);
        Cell::new(total(counts.map(|count| count.count)))
    };
    let name = printable(&queue.queue);
    let age = queue.oldest_ready_age.as_ref().map(convert::from_proto).filter(|_| queue.ready > 0);
    vec![
        Cell::new(if queue.paused { format!("{name} (paused)") } else { name }),
        Cell::new(queue.ready),
        Cell::new(age.map_or_else(|| "-".to_owned(), length)),
        Cell::new(queue.stale),
        count(SagaState::Planned),
        count(SagaState::Dispatched),
        count(SagaState::Running),
        count(SagaState::Compensating),
        count(SagaState::Completed),
        count(SagaState::Failed),
        count(SagaState::Compensated),
        count(SagaState::Quarantined),
    ]
}

fn totals(stats: &GetStatsResponse) -> String {
    let age = stats.oldest_ready_age.as_ref().map(convert::from_proto).filter(|_| stats.ready > 0);
    let age = age.map(|age| format!(" (the oldest for {})", length(age))).unwrap_or_default();
    let left_out = match stats.omitted_queues {
        0 => String::new(),
        count => format!("; {} left out, those without sagas in flight first", counted(count, "queue")),
    };
    format!(
        "{} ready{age}, {} stale, {} waiting; revision {}, writer queue {}{left_out}",
        stats.ready, stats.stale, stats.waiting, stats.revision, stats.writer_queue_depth
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::StateCount;

    #[test]
    fn rows_have_one_cell_per_column() {
        let state = SagaState::Running.into();
        let queue = QueueStats { states: vec![StateCount { state, count: 3 }], ..QueueStats::default() };
        let row = stats_row(&queue);
        assert_eq!(row.len(), STATS_COLUMNS.names.len());
        assert!(STATS_COLUMNS.spare.iter().all(|spare| STATS_COLUMNS.names.contains(spare)));
        assert_eq!(row[6].content(), "3");
    }

    #[test]
    fn totals_count_omitted_queues() {
        let stats = GetStatsResponse { ready: 3, ..GetStatsResponse::default() };
        assert_eq!(totals(&stats), "3 ready, 0 stale, 0 waiting; revision 0, writer queue 0");
        let cut = GetStatsResponse { omitted_queues: 34_626, ..stats };
        assert!(totals(&cut).ends_with("; 34626 queues left out, those without sagas in flight first"));
    }
}
