//! The verbs of an operator: each changes a saga by a person's decision, and is recorded with who and why.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{
    args::{self, ActorArg, DecisionArgs, RequestIdArg},
    context::Context,
    errors::CliError,
};
use crate::{
    client::convert::to_proto,
    proto::{
        AnnotateRequest, DispatchRequest, QuarantineRequest, RecoverRequest, RecoveryDecision, RequestCancelRequest,
        WaiveCompensationRequest,
    },
};

/// What `dispatch` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sagad dispatch fix-7 --assignee worker-3 --ttl 2m")]
pub struct DispatchArgs {
    /// The saga's task id.
    #[arg(value_name = "ID")]
    task_id: String,
    /// The worker it is reserved for.
    #[arg(long, value_name = "ID")]
    assignee: String,
    /// For how long [default: the server's, 30s]
    #[arg(long, value_name = "DURATION", value_parser = args::duration)]
    ttl: Option<Duration>,
    /// Why, for the history.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    actor: ActorArg,
    #[command(flatten)]
    request_id: RequestIdArg,
}

/// Reserves a saga for one worker.
pub async fn dispatch(context: &Context, args: DispatchArgs) -> Result<(), CliError> {
    let id = args.request_id.or_new();
    let request = DispatchRequest {
        task_id: args.task_id,
        assignee: args.assignee,
        ttl: args.ttl.map(to_proto),
        actor: args.actor.or_me(),
        reason: args.reason,
        request_id: id.clone(),
    };
    context.saga(context.change(&id, request, |mut c, r| async move { c.dispatch(r).await }).await?.saga)
}

/// A decision on a stale saga.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Decision {
    /// Plan it again, for another worker.
    Requeue,
    /// Undo what it left behind.
    Compensate,
    /// Park it for a person.
    Quarantine,
}

/// What `recover` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sagad recover fix-7 --decision requeue --reason 'the host was rebooted'\n  \
                        sagad recover fix-7 --decision compensate --reason 'gone' --token 42 --dry-run")]
pub struct RecoverArgs {
    #[command(flatten)]
    what: DecisionArgs,
    /// What to do with it.
    #[arg(long, value_enum)]
    decision: Decision,
    /// Only if it is stale under this fencing token, so that a later worker is not run over [default: any]
    #[arg(long)]
    token: Option<i64>,
    /// Only say whether it would be done.
    #[arg(long)]
    dry_run: bool,
}

/// Decides on a stale saga.
pub async fn recover(context: &Context, args: RecoverArgs) -> Result<(), CliError> {
    let id = args.what.request_id.or_new();
    let decision = match args.decision {
        Decision::Requeue => RecoveryDecision::Requeue,
        Decision::Compensate => RecoveryDecision::Compensate,
        Decision::Quarantine => RecoveryDecision::Quarantine,
    };
    let request = RecoverRequest {
        task_id: args.what.task_id,
        decision: decision.into(),
        actor: args.what.actor.or_me(),
        reason: args.what.reason,
        fencing_token: args.token.unwrap_or_default(),
        validate_only: args.dry_run,
        request_id: id.clone(),
    };
    context.saga(context.change(&id, request, |mut c, r| async move { c.recover(r).await }).await?.saga)
}

/// What `waive` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sagad waive fix-7 --position 2 --reason 'the worktree was on a lost disk'")]
pub struct WaiveArgs {
    #[command(flatten)]
    what: DecisionArgs,
    /// Which compensation.
    #[arg(long)]
    position: i32,
}

/// Declares a compensation not needed.
pub async fn waive(context: &Context, args: WaiveArgs) -> Result<(), CliError> {
    let id = args.what.request_id.or_new();
    let request = WaiveCompensationRequest {
        task_id: args.what.task_id,
        position: args.position,
        actor: args.what.actor.or_me(),
        reason: args.what.reason,
        request_id: id.clone(),
    };
    context.saga(context.change(&id, request, |mut c, r| async move { c.waive_compensation(r).await }).await?.saga)
}

/// What `quarantine` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sagad quarantine fix-7 --reason 'needs a look' --revoke-lease\n  \
                        sagad quarantine fix-7 --reason 'exit 3' --owner me --token 42")]
pub struct QuarantineArgs {
    /// The saga's task id.
    #[arg(value_name = "ID", env = "SAGAD_TASK_ID")]
    task_id: String,
    /// Why, for the history.
    #[arg(long)]
    reason: String,
    /// As the lease's holder: who that is.
    #[arg(long, env = "SAGAD_OWNER", value_name = "ID", requires = "token")]
    owner: Option<String>,
    /// As the lease's holder: its fencing token.
    #[arg(long, env = "SAGAD_TOKEN", requires = "owner")]
    token: Option<i64>,
    /// As a person: though a live lease stands, which ends with it.
    #[arg(long)]
    revoke_lease: bool,
    #[command(flatten)]
    actor: ActorArg,
    #[command(flatten)]
    request_id: RequestIdArg,
}

/// Parks a saga for a person.
pub async fn quarantine(context: &Context, args: QuarantineArgs) -> Result<(), CliError> {
    let id = args.request_id.or_new();
    let actor = if args.owner.is_some() { String::new() } else { args.actor.or_me() };
    let request = QuarantineRequest {
        task_id: args.task_id,
        reason: args.reason,
        owner_id: args.owner.unwrap_or_default(),
        fencing_token: args.token.unwrap_or_default(),
        actor,
        revoke_lease: args.revoke_lease,
        request_id: id.clone(),
    };
    context.saga(context.change(&id, request, |mut c, r| async move { c.quarantine(r).await }).await?.saga)
}

/// What `cancel` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sagad cancel fix-7 --reason 'the issue was closed'\n  \
                        sagad cancel fix-7 --reason 'runs amok' --revoke-lease")]
pub struct CancelArgs {
    #[command(flatten)]
    what: DecisionArgs,
    /// Don't wait for the worker: its lease ends now.
    #[arg(long)]
    revoke_lease: bool,
}

/// Asks for a saga to be cancelled.
pub async fn cancel(context: &Context, args: CancelArgs) -> Result<(), CliError> {
    let id = args.what.request_id.or_new();
    let request = RequestCancelRequest {
        task_id: args.what.task_id,
        actor: args.what.actor.or_me(),
        reason: args.what.reason,
        revoke_lease: args.revoke_lease,
        request_id: id.clone(),
    };
    context.saga(context.change(&id, request, |mut c, r| async move { c.request_cancel(r).await }).await?.saga)
}

/// What `annotate` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sagad annotate fix-7 --note 'the customer was told' --detail ticket=4711\n  \
                        sagad annotate fix-7 --terminal-reason 'the disk, not the code'")]
#[group(id = "what", required = true, multiple = true, args = ["note", "details", "terminal_reason"])]
pub struct AnnotateArgs {
    /// The saga's task id.
    #[arg(value_name = "ID", env = "SAGAD_TASK_ID")]
    task_id: String,
    /// A note.
    #[arg(long)]
    note: Option<String>,
    /// A detail; repeatable.
    #[arg(long = "detail", value_name = "KEY=VALUE", value_parser = args::key_value)]
    details: Vec<(String, String)>,
    /// A better reason for a terminal saga; the history keeps the old one.
    #[arg(long, value_name = "REASON")]
    terminal_reason: Option<String>,
    #[command(flatten)]
    actor: ActorArg,
    #[command(flatten)]
    request_id: RequestIdArg,
}

/// Adds a note to a saga, in any state.
pub async fn annotate(context: &Context, args: AnnotateArgs) -> Result<(), CliError> {
    let id = args.request_id.or_new();
    let request = AnnotateRequest {
        task_id: args.task_id,
        actor: args.actor.or_me(),
        note: args.note.unwrap_or_default(),
        details: args::map(args.details),
        terminal_reason: args.terminal_reason.unwrap_or_default(),
        request_id: id.clone(),
    };
    context.saga(context.change(&id, request, |mut c, r| async move { c.annotate(r).await }).await?.saga)
}
