//! `Dispatch`, `Claim` and `ClaimNext`: how a worker gets a saga.

use prost::Message;

use crate::{
    domain::{
        bounds::{CLAIM_SAGAS, KINDS, TTL_DEFAULT, TTL_MAX, TTL_MIN, WAIT_MAX},
        command::{Change as SagaChange, ClaimNext, Command, Operation, UnleasedOperation},
        ids::{Malformed, OwnerId, TaskId},
        lease::LeasePurpose,
        text::{Actor, Kind, Text},
        time::Span,
    },
    proto,
};

use super::{ChangeRequest, Violations, violations::unknown};

impl ChangeRequest for proto::DispatchRequest {
    const RPC: &'static str = "Dispatch";

    fn take_request_id(&mut self) -> String {
        std::mem::take(&mut self.request_id)
    }

    fn actor(&mut self) -> Option<&mut String> {
        Some(&mut self.actor)
    }

    fn parse(self, v: &mut Violations) -> Option<Command> {
        let task_id = v.check("task_id", TaskId::parse(&self.task_id));
        let assignee = v.check("assignee", OwnerId::parse(&self.assignee));
        let ttl = ttl(self.ttl.as_ref(), v);
        let actor = v.check("actor", Actor::parse(&self.actor));
        let reason = v.check("reason", Text::parse(&self.reason));
        let operation = UnleasedOperation::Dispatch { assignee: assignee?, ttl: ttl?, actor: actor?, reason: reason? };
        Some(Command::Change(SagaChange { task_id: task_id?, operation: Operation::Unleased(operation) }))
    }
}

impl ChangeRequest for proto::ClaimRequest {
    const RPC: &'static str = "Claim";

    fn take_request_id(&mut self) -> String {
        std::mem::take(&mut self.request_id)
    }

    fn parse(self, v: &mut Violations) -> Option<Command> {
        let task_id = v.check("task_id", TaskId::parse(&self.task_id));
        let owner = v.check("owner_id", OwnerId::parse(&self.owner_id));
        let ttl = ttl(self.ttl.as_ref(), v);
        let purpose = v.check("purpose", purpose(self.purpose));
        let reason = v.check("reason", Text::parse(&self.reason));
        let operation = UnleasedOperation::Claim { owner: owner?, ttl: ttl?, purpose: purpose?, reason: reason? };
        Some(Command::Change(SagaChange { task_id: task_id?, operation: Operation::Unleased(operation) }))
    }
}

impl ChangeRequest for proto::ClaimNextRequest {
    const RPC: &'static str = "ClaimNext";

    fn take_request_id(&mut self) -> String {
        std::mem::take(&mut self.request_id)
    }

    /// Without `wait`: a client that repeats the request has less time left, and means the same.
    fn content(&self) -> Vec<u8> {
        proto::ClaimNextRequest { wait: None, ..self.clone() }.encode_to_vec()
    }

    fn parse(self, v: &mut Violations) -> Option<Command> {
        if self.queues.is_empty() {
            v.add("queues", "is required: name at least one queue");
        }
        let queues = v.queues(&self.queues);
        let owner = v.check("owner_id", OwnerId::parse(&self.owner_id));
        let ttl = ttl(self.ttl.as_ref(), v);
        let max_sagas = v.count("max_sagas", self.max_sagas, CLAIM_SAGAS, 1);
        let wait = match &self.wait {
            None => Some(Span::ZERO),
            wait @ Some(_) => v.span("wait", wait.as_ref(), Span::ZERO, WAIT_MAX),
        };
        let purpose = v.check("purpose", purpose(self.purpose));
        let kinds = kinds(&self.compensation_kinds, v);
        Some(Command::ClaimNext(ClaimNext {
            queues: queues?,
            owner: owner?,
            ttl: ttl?,
            max_sagas: max_sagas?,
            wait: wait?,
            purpose: purpose?,
            kinds: kinds?,
        }))
    }
}

fn kinds(values: &[String], v: &mut Violations) -> Option<Vec<Kind>> {
    if values.len() > KINDS {
        v.add("compensation_kinds", format!("names {} kinds; at most {KINDS} are allowed", values.len()));
        return None;
    }
    v.each("compensation_kinds", values, |value| Kind::parse(value))
}

fn ttl(value: Option<&prost_types::Duration>, v: &mut Violations) -> Option<Span> {
    match value {
        None => Some(TTL_DEFAULT),
        Some(_) => v.span("ttl", value, TTL_MIN, TTL_MAX),
    }
}

fn purpose(value: i32) -> Result<LeasePurpose, Malformed> {
    match proto::LeasePurpose::try_from(value).map_err(|_| unknown(value))? {
        proto::LeasePurpose::Unspecified | proto::LeasePurpose::Execute => Ok(LeasePurpose::Execute),
        proto::LeasePurpose::Compensate => Ok(LeasePurpose::Compensate),
    }
}
