//! `sagad watch`: follows stale sagas or events, across restarts of the coordinator.

use clap::Args;

use super::{
    context::Context,
    errors::CliError,
    json::Named,
    output::{Format, notice},
    tables,
    text::{printable, stamp, when, word},
};
use crate::{
    client::follow::{Follow, FollowItem, Revisioned},
    proto::{
        WatchEventsRequest, WatchEventsResponse, WatchStaleRequest, WatchStaleResponse, watch_events_response,
        watch_stale_response,
    },
};

/// What `watch` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sagad watch --queue builds\n  sagad watch --stale --snapshot\n  \
                        sagad watch --events --task fix-7\n  sagad watch --events --after 4711 -o json")]
pub struct WatchArgs {
    /// Follow sagas whose lease ran out, and what becomes of them (the default).
    #[arg(long, conflicts_with = "events")]
    stale: bool,
    /// Follow everything that happens.
    #[arg(long)]
    events: bool,
    /// Only in these queues; repeatable, or separated by commas.
    #[arg(long = "queue", value_delimiter = ',', value_name = "QUEUE")]
    queues: Vec<String>,
    /// Only this saga; with --events.
    #[arg(long, value_name = "ID", requires = "events")]
    task: Option<String>,
    /// Start after this revision, without a gap or a repetition; 0: from the beginning.
    #[arg(long, value_name = "REVISION", allow_negative_numbers = true)]
    after: Option<i64>,
    /// Print what is stale now, and end.
    #[arg(long, conflicts_with_all = ["events", "after"])]
    snapshot: bool,
}

/// Follows until interrupted.
pub async fn run(context: &Context, args: WatchArgs) -> Result<(), CliError> {
    let (queues, after_revision) = (args.queues, args.after);
    if args.events {
        let request = WatchEventsRequest { task_id: args.task.unwrap_or_default(), queues, after_revision };
        return show(context, Follow::events(&context.client, request), event_text).await;
    }
    let request = WatchStaleRequest { queues, after_revision, snapshot_only: args.snapshot };
    show(context, Follow::stale(&context.client, request), stale_text).await
}

/// Shows each item: in JSON all of them, bookmarks too, as they are places to resume from; in text what `text` says.
async fn show<T: Named + Revisioned>(
    context: &Context,
    mut follow: Follow<T>,
    text: impl Fn(&T) -> Option<String>,
) -> Result<(), CliError> {
    loop {
        match follow.next().await? {
            FollowItem::Item(item) => match (context.output.format(), text(&item)) {
                (Format::Json, _) => context.output.message(&item, |_| String::new())?,
                (Format::Text, Some(line)) => context.output.line(&line)?,
                (Format::Text, None) => {}
            },
            FollowItem::Broken(reason) => {
                let after = follow.after().map(|revision| format!(" after revision {revision}")).unwrap_or_default();
                notice(&format!("the watch broke, resuming{after}: {}", printable(&reason)));
            }
            FollowItem::End => return Ok(()),
        }
    }
}

fn stale_text(item: &WatchStaleResponse) -> Option<String> {
    use watch_stale_response::Item;
    match item.item.as_ref()? {
        Item::Stale(stale) => {
            let queue = stale.saga.as_ref().map_or("-", |saga| saga.queue.as_str());
            let expired = stale.expire_time.as_ref().map_or_else(|| stamp(None), when);
            let cause = word(stale.cause().as_str_name(), "STALE_CAUSE_");
            Some(format!(
                "{:<8} stale     {}  queue {}  owner {}  token {}  expired {expired}  cause {cause}",
                item.revision,
                printable(&stale.task_id),
                printable(queue),
                printable(&stale.owner_id),
                stale.fencing_token,
            ))
        }
        Item::Resolved(resolved) => {
            let resolution = word(resolved.resolution().as_str_name(), "RESOLUTION_");
            Some(format!("{:<8} resolved  {}  {resolution}", item.revision, printable(&resolved.task_id)))
        }
        Item::Bookmark(_) => None,
    }
}

fn event_text(item: &WatchEventsResponse) -> Option<String> {
    use watch_events_response::Item;
    match item.item.as_ref()? {
        Item::Event(event) => Some(tables::event_line(event)),
        Item::Bookmark(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Bookmark, Resolution, ResolvedSaga, StaleCause, StaleSaga};

    #[test]
    fn stale_and_resolved_sagas_are_printed_and_bookmarks_are_not() {
        let item = |item| WatchStaleResponse { revision: 7, item: Some(item) };
        let stale = StaleSaga { task_id: "t-1".to_owned(), cause: StaleCause::Ttl.into(), ..StaleSaga::default() };
        let text = stale_text(&item(watch_stale_response::Item::Stale(stale))).expect("told");
        assert!(text.contains("stale     t-1") && text.contains("cause ttl"), "{text}");
        let resolved = ResolvedSaga { task_id: "t-1".to_owned(), resolution: Resolution::Requeued.into() };
        let text = stale_text(&item(watch_stale_response::Item::Resolved(resolved))).expect("told");
        assert!(text.ends_with("t-1  requeued"), "{text}");
        assert!(stale_text(&item(watch_stale_response::Item::Bookmark(Bookmark::default()))).is_none());
    }
}
