//! Draws the detail view: the saga, its leases, its compensations, and its history.

use ratatui::{
    Frame,
    layout::Rect,
    style::{Modifier, Style},
    text::{Line, Span},
    widgets::{Paragraph, Wrap},
};

use super::{
    format, sagas,
    style::{ALARM, BUSY, DIM, FINE, block},
};
use crate::{
    cli::{
        tables,
        text::{content, micros, printable, stamp},
        top::{model::Model, snapshot::Detail},
    },
    proto::{Compensation, CompensationState, Saga},
};

/// Draws it.
pub fn draw(frame: &mut Frame, area: Rect, model: &Model, task_id: &str) {
    let seen = model.snapshot.as_ref().and_then(|snapshot| snapshot.detail.as_ref());
    let lines = match seen {
        Some(Detail { saga: Some(saga), events, cut }) if saga.task_id == task_id => {
            let mut lines = facts(model, saga);
            lines.push(heading("COMPENSATIONS, in order of registration: undone from the last to the first"));
            if saga.compensations.is_empty() {
                lines.push(Line::styled("none", DIM));
            }
            lines.extend(saga.compensations.iter().map(compensation));
            lines.push(heading("HISTORY, in order"));
            if *cut {
                lines.push(Line::styled(format!("... there is more: sagad history {}", printable(task_id)), DIM));
            }
            lines.extend(events.iter().map(|event| Line::raw(tables::history_line(event))));
            lines
        }
        Some(Detail { saga: None, .. }) => vec![Line::styled("there is no such saga (any more)", ALARM)],
        Some(_) | None => vec![Line::styled("asking...", BUSY)],
    };
    let block = block(printable(task_id), true);
    let scroll = u16::try_from(model.scroll).unwrap_or(u16::MAX);
    frame.render_widget(Paragraph::new(lines).block(block).wrap(Wrap { trim: false }).scroll((scroll, 0)), area);
}

fn heading(text: &'static str) -> Line<'static> {
    Line::styled(text, Style::new().add_modifier(Modifier::BOLD))
}

fn facts(model: &Model, saga: &Saga) -> Vec<Line<'static>> {
    let now = model.snapshot.as_ref().map(|snapshot| snapshot.clock.at(model.now));
    let time = |at: &Option<prost_types::Timestamp>| {
        let (Some(at), Some(now)) = (at, now) else { return String::new() };
        let away = micros(at) - now;
        let away =
            if away > 0 { format!("in {}", format::short(away)) } else { format!("{} ago", format::short(-away)) };
        format!("{} ({away})", stamp(Some(at)))
    };
    let mut lines = Vec::new();
    let mut add = |name: &str, value: String, style: Style| {
        if !value.is_empty() {
            lines.push(Line::from(vec![Span::styled(format!("{name:<13}"), DIM), Span::styled(value, style)]));
        }
    };
    let plain = Style::new();
    let lease = saga.lease.as_ref();
    add("saga", if saga.saga_id == saga.task_id { String::new() } else { printable(&saga.saga_id) }, plain);
    add("state", tables::state_text(saga), sagas::state_style(saga));
    add("reason", printable(&saga.terminal_reason), plain);
    let cancel = if saga.cancel_requested { printable(&saga.cancel_reason) } else { String::new() };
    add("cancel asked", cancel, BUSY);
    add("queue", format!("{}, priority {}", printable(&saga.queue), saga.priority), plain);
    add("about", printable(&tables::subject(saga)), plain);
    add("worktree", printable(&saga.worktree), plain);
    add("labels", tables::labels(&saga.labels), plain);
    add(
        if tables::held(saga).is_some() { "lease" } else { "last lease" },
        lease.map(tables::holder).unwrap_or_default(),
        plain,
    );
    let (left, style) = sagas::left(model, saga);
    add("time left", if left == "-" { String::new() } else { left }, style);
    add("heartbeat", lease.map(|lease| time(&lease.heartbeat_time)).unwrap_or_default(), plain);
    add("reserved for", printable(&saga.assignee), plain);
    let counts = format!("attempt {}, expirations {}, failures {}", saga.attempt, saga.expirations, saga.failures);
    add("counts", counts, plain);
    add("policy", saga.policy.as_ref().map(tables::policy_line).unwrap_or_default(), plain);
    add("created", time(&saga.create_time), plain);
    add("changed", time(&saga.update_time), plain);
    add("ended", time(&saga.end_time), plain);
    add("not before", time(&saga.not_before), plain);
    let progress = content(&saga.progress);
    add("progress", progress.split("\\n").next().unwrap_or_default().to_owned(), plain);
    add("payload", content(&saga.payload), plain);
    add("result", content(&saga.result), plain);
    lines
}

fn compensation(compensation: &Compensation) -> Line<'static> {
    let (state, style) = match compensation.state() {
        CompensationState::Unspecified => ("unknown", ALARM),
        CompensationState::Pending => ("pending", BUSY),
        CompensationState::Done => ("done", FINE),
        CompensationState::Failed => ("failed", ALARM),
        CompensationState::Waived => ("waived", FINE),
    };
    let Compensation { position, kind, target, reason, attempts, last_error, settled_by, .. } = compensation;
    let mut text = format!(" {} {}", printable(kind), printable(target));
    if !reason.is_empty() {
        text.push_str(&format!(" ({})", printable(reason)));
    }
    if *attempts > 0 {
        text.push_str(&format!(", failed {attempts}x: {}", printable(last_error)));
    }
    if !settled_by.is_empty() {
        text.push_str(&format!(", by {} at {}", printable(settled_by), stamp(compensation.settle_time.as_ref())));
    }
    Line::from(vec![Span::raw(format!("{position:>3} ")), Span::styled(state, style), Span::raw(text)])
}
