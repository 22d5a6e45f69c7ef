//! The actions that an operator can take on the screen: their requests and their confirmation.

use uuid::Uuid;

use crate::{
    cli::{errors::CliError, json},
    proto::{
        AnnotateRequest, PauseQueueRequest, QuarantineRequest, RecoverRequest, RecoveryDecision, RequestCancelRequest,
        ResumeQueueRequest, Saga, WaiveCompensationRequest,
    },
};

/// An action of the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperatorAction {
    /// Decide on a stale saga.
    Recover(RecoveryDecision),
    /// Ask for a saga to be cancelled; or take it from its worker at once.
    Cancel {
        /// At once.
        revoke: bool,
    },
    /// Quarantine a saga; also under a live lease.
    Quarantine {
        /// Even then.
        revoke: bool,
    },
    /// Declare a compensation as not needed.
    Waive,
    /// Add a note.
    Annotate,
    /// Pause a queue.
    Pause,
    /// Resume a queue.
    Resume,
}

impl OperatorAction {
    /// A heading for the dialog.
    pub fn title(self) -> &'static str {
        match self {
            OperatorAction::Recover(RecoveryDecision::Requeue) => "recover: plan it again",
            OperatorAction::Recover(RecoveryDecision::Compensate) => "recover: undo it",
            OperatorAction::Recover(RecoveryDecision::Quarantine) => "recover: park it",
            OperatorAction::Recover(RecoveryDecision::Unspecified) => "recover",
            OperatorAction::Cancel { revoke: false } => "cancel",
            OperatorAction::Cancel { revoke: true } => "cancel, and take it from its worker NOW",
            OperatorAction::Quarantine { revoke: false } => "quarantine",
            OperatorAction::Quarantine { revoke: true } => "quarantine, and take it from its worker NOW",
            OperatorAction::Waive => "waive a compensation",
            OperatorAction::Annotate => "annotate",
            OperatorAction::Pause => "pause the queue",
            OperatorAction::Resume => "resume the queue",
        }
    }

    /// What the dialog asks for: a note, or else a reason.
    pub fn asks(self) -> &'static str {
        if self == OperatorAction::Annotate { "note" } else { "reason" }
    }

    /// True if the target's name must be typed, because a live worker loses its work.
    pub fn is_hard(self) -> bool {
        matches!(self, OperatorAction::Cancel { revoke: true } | OperatorAction::Quarantine { revoke: true })
    }
}

/// A request to send. If it is sent again, it is identical, including its `request_id`, so that it happens once.
#[derive(Clone, Debug, PartialEq)]
pub enum ActionRequest {
    Recover(RecoverRequest),
    Cancel(RequestCancelRequest),
    Quarantine(QuarantineRequest),
    Waive(WaiveCompensationRequest),
    Annotate(AnnotateRequest),
    Pause(PauseQueueRequest),
    Resume(ResumeQueueRequest),
}

/// The target of an action.
#[derive(Clone, Debug, PartialEq)]
pub enum ActionTarget {
    /// A saga, as in the last snapshot.
    Saga(Box<Saga>),
    /// A queue.
    Queue(String),
}

impl ActionTarget {
    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            ActionTarget::Saga(saga) => &saga.task_id,
            ActionTarget::Queue(queue) => queue,
        }
    }

    fn fencing_token(&self) -> i64 {
        match self {
            ActionTarget::Saga(saga) => saga.lease.as_ref().map_or(0, |lease| lease.fencing_token),
            ActionTarget::Queue(_) => 0,
        }
    }
}

/// The request for an action.
pub fn request(
    action: OperatorAction,
    target: &ActionTarget,
    position: i32,
    actor: &str,
    reason: &str,
    id: Uuid,
) -> ActionRequest {
    let (name, actor, reason) = (target.name().to_owned(), actor.to_owned(), reason.to_owned());
    let request_id = id.to_string();
    match action {
        OperatorAction::Recover(decision) => ActionRequest::Recover(RecoverRequest {
            task_id: name,
            decision: decision.into(),
            actor,
            reason,
            // The token of the expired lease that was seen, so that a worker that has come back is not interrupted.
            fencing_token: target.fencing_token(),
            validate_only: false,
            request_id,
        }),
        OperatorAction::Cancel { revoke } => ActionRequest::Cancel(RequestCancelRequest {
            task_id: name,
            actor,
            reason,
            revoke_lease: revoke,
            request_id,
        }),
        OperatorAction::Quarantine { revoke } => ActionRequest::Quarantine(QuarantineRequest {
            task_id: name,
            reason,
            actor,
            revoke_lease: revoke,
            request_id,
            ..QuarantineRequest::default()
        }),
        OperatorAction::Waive => {
            ActionRequest::Waive(WaiveCompensationRequest { task_id: name, position, actor, reason, request_id })
        }
        OperatorAction::Annotate => ActionRequest::Annotate(AnnotateRequest {
            task_id: name,
            actor,
            note: reason,
            request_id,
            ..AnnotateRequest::default()
        }),
        OperatorAction::Pause => {
            ActionRequest::Pause(PauseQueueRequest { queue: name, actor, reason, must_exist: false })
        }
        OperatorAction::Resume => {
            ActionRequest::Resume(ResumeQueueRequest { queue: name, actor, reason, must_exist: false })
        }
    }
}

impl ActionRequest {
    /// The rpc's name and the request as JSON, as `grpcurl -d` takes it.
    pub fn rendered(&self) -> Result<(&'static str, String), CliError> {
        Ok(match self {
            ActionRequest::Recover(request) => ("Recover", json::render(request)?),
            ActionRequest::Cancel(request) => ("RequestCancel", json::render(request)?),
            ActionRequest::Quarantine(request) => ("Quarantine", json::render(request)?),
            ActionRequest::Waive(request) => ("WaiveCompensation", json::render(request)?),
            ActionRequest::Annotate(request) => ("Annotate", json::render(request)?),
            ActionRequest::Pause(request) => ("PauseQueue", json::render(request)?),
            ActionRequest::Resume(request) => ("ResumeQueue", json::render(request)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Lease;

    #[test]
    fn a_recovery_decision_names_the_fencing_token_that_was_shown() {
        let lease = Some(Lease { fencing_token: 42, ..Lease::default() });
        let saga = ActionTarget::Saga(Box::new(Saga { task_id: "t-1".to_owned(), lease, ..Saga::default() }));
        let action = OperatorAction::Recover(RecoveryDecision::Requeue);
        let (rpc, json) = request(action, &saga, 0, "me@here", "rebooted", Uuid::nil()).rendered().expect("JSON");
        assert_eq!(rpc, "Recover");
        for part in [
            r#""taskId":"t-1""#,
            r#""fencingToken":"42""#,
            "RECOVERY_DECISION_REQUEUE",
            r#""reason":"rebooted""#,
            r#""actor":"me@here""#,
            "00000000-0000-0000-0000-000000000000",
        ] {
            assert!(json.contains(part), "{part}: {json}");
        }
    }

    #[test]
    fn only_actions_that_revoke_a_lease_are_hard() {
        assert!(
            OperatorAction::Cancel { revoke: true }.is_hard() && OperatorAction::Quarantine { revoke: true }.is_hard()
        );
        assert!(!OperatorAction::Cancel { revoke: false }.is_hard() && !OperatorAction::Pause.is_hard());
    }
}
