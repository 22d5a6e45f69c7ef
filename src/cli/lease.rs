//! The calls of a worker, by hand: claim, heartbeat, report. A command that `sagad work` runs has the lease's ids in its
//! environment, so it gives no arguments for them.

use std::time::Duration;

use clap::Args;

use super::{
    actor,
    args::{self, LeaseArgs, Purpose, RequestIdArg, contract_values},
    context::Context,
    errors::CliError,
    output::{Format, notice},
    tables,
    text::printable,
};
use crate::{
    client::{LeaseKey, convert::to_proto},
    proto::{
        ClaimNextRequest, ClaimRequest, CompensateRequest, CompensationOutcome, CompleteRequest, Directive,
        FailRequest, HeartbeatRequest, HeartbeatResponse, LeasePurpose, RecordCompensationRequest,
        RegisterCompensationRequest, ReleaseRequest,
    },
};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sagad claim fix-7 --owner me --ttl 5m\n  sagad claim fix-7 --purpose compensate -o json | jq -r .lease.fencingToken"
)]
pub struct ClaimArgs {
    /// The saga's task id.
    #[arg(value_name = "ID")]
    task_id: String,
    /// Who claims it [default: a name for this process]
    #[arg(long, env = "SAGAD_OWNER", value_name = "ID")]
    owner: Option<String>,
    /// The lease's length [default: the server's, 30s]
    #[arg(long, value_name = "DURATION", value_parser = args::duration)]
    ttl: Option<Duration>,
    /// What the lease is for.
    #[arg(long, value_enum, default_value = "execute")]
    purpose: Purpose,
    /// Why, for the history.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    request_id: RequestIdArg,
}

impl ClaimArgs {
    pub fn request(self) -> Result<ClaimRequest, CliError> {
        Ok(ClaimRequest {
            task_id: self.task_id,
            owner_id: self.owner.unwrap_or_else(actor::worker),
            ttl: self.ttl.map(to_proto),
            purpose: LeasePurpose::from(self.purpose).into(),
            reason: self.reason,
            request_id: self.request_id.or_new(),
        })
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sagad claim-next --queue builds --owner me\n  sagad claim-next --queue builds --wait 8s --max 5 -o json"
)]
pub struct ClaimNextArgs {
    /// The queues; repeatable, or separated by commas.
    #[arg(long = "queue", value_delimiter = ',', required = true, value_name = "QUEUE")]
    queues: Vec<String>,
    /// Who claims [default: a name for this process]
    #[arg(long, env = "SAGAD_OWNER", value_name = "ID")]
    owner: Option<String>,
    /// The leases' length [default: the server's, 30s]
    #[arg(long, value_name = "DURATION", value_parser = args::duration)]
    ttl: Option<Duration>,
    /// How many at most.
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = args::count)]
    max: i32,
    /// How long to wait for a saga, up to 60s, in addition to --timeout.
    #[arg(long, default_value = "0s", value_name = "DURATION", value_parser = args::duration)]
    wait: Duration,
    /// What the leases are for.
    #[arg(long, value_enum, default_value = "execute")]
    purpose: Purpose,
    /// With --purpose compensate: only sagas all of whose pending compensations are of these kinds; repeatable.
    #[arg(long = "kind", value_name = "KIND")]
    kinds: Vec<String>,
    #[command(flatten)]
    request_id: RequestIdArg,
}

/// Takes the next sagas of some queues. None is no error, and prints nothing.
pub async fn claim_next(context: &Context, args: ClaimNextArgs) -> Result<(), CliError> {
    let id = args.request_id.or_new();
    let request = ClaimNextRequest {
        queues: args.queues,
        owner_id: args.owner.unwrap_or_else(actor::worker),
        ttl: args.ttl.map(to_proto),
        max_sagas: args.max,
        wait: (!args.wait.is_zero()).then(|| to_proto(args.wait)),
        purpose: LeasePurpose::from(args.purpose).into(),
        compensation_kinds: args.kinds,
        request_id: id.clone(),
    };
    let deadline = context.client.timeout().saturating_add(args.wait);
    let call = context.change(&id, request, |mut c, mut r| async move {
        r.set_timeout(deadline);
        c.claim_next(r).await
    });
    let sagas = call.await?.sagas;
    if sagas.is_empty() && context.output.format() == Format::Text {
        notice("nothing to claim");
    }
    sagas.into_iter().try_for_each(|saga| context.saga(Some(saga)))
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sagad heartbeat fix-7 --owner me --token 42\n  sagad heartbeat --progress 'step 3 of 5'   # within sagad work"
)]
pub struct HeartbeatArgs {
    #[command(flatten)]
    lease: LeaseArgs,
    /// A new length for the lease [default: unchanged]
    #[arg(long, value_name = "DURATION", value_parser = args::duration)]
    ttl: Option<Duration>,
    /// The progress of the work: text, @FILE, or @- for standard input.
    #[arg(long, value_name = "TEXT|@FILE")]
    progress: Option<String>,
}

/// Extends a lease.
pub async fn heartbeat(context: &Context, args: HeartbeatArgs) -> Result<(), CliError> {
    let LeaseKey { task_id, owner_id, fencing_token } = args.lease.key();
    let progress = args.progress.map(|text| args::content(Some(text))).transpose()?;
    let request = HeartbeatRequest { task_id, owner_id, fencing_token, ttl: args.ttl.map(to_proto), progress };
    let answer = context.call(request, |mut c, r| async move { c.heartbeat(r).await }).await?;
    context.output.message(&answer, heartbeat_text)
}

fn heartbeat_text(answer: &HeartbeatResponse) -> String {
    let lease = answer.lease.as_ref().map(tables::lease_line).unwrap_or_default();
    let lease = format!("lease of {lease}");
    match answer.directive() {
        Directive::Cancel => format!("{lease}; CANCEL: {}", printable(&answer.cancel_reason)),
        Directive::Continue | Directive::Unspecified => lease,
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sagad release fix-7 --owner me --token 42 --delay 5m --reason 'disk full'")]
pub struct ReleaseArgs {
    #[command(flatten)]
    lease: LeaseArgs,
    /// How long it can't be claimed again.
    #[arg(long, value_name = "DURATION", value_parser = args::duration)]
    delay: Option<Duration>,
    /// Why, for the history.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    request_id: RequestIdArg,
}

impl ReleaseArgs {
    pub fn request(self) -> Result<ReleaseRequest, CliError> {
        let LeaseKey { task_id, owner_id, fencing_token } = self.lease.key();
        let (delay, request_id) = (self.delay.map(to_proto), self.request_id.or_new());
        Ok(ReleaseRequest { task_id, owner_id, fencing_token, delay, reason: self.reason, request_id, progress: None })
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sagad complete fix-7 --owner me --token 42 --result @out.json")]
pub struct CompleteArgs {
    #[command(flatten)]
    lease: LeaseArgs,
    /// The result of the work: text, @FILE, or @- for standard input.
    #[arg(long, value_name = "TEXT|@FILE")]
    result: Option<String>,
    /// A remark for the history.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    request_id: RequestIdArg,
}

impl CompleteArgs {
    pub fn request(self) -> Result<CompleteRequest, CliError> {
        let LeaseKey { task_id, owner_id, fencing_token } = self.lease.key();
        let (result, request_id) = (args::content(self.result)?, self.request_id.or_new());
        Ok(CompleteRequest {
            task_id,
            owner_id,
            fencing_token,
            result,
            reason: self.reason,
            request_id,
            progress: None,
        })
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sagad fail fix-7 --owner me --token 42 --reason 'tests fail' --retryable\n  \
                        sagad fail fix-7 --owner me --token 42 --reason 'no access' --compensate branch=fix-7")]
pub struct FailArgs {
    #[command(flatten)]
    lease: LeaseArgs,
    /// Why.
    #[arg(long)]
    reason: String,
    /// Another try may succeed.
    #[arg(long)]
    retryable: bool,
    /// A compensation that is not registered yet; repeatable.
    #[arg(long = "compensate", value_name = "KIND=TARGET", value_parser = args::kind_target)]
    compensations: Vec<(String, String)>,
    /// Why these have to be undone; stored with each of them.
    #[arg(long, value_name = "REASON", default_value = "", hide_default_value = true)]
    compensate_reason: String,
    #[command(flatten)]
    request_id: RequestIdArg,
}

impl FailArgs {
    pub fn request(self) -> Result<FailRequest, CliError> {
        let LeaseKey { task_id, owner_id, fencing_token } = self.lease.key();
        Ok(FailRequest {
            task_id,
            owner_id,
            fencing_token,
            reason: self.reason,
            compensations: args::compensations(self.compensations, &self.compensate_reason),
            retryable: self.retryable,
            request_id: self.request_id.or_new(),
            progress: None,
        })
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sagad register-compensation fix-7 --owner me --token 42 --compensate branch=fix-7\n  \
                        sagad register-compensation --compensate worktree=/tmp/fix-7   # within sagad work"
)]
pub struct RegisterArgs {
    #[command(flatten)]
    lease: LeaseArgs,
    /// How to undo what comes next; repeatable, undone in reverse order.
    #[arg(long = "compensate", value_name = "KIND=TARGET", value_parser = args::kind_target, required = true)]
    compensations: Vec<(String, String)>,
    /// Why these have to be undone; stored with each of them.
    #[arg(long, alias = "compensate-reason", default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    request_id: RequestIdArg,
}

impl RegisterArgs {
    pub fn request(self) -> Result<RegisterCompensationRequest, CliError> {
        let LeaseKey { task_id, owner_id, fencing_token } = self.lease.key();
        let compensations = args::compensations(self.compensations, &self.reason);
        let request_id = self.request_id.or_new();
        Ok(RegisterCompensationRequest { task_id, owner_id, fencing_token, compensations, request_id })
    }
}

contract_values! {
    /// The outcome of a compensation.
    OutcomeArg => CompensationOutcome {
        /// What it names is undone.
        Done,
        /// It failed; it may be tried again.
        Failed,
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sagad record-compensation fix-7 --owner me --token 57 --position 2 --outcome done"
)]
pub struct RecordArgs {
    #[command(flatten)]
    lease: LeaseArgs,
    /// Which compensation. The last one that is neither done nor waived comes first.
    #[arg(long)]
    position: i32,
    /// The outcome.
    #[arg(long, value_enum)]
    outcome: OutcomeArg,
    /// What was done, or what went wrong.
    #[arg(long, default_value = "", hide_default_value = true)]
    detail: String,
    #[command(flatten)]
    request_id: RequestIdArg,
}

impl RecordArgs {
    pub fn request(self) -> Result<RecordCompensationRequest, CliError> {
        let LeaseKey { task_id, owner_id, fencing_token } = self.lease.key();
        Ok(RecordCompensationRequest {
            task_id,
            owner_id,
            fencing_token,
            position: self.position,
            outcome: CompensationOutcome::from(self.outcome).into(),
            detail: self.detail,
            request_id: self.request_id.or_new(),
        })
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sagad compensated fix-7 --owner me --token 57")]
pub struct CompensatedArgs {
    #[command(flatten)]
    lease: LeaseArgs,
    /// A remark for the history.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    request_id: RequestIdArg,
}

impl CompensatedArgs {
    pub fn request(self) -> Result<CompensateRequest, CliError> {
        let LeaseKey { task_id, owner_id, fencing_token } = self.lease.key();
        let request_id = self.request_id.or_new();
        Ok(CompensateRequest { task_id, owner_id, fencing_token, reason: self.reason, request_id })
    }
}
