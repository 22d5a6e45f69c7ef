//! Requests of a lease's holder, each with `task_id`, `owner_id` and `fencing_token`.

use crate::{
    domain::{
        bounds::{TTL_MAX, TTL_MIN},
        command::{Change as SagaChange, Command, Holder, HolderOperation, Operation},
        compensation::CompensationOutcome,
        ids::{Malformed, OwnerId, TaskId},
        text::{Blob, Text},
    },
    proto,
};

use super::{
    ChangeRequest, Violations,
    create::{compensations, delay},
    violations::{required, unknown},
};

/// The saga and the lease of a request.
struct LeaseFields {
    task_id: Option<TaskId>,
    owner: Option<OwnerId>,
    token: Option<crate::domain::ids::FencingToken>,
}

impl LeaseFields {
    fn parse(task_id: &str, owner_id: &str, fencing_token: i64, v: &mut Violations) -> Self {
        LeaseFields {
            task_id: v.check("task_id", TaskId::parse(task_id)),
            owner: v.check("owner_id", OwnerId::parse(owner_id)),
            token: v.token(fencing_token),
        }
    }

    fn command(self, operation: HolderOperation) -> Option<Command> {
        let holder = Holder { owner: self.owner?, token: self.token? };
        Some(Command::Change(SagaChange { task_id: self.task_id?, operation: Operation::ByHolder(holder, operation) }))
    }
}

/// Implements [`ChangeRequest`] for requests under a lease that can have a `request_id`.
macro_rules! holder_request {
    ($request:ident, $rpc:literal, |$message:ident, $violations:ident| $operation:expr) => {
        impl ChangeRequest for proto::$request {
            const RPC: &'static str = $rpc;

            fn take_request_id(&mut self) -> String {
                std::mem::take(&mut self.request_id)
            }

            fn parse(self, $violations: &mut Violations) -> Option<Command> {
                let $message = self;
                let lease =
                    LeaseFields::parse(&$message.task_id, &$message.owner_id, $message.fencing_token, $violations);
                lease.command($operation)
            }
        }
    };
}

impl ChangeRequest for proto::HeartbeatRequest {
    const RPC: &'static str = "Heartbeat";

    fn take_request_id(&mut self) -> String {
        String::new()
    }

    fn parse(self, v: &mut Violations) -> Option<Command> {
        let lease = LeaseFields::parse(&self.task_id, &self.owner_id, self.fencing_token, v);
        let ttl = match &self.ttl {
            None => Some(None),
            ttl @ Some(_) => v.span("ttl", ttl.as_ref(), TTL_MIN, TTL_MAX).map(Some),
        };
        let progress = progress(self.progress, v);
        lease.command(HolderOperation::Heartbeat { ttl: ttl?, progress: progress? })
    }
}

impl ChangeRequest for proto::KeepAliveRequest {
    const RPC: &'static str = "KeepAlive";

    fn take_request_id(&mut self) -> String {
        String::new()
    }

    fn parse(self, v: &mut Violations) -> Option<Command> {
        proto::HeartbeatRequest {
            task_id: self.task_id,
            owner_id: self.owner_id,
            fencing_token: self.fencing_token,
            ttl: self.ttl,
            progress: self.progress,
        }
        .parse(v)
    }
}

holder_request!(ReleaseRequest, "Release", |message, v| {
    let delay = delay(message.delay.as_ref(), v);
    let reason = v.check("reason", Text::parse(&message.reason));
    let progress = progress(message.progress, v);
    HolderOperation::Release { delay: delay?, reason: reason?, progress: progress? }
});

holder_request!(RegisterCompensationRequest, "RegisterCompensation", |message, v| {
    if message.compensations.is_empty() {
        v.add("compensations", "is required");
    }
    HolderOperation::RegisterCompensation { compensations: compensations(message.compensations, v)? }
});

holder_request!(CompleteRequest, "Complete", |message, v| {
    let result = v.blob("result", message.result);
    let reason = v.check("reason", Text::parse(&message.reason));
    let progress = progress(message.progress, v);
    HolderOperation::Complete { result: result?, reason: reason?, progress: progress? }
});

holder_request!(FailRequest, "Fail", |message, v| {
    let reason = v.required_text("reason", &message.reason);
    let compensations = compensations(message.compensations, v);
    let progress = progress(message.progress, v);
    let retryable = message.retryable;
    HolderOperation::Fail { reason: reason?, compensations: compensations?, retryable, progress: progress? }
});

holder_request!(RecordCompensationRequest, "RecordCompensation", |message, v| {
    let position = v.position(message.position);
    let outcome = v.check("outcome", outcome(message.outcome));
    let detail = v.check("detail", Text::parse(&message.detail));
    HolderOperation::RecordCompensation { position: position?, outcome: outcome?, detail: detail? }
});

holder_request!(CompensateRequest, "Compensate", |message, v| {
    HolderOperation::Compensate { reason: v.check("reason", Text::parse(&message.reason))? }
});

/// A worker's progress. The inner none: unchanged.
fn progress(value: Option<bytes::Bytes>, v: &mut Violations) -> Option<Option<Blob>> {
    match value {
        None => Some(None),
        Some(progress) => v.blob("progress", progress).map(Some),
    }
}

fn outcome(value: i32) -> Result<CompensationOutcome, Malformed> {
    match proto::CompensationOutcome::try_from(value).map_err(|_| unknown(value))? {
        proto::CompensationOutcome::Unspecified => Err(required()),
        proto::CompensationOutcome::Done => Ok(CompensationOutcome::Done),
        proto::CompensationOutcome::Failed => Ok(CompensationOutcome::Failed),
    }
}
