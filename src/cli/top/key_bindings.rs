//! The effect of each key.

use ratatui::crossterm::event::KeyCode;
use uuid::Uuid;

use super::{
    action_dialog::{ActionDialog, DialogStep, why_impossible},
    model::{Effect, Focus, Model, Typing},
    operator_action::{ActionTarget, OperatorAction},
    query::{Query, View},
    selection::Selection,
};
use crate::proto::RecoveryDecision;

/// Rows that a page key moves by.
const PAGE_ROWS: isize = 20;

impl Model {
    pub(super) fn key(&mut self, key: KeyCode, id: Uuid) -> Vec<Effect> {
        if self.help {
            self.help = false;
            return Vec::new();
        }
        if let Some(dialog) = &mut self.dialog {
            return match dialog.key(key) {
                DialogStep::Stay => Vec::new(),
                DialogStep::Leave => {
                    self.dialog = None;
                    Vec::new()
                }
                DialogStep::Send(action) => vec![Effect::Send(action)],
            };
        }
        if self.typing.is_some() {
            return self.type_on(key);
        }
        self.notice.clear();
        match key {
            KeyCode::Char(c) => self.letter(c, id),
            KeyCode::Enter => self.open(),
            KeyCode::Esc => self.back(),
            KeyCode::Tab => {
                self.focus = match self.focus {
                    Focus::Sagas => Focus::Queues,
                    Focus::Queues => Focus::Sagas,
                };
                Vec::new()
            }
            KeyCode::Up => self.step(-1),
            KeyCode::Down => self.step(1),
            KeyCode::PageUp => self.step(-PAGE_ROWS),
            KeyCode::PageDown => self.step(PAGE_ROWS),
            KeyCode::Home => self.step(isize::MIN / 2),
            KeyCode::End => self.step(isize::MAX / 2),
            _ => Vec::new(),
        }
    }

    fn letter(&mut self, c: char, id: Uuid) -> Vec<Effect> {
        match c {
            'q' => return vec![Effect::Leave],
            '?' | 'h' => self.help = true,
            'k' => return self.step(-1),
            'j' => return self.step(1),
            'g' => return self.step(isize::MIN / 2),
            'G' => return self.step(isize::MAX / 2),
            '/' => self.typing = Some(Typing::Text(self.query.text.clone())),
            'f' => self.typing = Some(Typing::Queues(self.query.queues.join(","))),
            's' | 'S' => {
                if c == 's' {
                    self.sort = self.sort.next();
                } else {
                    self.reversed = !self.reversed;
                }
                self.follow();
            }
            'o' => return self.first_page(|query| query.newest_first = !query.newest_first),
            '>' => return self.next_page(),
            '<' => return self.previous_page(),
            ' ' => return self.set_query(|_| {}),
            'r' => self.begin(OperatorAction::Recover(RecoveryDecision::Unspecified), id),
            'c' | 'C' => self.begin(OperatorAction::Cancel { revoke: c == 'C' }, id),
            'x' | 'X' => self.begin(OperatorAction::Quarantine { revoke: c == 'X' }, id),
            'w' => self.begin(OperatorAction::Waive, id),
            'a' => self.begin(OperatorAction::Annotate, id),
            'p' => self.pause(id),
            other => {
                if let Some(view) = View::of_key(other) {
                    self.focus = Focus::Sagas;
                    return self.first_page(|query| (query.view, query.detail) = (view, None));
                }
            }
        }
        Vec::new()
    }

    /// Changes the query and shows its first page.
    fn first_page(&mut self, change: impl FnOnce(&mut Query)) -> Vec<Effect> {
        self.pages.clear();
        self.saga = Selection::default();
        self.set_query(|query| {
            query.page_token.clear();
            change(query);
        })
    }

    fn next_page(&mut self) -> Vec<Effect> {
        // A snapshot for an earlier query has the token of another listing.
        let current = self.snapshot.as_ref().filter(|snapshot| snapshot.number == self.query.number);
        let next = current.map(|snapshot| snapshot.page.next_page_token.clone()).filter(|next| !next.is_empty());
        let Some(next) = next else { return Vec::new() };
        self.pages.push(self.query.page_token.clone());
        self.saga = Selection::default();
        self.set_query(|query| query.page_token = next)
    }

    fn previous_page(&mut self) -> Vec<Effect> {
        let Some(before) = self.pages.pop() else { return Vec::new() };
        self.saga = Selection::default();
        self.set_query(|query| query.page_token = before)
    }

    fn step(&mut self, by: isize) -> Vec<Effect> {
        if self.query.detail.is_some() {
            self.scroll = self.scroll.saturating_add_signed(by).min(self.scroll_max());
            return Vec::new();
        }
        match self.focus {
            Focus::Sagas => {
                let names = self.task_ids();
                let last = self.saga.row + 1 >= names.len();
                if by == 1 && last && self.saga.name.is_some() {
                    return self.next_page();
                }
                self.saga.step(by, &names);
            }
            Focus::Queues => {
                let names = self.queue_names();
                self.queue.step(by, &names);
            }
        }
        Vec::new()
    }

    /// An upper bound of the lines of the detail view.
    fn scroll_max(&self) -> usize {
        let detail = self.snapshot.as_ref().and_then(|snapshot| snapshot.detail.as_ref());
        detail.map_or(0, |detail| {
            let compensations = detail.saga.as_ref().map_or(0, |saga| saga.compensations.len());
            (30 + compensations + detail.events.len()).saturating_sub(5)
        })
    }

    fn open(&mut self) -> Vec<Effect> {
        match self.focus {
            Focus::Sagas => {
                let Some(name) = self.saga.name.clone().filter(|_| self.query.detail.is_none()) else {
                    return Vec::new();
                };
                self.scroll = 0;
                self.set_query(|query| query.detail = Some(name))
            }
            Focus::Queues => {
                let Some(queue) = self.queue.name.clone() else { return Vec::new() };
                self.focus = Focus::Sagas;
                self.first_page(|query| query.queues = vec![queue])
            }
        }
    }

    /// Leaves the detail view; then clears the filters.
    fn back(&mut self) -> Vec<Effect> {
        if self.query.detail.is_some() {
            return self.set_query(|query| query.detail = None);
        }
        if self.query.queues.is_empty() && self.query.text.is_empty() {
            return Vec::new();
        }
        self.first_page(|query| {
            query.queues.clear();
            query.text.clear();
        })
    }

    fn type_on(&mut self, key: KeyCode) -> Vec<Effect> {
        let Some(typing) = &mut self.typing else { return Vec::new() };
        let (Typing::Text(typed) | Typing::Queues(typed)) = typing;
        match key {
            KeyCode::Char(c) if typed.len() < 200 => typed.push(c),
            KeyCode::Backspace => drop(typed.pop()),
            KeyCode::Esc => self.typing = None,
            KeyCode::Enter => match self.typing.take() {
                Some(Typing::Text(text)) => return self.first_page(|query| query.text = text),
                Some(Typing::Queues(text)) => {
                    let queues = text.split(',').map(str::trim).filter(|queue| !queue.is_empty());
                    let queues = queues.map(str::to_owned).collect();
                    return self.first_page(|query| query.queues = queues);
                }
                None => {}
            },
            _ => {}
        }
        Vec::new()
    }

    /// The saga of an action: that of the detail view, or the selected one.
    fn target(&self) -> Option<ActionTarget> {
        let snapshot = self.snapshot.as_ref()?;
        let saga = match &self.query.detail {
            Some(task_id) => snapshot.detail.as_ref()?.saga.as_ref().filter(|saga| saga.task_id == *task_id)?,
            None => {
                let name = self.saga.name.as_ref()?;
                snapshot.page.sagas.iter().find(|saga| saga.task_id == *name)?
            }
        };
        Some(ActionTarget::Saga(Box::new(saga.clone())))
    }

    /// Opens the dialog for an action on the selected saga.
    fn begin(&mut self, action: OperatorAction, id: Uuid) {
        self.open_dialog(action, self.target(), "select a saga first", id);
    }

    fn open_dialog(&mut self, action: OperatorAction, target: Option<ActionTarget>, without: &str, id: Uuid) {
        self.notice = match target {
            _ if self.settings.read_only => "--read-only disables the keys that change something".to_owned(),
            None => without.to_owned(),
            Some(target) => match why_impossible(action, &target) {
                Some(why) => format!("{}: {why}", target.name()),
                None => {
                    self.dialog = Some(ActionDialog::new(action, target, &self.settings.actor, id));
                    return;
                }
            },
        };
    }

    /// Pauses or resumes a queue: the selected one, or that of the selected saga.
    fn pause(&mut self, id: Uuid) {
        let queue = match (self.focus, self.target()) {
            (Focus::Queues, _) => self.queue.name.clone(),
            (Focus::Sagas, Some(ActionTarget::Saga(saga))) => Some(saga.queue),
            (Focus::Sagas, Some(ActionTarget::Queue(_)) | None) => None,
        };
        let mut stats = self.snapshot.iter().flat_map(|snapshot| &snapshot.stats.queues);
        let paused = stats.any(|stats| stats.paused && Some(&stats.queue) == queue.as_ref());
        let action = if paused { OperatorAction::Resume } else { OperatorAction::Pause };
        self.open_dialog(action, queue.map(ActionTarget::Queue), "select a queue first: Tab", id);
    }
}
