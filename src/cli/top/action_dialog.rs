//! [`ActionDialog`]: one operator action from its key to its answer: the target, the reason, the request, the
//! confirmation, the result.

use ratatui::crossterm::event::KeyCode;
use uuid::Uuid;

use super::operator_action::{ActionRequest, ActionTarget, OperatorAction, request};
use crate::{
    domain::bounds::TEXT_BYTES,
    proto::{CompensationState, RecoveryDecision, SagaState},
};

/// How far it is.
#[derive(Clone, Debug, PartialEq)]
pub enum DialogStage {
    /// Which decision on a stale saga?
    Decision,
    /// Which compensation?
    Position,
    /// Why?
    Reason,
    /// Yes? With what was typed so far where a name is to be typed.
    Confirm(String),
    /// Sent, not answered yet.
    Sending,
    /// Not done; why.
    Refused(String),
    /// It may have been done; why that is not known.
    Unknown(String),
}

/// What happens after a key.
#[derive(Clone, Debug, PartialEq)]
pub enum DialogStep {
    /// The dialog stays open.
    Stay,
    /// The dialog closes.
    Leave,
    /// This request is to be sent, once.
    Send(Box<ActionRequest>),
}

/// The result of an action.
#[derive(Clone, Debug, PartialEq)]
pub enum ActionResult {
    /// Done; in words.
    Done(String),
    /// Not done; why.
    Refused(String),
    /// No answer came, or one that leaves it open.
    Unknown(String),
}

/// An open dialog.
#[derive(Clone, Debug, PartialEq)]
pub struct ActionDialog {
    /// The action.
    pub action: OperatorAction,
    /// Its target.
    pub target: ActionTarget,
    /// Which compensation, for a waiver; as typed.
    pub position: String,
    /// Why, or the note; as typed.
    pub reason: String,
    /// How far it is.
    pub stage: DialogStage,
    actor: String,
    id: Uuid,
}

impl ActionDialog {
    /// Opens a dialog. `id` becomes the `request_id` of everything that it sends.
    pub fn new(action: OperatorAction, target: ActionTarget, actor: &str, id: Uuid) -> Self {
        let (stage, position) = match action {
            OperatorAction::Recover(RecoveryDecision::Unspecified) => (DialogStage::Decision, String::new()),
            OperatorAction::Waive => (DialogStage::Position, first_open(&target)),
            OperatorAction::Recover(_)
            | OperatorAction::Cancel { .. }
            | OperatorAction::Quarantine { .. }
            | OperatorAction::Annotate
            | OperatorAction::Pause
            | OperatorAction::Resume => (DialogStage::Reason, String::new()),
        };
        ActionDialog { action, target, position, reason: String::new(), stage, actor: actor.to_owned(), id }
    }

    /// What will be sent.
    pub fn request(&self) -> ActionRequest {
        let position = self.position.parse().unwrap_or(0);
        request(self.action, &self.target, position, &self.actor, self.reason.trim(), self.id)
    }

    /// What a key does.
    pub fn key(&mut self, key: KeyCode) -> DialogStep {
        let (has_reason, is_hard) = (self.has_reason(), self.action.is_hard());
        match (&mut self.stage, key) {
            // It can't be cancelled, and its answer must be seen.
            (DialogStage::Sending, _) => {}
            (_, KeyCode::Esc) => return DialogStep::Leave,
            (DialogStage::Decision, KeyCode::Char(decision)) => self.decide(decision),
            (DialogStage::Position, KeyCode::Char(digit)) if digit.is_ascii_digit() && self.position.len() < 3 => {
                self.position.push(digit);
            }
            (DialogStage::Position, KeyCode::Backspace) => drop(self.position.pop()),
            (DialogStage::Position, KeyCode::Enter)
                if self.position.parse().is_ok_and(|position: i32| position > 0) =>
            {
                self.stage = DialogStage::Reason;
            }
            (DialogStage::Reason, KeyCode::Char(c)) => self.write(&c.to_string()),
            (DialogStage::Reason, KeyCode::Backspace) => drop(self.reason.pop()),
            (DialogStage::Reason, KeyCode::Enter) if has_reason => self.stage = DialogStage::Confirm(String::new()),
            (DialogStage::Confirm(_), KeyCode::Char('y')) if !is_hard => return self.send(),
            (DialogStage::Confirm(_), KeyCode::Char('n')) if !is_hard => return DialogStep::Leave,
            (DialogStage::Confirm(typed), KeyCode::Char(c)) if is_hard => typed.push(c),
            (DialogStage::Confirm(typed), KeyCode::Backspace) => drop(typed.pop()),
            (DialogStage::Confirm(typed), KeyCode::Enter) if is_hard && typed == self.target.name() => {
                return self.send();
            }
            (DialogStage::Unknown(_), KeyCode::Char('y')) => return self.send(),
            (DialogStage::Refused(_), KeyCode::Enter | KeyCode::Char(_)) => return DialogStep::Leave,
            (
                DialogStage::Decision
                | DialogStage::Position
                | DialogStage::Reason
                | DialogStage::Confirm(_)
                | DialogStage::Refused(_)
                | DialogStage::Unknown(_),
                _,
            ) => {}
        }
        DialogStep::Stay
    }

    /// Pasted text; never a confirmation, whatever it contains.
    pub fn paste(&mut self, text: &str) {
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        match &mut self.stage {
            DialogStage::Reason => self.write(&text),
            DialogStage::Confirm(typed) if self.action.is_hard() => typed.push_str(text.trim()),
            DialogStage::Decision
            | DialogStage::Position
            | DialogStage::Confirm(_)
            | DialogStage::Sending
            | DialogStage::Refused(_)
            | DialogStage::Unknown(_) => {}
        }
    }

    /// Applies the result; returns true if it is done and the dialog can close.
    pub fn answered(&mut self, result: &ActionResult) -> bool {
        match result {
            ActionResult::Done(_) => return true,
            ActionResult::Refused(why) => self.stage = DialogStage::Refused(why.clone()),
            ActionResult::Unknown(why) => self.stage = DialogStage::Unknown(why.clone()),
        }
        false
    }

    fn send(&mut self) -> DialogStep {
        self.stage = DialogStage::Sending;
        DialogStep::Send(Box::new(self.request()))
    }

    fn decide(&mut self, key: char) {
        let decision = match key {
            'r' => RecoveryDecision::Requeue,
            'c' => RecoveryDecision::Compensate,
            'x' => RecoveryDecision::Quarantine,
            _ => return,
        };
        (self.action, self.stage) = (OperatorAction::Recover(decision), DialogStage::Reason);
    }

    fn write(&mut self, text: &str) {
        if self.reason.len() + text.len() <= TEXT_BYTES {
            self.reason.push_str(text);
        }
    }

    /// Pausing and resuming a queue needs no reason.
    fn has_reason(&self) -> bool {
        !self.reason.trim().is_empty() || matches!(self.action, OperatorAction::Pause | OperatorAction::Resume)
    }
}

/// The next compensation: they run from the last to the first.
fn first_open(target: &ActionTarget) -> String {
    let ActionTarget::Saga(saga) = target else { return String::new() };
    let open = saga.compensations.iter().filter(|compensation| match compensation.state() {
        CompensationState::Pending | CompensationState::Failed => true,
        CompensationState::Done | CompensationState::Waived | CompensationState::Unspecified => false,
    });
    open.map(|compensation| compensation.position).max().map(|position| position.to_string()).unwrap_or_default()
}

/// Why an action makes no sense for a target; `None` if it does. The coordinator decides; this only saves typing a
/// reason in vain.
pub fn why_impossible(action: OperatorAction, target: &ActionTarget) -> Option<&'static str> {
    let ActionTarget::Saga(saga) = target else { return None };
    match action {
        OperatorAction::Recover(_) if !saga.stale => Some("only a stale saga can be recovered"),
        OperatorAction::Waive if saga.state() != SagaState::Compensating => {
            Some("only a compensating saga has compensations to waive")
        }
        OperatorAction::Cancel { .. } | OperatorAction::Quarantine { .. } if saga.end_time.is_some() => {
            Some("it has ended")
        }
        OperatorAction::Recover(_)
        | OperatorAction::Waive
        | OperatorAction::Cancel { .. }
        | OperatorAction::Quarantine { .. }
        | OperatorAction::Annotate
        | OperatorAction::Pause
        | OperatorAction::Resume => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Compensation, Saga};

    fn saga() -> ActionTarget {
        ActionTarget::Saga(Box::new(Saga { task_id: "t-1".to_owned(), stale: true, ..Saga::default() }))
    }

    fn dialog(action: OperatorAction) -> ActionDialog {
        ActionDialog::new(action, saga(), "me@here", Uuid::from_u128(7))
    }

    fn typed(dialog: &mut ActionDialog, text: &str) -> Vec<DialogStep> {
        text.chars().map(|c| dialog.key(if c == '\n' { KeyCode::Enter } else { KeyCode::Char(c) })).collect()
    }

    #[test]
    fn an_action_needs_a_reason_and_a_y() {
        let mut dialog = dialog(OperatorAction::Recover(RecoveryDecision::Unspecified));
        typed(&mut dialog, "r\n\n");
        assert_eq!(dialog.stage, DialogStage::Reason, "without a reason it does not go on");
        typed(&mut dialog, "rebooted\n");
        assert_eq!(dialog.stage, DialogStage::Confirm(String::new()));
        assert_eq!(dialog.key(KeyCode::Enter), DialogStep::Stay, "Enter does not confirm");
        let DialogStep::Send(sent) = dialog.key(KeyCode::Char('y')) else { panic!("it is sent") };
        assert_eq!(*sent, dialog.request());
        assert_eq!(dialog.key(KeyCode::Char('y')), DialogStep::Stay, "it is sent once");
        assert_eq!(dialog.key(KeyCode::Esc), DialogStep::Stay, "Esc does not leave before the answer");
    }

    #[test]
    fn revoking_a_lease_needs_the_task_id_typed() {
        let mut dialog = dialog(OperatorAction::Cancel { revoke: true });
        let steps = typed(&mut dialog, "amok\ny\n");
        assert!(steps.iter().all(|step| *step == DialogStep::Stay), "y is not enough");
        dialog.key(KeyCode::Backspace);
        let steps = typed(&mut dialog, "t-1\n");
        assert!(matches!(steps.last(), Some(DialogStep::Send(_))), "{steps:?}");
    }

    #[test]
    fn an_unknown_outcome_is_retried_with_the_same_request_and_only_after_a_y() {
        let mut dialog = dialog(OperatorAction::Cancel { revoke: false });
        let steps = typed(&mut dialog, "closed\ny");
        let Some(DialogStep::Send(first)) = steps.into_iter().next_back() else { panic!("it is sent") };
        assert!(!dialog.answered(&ActionResult::Unknown("no answer".to_owned())));
        assert_eq!(dialog.key(KeyCode::Enter), DialogStep::Stay);
        let DialogStep::Send(second) = dialog.key(KeyCode::Char('y')) else { panic!("it is sent again") };
        assert_eq!(first, second, "the same request_id, too");
        assert!(!dialog.answered(&ActionResult::Refused("NOT_STALE".to_owned())));
        assert_eq!(dialog.stage, DialogStage::Refused("NOT_STALE".to_owned()));
        assert_eq!(dialog.key(KeyCode::Enter), DialogStep::Leave);
    }

    #[test]
    fn pasted_text_confirms_nothing() {
        let mut dialog = dialog(OperatorAction::Annotate);
        dialog.paste("told\ny\ny");
        assert_eq!((dialog.reason.as_str(), &dialog.stage), ("told y y", &DialogStage::Reason));
        dialog.key(KeyCode::Enter);
        dialog.paste("y");
        assert_eq!(dialog.stage, DialogStage::Confirm(String::new()));
    }

    #[test]
    fn waive_offers_the_next_compensation_to_run() {
        let compensation = |position, state: CompensationState| Compensation {
            position,
            state: state.into(),
            ..Compensation::default()
        };
        let compensations = vec![
            compensation(1, CompensationState::Pending),
            compensation(2, CompensationState::Failed),
            compensation(3, CompensationState::Done),
        ];
        let target = ActionTarget::Saga(Box::new(Saga { compensations, ..Saga::default() }));
        let mut dialog = ActionDialog::new(OperatorAction::Waive, target, "me", Uuid::nil());
        assert_eq!(dialog.position, "2");
        dialog.key(KeyCode::Backspace);
        typed(&mut dialog, "0\nx");
        assert_eq!(dialog.stage, DialogStage::Position, "there is no compensation at 0");
        assert_eq!(
            why_impossible(OperatorAction::Waive, &saga()),
            Some("only a compensating saga has compensations to waive")
        );
        assert_eq!(why_impossible(OperatorAction::Recover(RecoveryDecision::Requeue), &saga()), None);
    }
}
