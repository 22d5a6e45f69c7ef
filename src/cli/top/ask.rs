//! [`ActionDialog`]: one operator action from its key to its answer: the target, the reason, the request, the
//! confirmation, the result.

use uuid::Uuid;

use super::{
    keys::Key,
    verb::{Action, Subject, Verb, action},
};
use crate::proto::{CompensationState, RecoveryDecision, SagaState};

/// The longest reason and note that the coordinator takes.
const REASON_BYTES_MAX: usize = 4096;

/// How far it is.
#[derive(Clone, Debug, PartialEq)]
pub enum Stage {
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
pub enum Step {
    /// The dialog stays open.
    Stay,
    /// The dialog closes.
    Leave,
    /// This request is to be sent, once.
    Send(Box<Action>),
}

/// The result of an action.
#[derive(Clone, Debug, PartialEq)]
pub enum Sent {
    /// Done; in words.
    Done(String),
    /// Not done; why.
    Refused(String),
    /// No answer came, or one that leaves it open.
    Unknown(String),
}

/// An open dialog.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// What.
    pub verb: Verb,
    /// To what.
    pub subject: Subject,
    /// Which compensation, for a waiver; as typed.
    pub position: String,
    /// Why, or the note; as typed.
    pub reason: String,
    /// How far it is.
    pub stage: Stage,
    actor: String,
    id: Uuid,
}

impl Ask {
    /// Opens a dialog. `id` becomes the `request_id` of everything that it sends.
    pub fn new(verb: Verb, subject: Subject, actor: &str, id: Uuid) -> Self {
        let stage = match verb {
            Verb::Recover(RecoveryDecision::Unspecified) => Stage::Decision,
            Verb::Waive => Stage::Position,
            Verb::Recover(_)
            | Verb::Cancel { .. }
            | Verb::Quarantine { .. }
            | Verb::Annotate
            | Verb::Pause
            | Verb::Resume => Stage::Reason,
        };
        let position = if verb == Verb::Waive { first_open(&subject) } else { String::new() };
        Ask { verb, subject, position, reason: String::new(), stage, actor: actor.to_owned(), id }
    }

    /// What will be sent.
    pub fn action(&self) -> Action {
        let position = self.position.parse().unwrap_or(0);
        action(self.verb, &self.subject, position, &self.actor, self.reason.trim(), self.id)
    }

    /// What a key does.
    pub fn key(&mut self, key: Key) -> Step {
        let has_reason = self.has_reason();
        match (&mut self.stage, key) {
            // It can't be cancelled, and its answer must be seen.
            (Stage::Sending, _) => {}
            (_, Key::Escape) => return Step::Leave,
            (Stage::Decision, Key::Char(decision)) => self.decide(decision),
            (Stage::Position, Key::Char(digit)) if digit.is_ascii_digit() && self.position.len() < 3 => {
                self.position.push(digit);
            }
            (Stage::Position, Key::Backspace) => drop(self.position.pop()),
            (Stage::Position, Key::Enter) if self.position.parse().is_ok_and(|position: i32| position > 0) => {
                self.stage = Stage::Reason;
            }
            (Stage::Reason, Key::Char(c)) => self.write(&c.to_string()),
            (Stage::Reason, Key::Backspace) => drop(self.reason.pop()),
            (Stage::Reason, Key::Enter) if has_reason => self.stage = Stage::Confirm(String::new()),
            (Stage::Confirm(_), Key::Char('y')) if !self.verb.is_hard() => return self.send(),
            (Stage::Confirm(_), Key::Char('n')) if !self.verb.is_hard() => return Step::Leave,
            (Stage::Confirm(typed), Key::Char(c)) if self.verb.is_hard() => typed.push(c),
            (Stage::Confirm(typed), Key::Backspace) => drop(typed.pop()),
            (Stage::Confirm(typed), Key::Enter) if self.verb.is_hard() && typed == self.subject.name() => {
                return self.send();
            }
            (Stage::Unknown(_), Key::Char('y')) => return self.send(),
            (Stage::Refused(_), Key::Enter | Key::Char(_)) => return Step::Leave,
            (
                Stage::Decision
                | Stage::Position
                | Stage::Reason
                | Stage::Confirm(_)
                | Stage::Refused(_)
                | Stage::Unknown(_),
                _,
            ) => {}
        }
        Step::Stay
    }

    /// Pasted text; never a confirmation, whatever it contains.
    pub fn paste(&mut self, text: &str) {
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        match &mut self.stage {
            Stage::Reason => self.write(&text),
            Stage::Confirm(typed) if self.verb.is_hard() => typed.push_str(text.trim()),
            Stage::Decision
            | Stage::Position
            | Stage::Confirm(_)
            | Stage::Sending
            | Stage::Refused(_)
            | Stage::Unknown(_) => {}
        }
    }

    /// Applies the result; returns true if it is done and the dialog can close.
    pub fn answered(&mut self, sent: &Sent) -> bool {
        match sent {
            Sent::Done(_) => return true,
            Sent::Refused(why) => self.stage = Stage::Refused(why.clone()),
            Sent::Unknown(why) => self.stage = Stage::Unknown(why.clone()),
        }
        false
    }

    fn send(&mut self) -> Step {
        self.stage = Stage::Sending;
        Step::Send(Box::new(self.action()))
    }

    fn decide(&mut self, key: char) {
        let decision = match key {
            'r' => RecoveryDecision::Requeue,
            'c' => RecoveryDecision::Compensate,
            'x' => RecoveryDecision::Quarantine,
            _ => return,
        };
        (self.verb, self.stage) = (Verb::Recover(decision), Stage::Reason);
    }

    fn write(&mut self, text: &str) {
        if self.reason.len() + text.len() <= REASON_BYTES_MAX {
            self.reason.push_str(text);
        }
    }

    /// Pausing and resuming a queue needs no reason.
    fn has_reason(&self) -> bool {
        !self.reason.trim().is_empty() || matches!(self.verb, Verb::Pause | Verb::Resume)
    }
}

/// The next compensation: they run from the last to the first.
fn first_open(subject: &Subject) -> String {
    let Subject::Saga(saga) = subject else { return String::new() };
    let open = saga.compensations.iter().filter(|compensation| match compensation.state() {
        CompensationState::Pending | CompensationState::Failed => true,
        CompensationState::Done | CompensationState::Waived | CompensationState::Unspecified => false,
    });
    open.map(|compensation| compensation.position).max().map(|position| position.to_string()).unwrap_or_default()
}

/// Why an action makes no sense for a target; `None` if it does. The coordinator decides; this only saves typing a
/// reason in vain.
pub fn pointless(verb: Verb, subject: &Subject) -> Option<&'static str> {
    let Subject::Saga(saga) = subject else { return None };
    match verb {
        Verb::Recover(_) if !saga.stale => Some("only a stale saga is recovered"),
        Verb::Waive if saga.state() != SagaState::Compensating => Some("only of a compensating saga"),
        Verb::Cancel { .. } | Verb::Quarantine { .. } if saga.end_time.is_some() => Some("it has ended"),
        Verb::Recover(_)
        | Verb::Waive
        | Verb::Cancel { .. }
        | Verb::Quarantine { .. }
        | Verb::Annotate
        | Verb::Pause
        | Verb::Resume => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Compensation, Saga};

    fn saga() -> Subject {
        Subject::Saga(Box::new(Saga { task_id: "t-1".to_owned(), stale: true, ..Saga::default() }))
    }

    fn ask(verb: Verb) -> Ask {
        Ask::new(verb, saga(), "me@here", Uuid::from_u128(7))
    }

    fn typed(ask: &mut Ask, text: &str) -> Vec<Step> {
        text.chars().map(|c| ask.key(if c == '\n' { Key::Enter } else { Key::Char(c) })).collect()
    }

    #[test]
    fn a_reason_and_a_yes_are_needed() {
        let mut ask = ask(Verb::Recover(RecoveryDecision::Unspecified));
        typed(&mut ask, "r\n\n");
        assert_eq!(ask.stage, Stage::Reason, "without a reason it does not go on");
        typed(&mut ask, "rebooted\n");
        assert_eq!(ask.stage, Stage::Confirm(String::new()));
        assert_eq!(ask.key(Key::Enter), Step::Stay, "Enter is no yes");
        let Step::Send(sent) = ask.key(Key::Char('y')) else { panic!("it is sent") };
        assert_eq!(*sent, ask.action());
        assert_eq!(ask.key(Key::Char('y')), Step::Stay, "and sent once");
        assert_eq!(ask.key(Key::Escape), Step::Stay, "nor left without its answer");
    }

    #[test]
    fn taking_work_from_a_live_worker_needs_its_name() {
        let mut ask = ask(Verb::Cancel { revoke: true });
        let steps = typed(&mut ask, "amok\ny\n");
        assert!(steps.iter().all(|step| *step == Step::Stay), "y is not enough");
        ask.key(Key::Backspace);
        let steps = typed(&mut ask, "t-1\n");
        assert!(matches!(steps.last(), Some(Step::Send(_))), "{steps:?}");
    }

    #[test]
    fn a_lost_answer_is_asked_for_with_the_same_request_and_only_when_told() {
        let mut ask = ask(Verb::Cancel { revoke: false });
        let steps = typed(&mut ask, "closed\ny");
        let Some(Step::Send(first)) = steps.into_iter().next_back() else { panic!("it is sent") };
        assert!(!ask.answered(&Sent::Unknown("no answer".to_owned())));
        assert_eq!(ask.key(Key::Enter), Step::Stay);
        let Step::Send(second) = ask.key(Key::Char('y')) else { panic!("it is sent again") };
        assert_eq!(first, second, "the same request_id, too");
        assert!(!ask.answered(&Sent::Refused("NOT_STALE".to_owned())));
        assert_eq!(ask.stage, Stage::Refused("NOT_STALE".to_owned()));
        assert_eq!(ask.key(Key::Enter), Step::Leave);
    }

    #[test]
    fn what_is_pasted_confirms_nothing() {
        let mut ask = ask(Verb::Annotate);
        ask.paste("told\ny\ny");
        assert_eq!((ask.reason.as_str(), &ask.stage), ("told y y", &Stage::Reason));
        ask.key(Key::Enter);
        ask.paste("y");
        assert_eq!(ask.stage, Stage::Confirm(String::new()));
    }

    #[test]
    fn the_compensation_whose_turn_it_is_is_offered() {
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
        let subject = Subject::Saga(Box::new(Saga { compensations, ..Saga::default() }));
        let mut ask = Ask::new(Verb::Waive, subject, "me", Uuid::nil());
        assert_eq!(ask.position, "2");
        ask.key(Key::Backspace);
        typed(&mut ask, "0\nx");
        assert_eq!(ask.stage, Stage::Position, "there is none at 0");
        assert_eq!(pointless(Verb::Waive, &saga()), Some("only of a compensating saga"));
        assert_eq!(pointless(Verb::Recover(RecoveryDecision::Requeue), &saga()), None);
    }
}
