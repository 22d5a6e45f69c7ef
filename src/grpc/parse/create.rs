//! `CreateSaga` and `BatchCreateSagas`, and the compensations in other requests.

use std::collections::{HashMap, HashSet};

use prost::Message;
use uuid::Uuid;

use crate::{
    domain::{
        bounds::{BATCH_BYTES, BATCH_SAGAS, COMPENSATIONS, DELAY_MAX},
        command::{Command, Creation},
        compensation::CompensationSpec,
        ids::{Malformed, QueueName, SagaId, TaskId},
        text::{Kind, Text},
        time::Span,
    },
    proto,
};

use super::{ChangeRequest, Violations, policy::policy};

impl ChangeRequest for proto::CreateSagaRequest {
    const RPC: &'static str = "CreateSaga";

    fn take_request_id(&mut self) -> String {
        std::mem::take(&mut self.request_id)
    }

    fn parse(self, v: &mut Violations) -> Option<Command> {
        Some(Command::Create(vec![creation(self, v)?]))
    }
}

impl ChangeRequest for proto::BatchCreateSagasRequest {
    const RPC: &'static str = "BatchCreateSagas";

    fn take_request_id(&mut self) -> String {
        std::mem::take(&mut self.request_id)
    }

    fn parse(self, v: &mut Violations) -> Option<Command> {
        let (count, bytes) = (self.requests.len(), self.encoded_len());
        if count == 0 {
            v.add("requests", "is required");
        }
        if count > BATCH_SAGAS {
            v.add("requests", format!("has {count} entries; at most {BATCH_SAGAS} are allowed"));
        }
        if bytes > BATCH_BYTES {
            v.add("requests", format!("are {bytes} bytes together; at most {BATCH_BYTES} are allowed"));
        }
        if !v.is_empty() {
            // One violation of the batch explains more than thousands in its parts.
            return None;
        }
        let mut ids = BatchIds::default();
        let mut creations = Some(Vec::with_capacity(count));
        for (i, request) in self.requests.into_iter().enumerate() {
            let creation = v.within(format_args!("requests[{i}]."), |v| {
                if !request.request_id.is_empty() {
                    v.add("request_id", "must be absent inside a batch: the batch has its own");
                }
                let creation = creation(request, v)?;
                ids.note(i, &creation, v);
                Some(creation)
            });
            creations = creations.zip(creation).map(|(mut creations, creation)| {
                creations.push(creation);
                creations
            });
        }
        creations.map(Command::Create)
    }
}

/// The ids in a batch so far, each with the index of its request.
#[derive(Default)]
struct BatchIds {
    task_ids: HashMap<TaskId, usize>,
    saga_ids: HashMap<SagaId, usize>,
}

impl BatchIds {
    fn note(&mut self, i: usize, creation: &Creation, v: &mut Violations) {
        if let Some(first) = self.task_ids.insert(creation.task_id.clone(), i) {
            v.add("task_id", format!("is the task_id of requests[{first}], too"));
            return;
        }
        if let Some(first) = self.saga_ids.insert(creation.saga_id.clone(), i) {
            v.add("saga_id", format!("(the task_id, if absent) is the saga_id of requests[{first}], too"));
        }
    }
}

fn creation(request: proto::CreateSagaRequest, v: &mut Violations) -> Option<Creation> {
    let task_id = v.optional("task_id", &request.task_id, TaskId::parse);
    let saga_id = v.optional("saga_id", &request.saga_id, SagaId::parse);
    let queue = v.optional("queue", &request.queue, QueueName::parse);
    let branch = v.check("branch", Text::parse(&request.branch));
    let worktree = v.check("worktree", Text::parse(&request.worktree));
    let labels = v.labels("labels", request.labels);
    let payload = v.blob("payload", request.payload);
    let compensations = compensations(request.compensations, v);
    let policy = policy(request.policy, v);
    let delay = delay(request.delay.as_ref(), v);
    let retry_of = v.optional("retry_of", &request.retry_of, TaskId::parse);

    let task_id = match task_id? {
        Some(task_id) => task_id,
        None => v.check("task_id", new_task_id())?,
    };
    Some(Creation {
        saga_id: saga_id?.unwrap_or_else(|| task_id.to_saga_id()),
        task_id,
        queue: queue?.unwrap_or_default(),
        priority: request.priority,
        issue: request.issue,
        branch: branch?,
        worktree: worktree?,
        labels: labels?,
        payload: payload?,
        compensations: compensations?,
        policy: policy?,
        delay: delay?,
        retry_of: retry_of?,
    })
}

/// A UUIDv7. Such ids sort by creation time, so sagas created together are close in the index.
fn new_task_id() -> Result<TaskId, Malformed> {
    TaskId::parse(Uuid::now_v7().hyphenated().encode_lower(&mut Uuid::encode_buffer()))
}

/// How long until a saga is ready. None: at once.
pub fn delay(value: Option<&prost_types::Duration>, v: &mut Violations) -> Option<Span> {
    match value {
        None => Some(Span::ZERO),
        Some(_) => v.span("delay", value, Span::ZERO, DELAY_MAX),
    }
}

/// Compensations to register. Of those with the same kind and target only the first counts.
pub fn compensations(given: Vec<proto::CompensationSpec>, v: &mut Violations) -> Option<Vec<CompensationSpec>> {
    if given.len() > COMPENSATIONS {
        v.add("compensations", format!("has {} entries; at most {COMPENSATIONS} are allowed", given.len()));
        return None;
    }
    let mut seen = HashSet::new();
    let mut specs = Some(Vec::with_capacity(given.len()));
    for (i, given) in given.into_iter().enumerate() {
        let spec = v.within(format_args!("compensations[{i}]."), |v| {
            let kind = v.check("kind", Kind::parse(&given.kind));
            let target = v.check("target", Text::parse(&given.target));
            let reason = v.check("reason", Text::parse(&given.reason));
            Some(CompensationSpec { kind: kind?, target: target?, reason: reason? })
        });
        specs = specs.zip(spec).map(|(mut specs, spec)| {
            if seen.insert((spec.kind.clone(), spec.target.clone())) {
                specs.push(spec);
            }
            specs
        });
    }
    specs
}
