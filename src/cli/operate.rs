//! The calls of an operator: each is a person's decision, and the history keeps who made it and why.

use std::time::Duration;

use clap::Args;

use super::{
    args::{self, ActorArg, DecisionArgs, RequestIdArg, contract_values},
    context::Context,
    errors::CliError,
    output::notice,
    text::{counted, printable},
};
use crate::{
    client::convert::to_proto,
    domain::bounds::REVOKE_LEASES,
    proto::{
        AnnotateRequest, DispatchRequest, QuarantineRequest, RecoverRequest, RecoveryDecision, RequestCancelRequest,
        RevokePrincipalRequest, RevokePrincipalResponse, WaiveCompensationRequest,
    },
};

/// Most leases that one call of `revoke` ends. More could take longer than the default --timeout.
const REVOKED_AT_ONCE: i32 = 2_000;
/// Most leases that one call of `revoke --dry-run` counts, which is much faster.
const REVOKE_COUNTED: i32 = REVOKE_LEASES as i32;

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

impl DispatchArgs {
    pub fn request(self) -> Result<DispatchRequest, CliError> {
        Ok(DispatchRequest {
            task_id: self.task_id,
            assignee: self.assignee,
            ttl: self.ttl.map(to_proto),
            actor: self.actor.or_me(),
            reason: self.reason,
            request_id: self.request_id.or_new(),
        })
    }
}

contract_values! {
    /// A decision on a stale saga.
    Decision => RecoveryDecision {
        /// Plan it again, for any worker.
        Requeue,
        /// Undo what it left behind.
        Compensate,
        /// Park it for a person.
        Quarantine,
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sagad recover fix-7 --decision requeue --reason 'the host was rebooted'\n  \
                        sagad recover fix-7 --decision compensate --reason 'gone' --token 42 --dry-run")]
pub struct RecoverArgs {
    #[command(flatten)]
    what: DecisionArgs,
    /// What to do with it.
    #[arg(long, value_enum)]
    decision: Decision,
    /// Only if the stale lease has this fencing token, so that a later worker is not disturbed [default: any]
    #[arg(long)]
    token: Option<i64>,
    /// Only check whether it would be accepted.
    #[arg(long)]
    dry_run: bool,
}

impl RecoverArgs {
    pub fn request(self) -> Result<RecoverRequest, CliError> {
        Ok(RecoverRequest {
            decision: RecoveryDecision::from(self.decision).into(),
            actor: self.what.actor.or_me(),
            fencing_token: self.token.unwrap_or_default(),
            validate_only: self.dry_run,
            request_id: self.what.request_id.or_new(),
            task_id: self.what.task_id,
            reason: self.what.reason,
        })
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sagad waive fix-7 --position 2 --reason 'the worktree was on a lost disk'")]
pub struct WaiveArgs {
    #[command(flatten)]
    what: DecisionArgs,
    /// Which compensation.
    #[arg(long)]
    position: i32,
}

impl WaiveArgs {
    pub fn request(self) -> Result<WaiveCompensationRequest, CliError> {
        Ok(WaiveCompensationRequest {
            position: self.position,
            actor: self.what.actor.or_me(),
            request_id: self.what.request_id.or_new(),
            task_id: self.what.task_id,
            reason: self.what.reason,
        })
    }
}

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
    /// To call as the holder of the lease: its owner.
    #[arg(long, env = "SAGAD_OWNER", value_name = "ID", requires = "token")]
    owner: Option<String>,
    /// To call as the holder of the lease: its fencing token.
    #[arg(long, env = "SAGAD_TOKEN", requires = "owner")]
    token: Option<i64>,
    /// To call as a person: also under a live lease, which ends then.
    #[arg(long)]
    revoke_lease: bool,
    #[command(flatten)]
    actor: ActorArg,
    #[command(flatten)]
    request_id: RequestIdArg,
}

impl QuarantineArgs {
    pub fn request(self) -> Result<QuarantineRequest, CliError> {
        Ok(QuarantineRequest {
            task_id: self.task_id,
            reason: self.reason,
            actor: if self.owner.is_some() { String::new() } else { self.actor.or_me() },
            owner_id: self.owner.unwrap_or_default(),
            fencing_token: self.token.unwrap_or_default(),
            revoke_lease: self.revoke_lease,
            request_id: self.request_id.or_new(),
        })
    }
}

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

impl CancelArgs {
    pub fn request(self) -> Result<RequestCancelRequest, CliError> {
        Ok(RequestCancelRequest {
            actor: self.what.actor.or_me(),
            revoke_lease: self.revoke_lease,
            request_id: self.what.request_id.or_new(),
            task_id: self.what.task_id,
            reason: self.what.reason,
        })
    }
}

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

impl AnnotateArgs {
    pub fn request(self) -> Result<AnnotateRequest, CliError> {
        Ok(AnnotateRequest {
            task_id: self.task_id,
            actor: self.actor.or_me(),
            note: self.note.unwrap_or_default(),
            details: args::map(self.details),
            terminal_reason: self.terminal_reason.unwrap_or_default(),
            request_id: self.request_id.or_new(),
        })
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sagad revoke builders --reason 'its token was in a public log'\n  \
                        sagad revoke builders --reason 'just looking' --dry-run\n\n\
                        Take the principal, or the token that leaked, out of the coordinator's file of principals first:\n\
                        whoever is still known can call and claim again at once. The sagas are stale then: their policies\n\
                        decide, or `sagad recover` does.")]
pub struct RevokeArgs {
    /// The principal, known to the coordinator or not: its calls and streams end, and the leases of every owner with its
    /// name, or with its name and what follows a slash.
    principal: String,
    /// Why, for the history.
    #[arg(long)]
    reason: String,
    /// How many leases at most [default: all]
    #[arg(long, value_name = "COUNT", value_parser = args::count)]
    max: Option<i32>,
    /// Only count the leases.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    actor: ActorArg,
}

/// Ends whatever a principal has, in the coordinator's steps.
pub async fn revoke(context: &Context, args: RevokeArgs) -> Result<(), CliError> {
    let mut request = RevokePrincipalRequest {
        principal: args.principal.clone(),
        actor: args.actor.or_me(),
        reason: args.reason,
        max_leases: args.max.unwrap_or(if args.dry_run { REVOKE_COUNTED } else { REVOKED_AT_ONCE }),
        validate_only: args.dry_run,
    };
    let mut total = RevokePrincipalResponse::default();
    loop {
        let left = args.max.map(|max| max.saturating_sub(i32::try_from(total.revoked_leases).unwrap_or(i32::MAX)));
        if !args.dry_run {
            request.max_leases = left.map_or(REVOKED_AT_ONCE, |left| left.min(REVOKED_AT_ONCE));
        }
        let step = context.admin(request.clone(), |mut c, r| async move { c.revoke_principal(r).await }).await?;
        let revoked_leases = total.revoked_leases.saturating_add(step.revoked_leases);
        total = RevokePrincipalResponse { revoked_leases, ..step };
        let enough = args.max.is_some_and(|max| total.revoked_leases >= i64::from(max));
        // A step that ended nothing would be followed by another such step.
        if !step.more || args.dry_run || step.revoked_leases == 0 || enough {
            break;
        }
    }
    let principal = printable(&args.principal);
    if total.known {
        notice(&format!(
            "the coordinator still knows {principal}: it can call and claim again until it is removed from the file \
             of principals or has other credentials there"
        ));
    }
    context.output.message(&total, |total| {
        let verb = if args.dry_run { "would revoke" } else { "revoked" };
        let more = if total.more { ", and there are more" } else { "" };
        format!("{verb} {} of {principal}{more}", counted(total.revoked_leases, "lease"))
    })
}
