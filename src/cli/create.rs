//! `sagad create`: one saga from flags, or many from a file.

use std::time::Duration;

use clap::Args;

use super::{
    args::{self, RequestIdArg, contract_values},
    context::Context,
    errors::CliError,
    import,
};
use crate::{
    client::convert::to_proto,
    proto::{CreateSagaRequest, FailureAction, Policy, StaleAction},
};

/// What `create` takes.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sagad create --task-id fix-7 --queue builds --issue 7 --branch fix-7 --compensate branch=fix-7\n  \
                        sagad create --queue mail --payload @letter.json --max-attempts 5 --on-stale requeue\n  \
                        sagad create --from sagas.jsonl --request-id 6f1c2f0e-6f0e-4b6e-9d53-0f0a6b9f5f11\n  \
                        generate | sagad create --from -\n  sagad create --from sagas.jsonl --skip-existing\n\n\
                        With --from sagas are created in batches of up to 1,000, each whole or not at all. An error names the\n\
                        line, and how many sagas were created before."
)]
pub struct CreateArgs {
    /// Create many sagas: each line of this file (`-`: standard input) is a CreateSagaRequest in proto3 JSON.
    #[arg(long, value_name = "FILE", conflicts_with = "one")]
    from: Option<String>,
    /// Skip lines whose taskId exists already, even if other fields differ. Use it to continue a broken import.
    #[arg(long, requires = "from", conflicts_with_all = ["request_id", "one", "policies"])]
    skip_existing: bool,
    #[command(flatten)]
    one: SingleSagaArgs,
    #[command(flatten)]
    policy: PolicyArgs,
    #[command(flatten)]
    request_id: RequestIdArg,
}

/// One saga.
#[derive(Debug, Args)]
#[group(id = "one", multiple = true)]
struct SingleSagaArgs {
    /// Its id, which no other saga of the store has [default: a new one]
    #[arg(long, value_name = "ID")]
    task_id: Option<String>,
    /// A second id, by which other systems know it; no other saga has it [default: the task id]
    #[arg(long, value_name = "ID")]
    saga_id: Option<String>,
    /// The queue it waits in [default: default]
    #[arg(long)]
    queue: Option<String>,
    /// claim-next hands out the highest first [default: 0]
    #[arg(long, allow_negative_numbers = true)]
    priority: Option<i32>,
    /// The issue it is about.
    #[arg(long, allow_negative_numbers = true)]
    issue: Option<i64>,
    /// The branch it works on.
    #[arg(long)]
    branch: Option<String>,
    /// The worktree it works in.
    #[arg(long)]
    worktree: Option<String>,
    /// A label; repeatable.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = args::key_value)]
    labels: Vec<(String, String)>,
    /// What the worker gets: text, @FILE, or @- for standard input.
    #[arg(long, value_name = "TEXT|@FILE")]
    payload: Option<String>,
    /// How to undo what the work leaves behind; repeatable, undone in reverse order.
    #[arg(long = "compensate", value_name = "KIND=TARGET", value_parser = args::kind_target)]
    compensations: Vec<(String, String)>,
    /// Why these have to be undone; stored with each of them.
    #[arg(long, value_name = "REASON", requires = "compensations")]
    compensate_reason: Option<String>,
    /// How long it can't be claimed for execution.
    #[arg(long, value_name = "DURATION", value_parser = args::duration)]
    delay: Option<Duration>,
    /// The task id of the saga that this one repeats. It is only recorded: nothing is copied, and that saga need not exist.
    #[arg(long, value_name = "ID")]
    retry_of: Option<String>,
}

/// What happens by itself.
#[derive(Debug, Args)]
#[command(next_help_heading = "Policy")]
#[group(id = "policies", multiple = true, conflicts_with = "from")]
struct PolicyArgs {
    /// What happens when an execution lease runs out [default: hold]
    #[arg(long, value_enum)]
    on_stale: Option<OnStale>,
    /// With --on-stale requeue: at which expiry it is compensated instead [default: 3]
    #[arg(long, value_name = "COUNT", value_parser = args::count)]
    max_expirations: Option<i32>,
    /// What happens when it fails and no retry is left [default: fail]
    #[arg(long, value_enum)]
    on_failure: Option<OnFailure>,
    /// How many retryable failures end it [default: 1]
    #[arg(long, value_name = "COUNT", value_parser = args::count)]
    max_attempts: Option<i32>,
    /// The first pause before a retry, doubling [default: 1s]
    #[arg(long, value_name = "DURATION", value_parser = args::duration)]
    retry_backoff: Option<Duration>,
    /// The longest pause before a retry [default: 5m]
    #[arg(long, value_name = "DURATION", value_parser = args::duration)]
    retry_backoff_max: Option<Duration>,
    /// The longest one execution lease may last, however often it heartbeats [default: none]
    #[arg(long, value_name = "DURATION", value_parser = args::duration)]
    execution_timeout: Option<Duration>,
    /// The longest an execution lease may last without a change of progress [default: none]
    #[arg(long, value_name = "DURATION", value_parser = args::duration)]
    progress_timeout: Option<Duration>,
    /// How long compensation waits after a lease ran out, for the worker's last effects [default: none]
    #[arg(long, value_name = "DURATION", value_parser = args::duration)]
    settle: Option<Duration>,
    /// After how long of compensating without a lease or a result it is quarantined [default: 24h]
    #[arg(long, value_name = "DURATION", value_parser = args::duration)]
    compensation_timeout: Option<Duration>,
}

contract_values! {
    /// What happens when an execution lease runs out.
    OnStale => StaleAction {
        /// It is reported as stale, until it is claimed by id or somebody decides.
        Hold,
        /// It is planned again.
        Requeue,
        /// It is compensated; if no compensation was ever registered, that is done at once.
        Compensate,
        /// It is parked for a person.
        Quarantine,
    }
}

contract_values! {
    /// What happens when it fails for good.
    OnFailure => FailureAction {
        /// It is failed, which is final.
        Fail,
        /// It is compensated; if no compensation was ever registered, that is done at once.
        Compensate,
    }
}

impl PolicyArgs {
    /// The policy; `None` where no flag was given, so that the coordinator's defaults hold.
    fn policy(&self) -> Option<Policy> {
        let policy = Policy {
            on_stale: self.on_stale.map_or(StaleAction::Unspecified, StaleAction::from).into(),
            max_expirations: self.max_expirations.unwrap_or_default(),
            on_failure: self.on_failure.map_or(FailureAction::Unspecified, FailureAction::from).into(),
            max_attempts: self.max_attempts.unwrap_or_default(),
            retry_backoff: self.retry_backoff.map(to_proto),
            retry_backoff_max: self.retry_backoff_max.map(to_proto),
            execution_timeout: self.execution_timeout.map(to_proto),
            progress_timeout: self.progress_timeout.map(to_proto),
            settle: self.settle.map(to_proto),
            compensation_timeout: self.compensation_timeout.map(to_proto),
        };
        (policy != Policy::default()).then_some(policy)
    }
}

/// Creates one or many.
pub async fn run(context: &Context, args: CreateArgs) -> Result<(), CliError> {
    if let Some(file) = args.from {
        return import::run(context, &file, args.request_id.given(), args.skip_existing).await;
    }
    let request_id = args.request_id.or_new();
    let request = request(args.one, args.policy.policy(), request_id.clone())?;
    let answer = context.change(&request_id, request, |mut c, r| async move { c.create_saga(r).await }).await?;
    context.saga(answer.saga)
}

fn request(one: SingleSagaArgs, policy: Option<Policy>, request_id: String) -> Result<CreateSagaRequest, CliError> {
    let reason = one.compensate_reason.unwrap_or_default();
    Ok(CreateSagaRequest {
        task_id: one.task_id.unwrap_or_default(),
        saga_id: one.saga_id.unwrap_or_default(),
        queue: one.queue.unwrap_or_default(),
        priority: one.priority.unwrap_or_default(),
        issue: one.issue,
        branch: one.branch.unwrap_or_default(),
        worktree: one.worktree.unwrap_or_default(),
        labels: args::map(one.labels),
        payload: args::content(one.payload)?,
        compensations: args::compensations(one.compensations, &reason),
        policy,
        delay: one.delay.map(to_proto),
        retry_of: one.retry_of.unwrap_or_default(),
        request_id,
    })
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, FromArgMatches, Parser};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: CreateArgs,
    }

    fn parse(line: &str) -> Result<CreateArgs, clap::Error> {
        let matches = Line::command().try_get_matches_from(line.split(' '))?;
        Line::from_arg_matches(&matches).map(|line| line.args)
    }

    #[test]
    fn flags_set_the_fields_of_the_request() {
        let args = parse(
            "x --task-id t --priority -5 --label a=1 --label b= --compensate branch=x --compensate dir=/a=b \
             --compensate-reason why --on-stale requeue --settle 1h30m --delay 5m",
        )
        .expect("valid");
        let request = request(args.one, args.policy.policy(), "id".to_owned()).expect("no file to read");
        assert_eq!(request.priority, -5);
        assert_eq!(request.labels.len(), 2);
        assert_eq!(request.compensations[1].target, "/a=b");
        assert!(request.compensations.iter().all(|compensation| compensation.reason == "why"));
        let policy = request.policy.expect("given");
        assert_eq!(policy.on_stale(), StaleAction::Requeue);
        assert_eq!(policy.settle.expect("given").seconds, 5_400);
        assert_eq!(policy.retry_backoff, None);
    }

    #[test]
    fn without_policy_flags_the_request_has_no_policy() {
        assert_eq!(parse("x --task-id t").expect("valid").policy.policy(), None);
    }

    #[test]
    fn from_excludes_the_flags_of_a_single_saga() {
        assert!(parse("x --from f --task-id t").is_err());
        assert!(parse("x --from f --settle 1s").is_err());
        assert!(parse("x --compensate-reason why").is_err());
        assert!(parse("x --from f").is_ok());
        assert!(parse("x --from f --skip-existing").is_ok());
        assert!(parse("x --skip-existing").is_err());
        assert!(parse(&format!("x --from f --skip-existing --request-id {}", uuid::Uuid::nil())).is_err());
    }
}
