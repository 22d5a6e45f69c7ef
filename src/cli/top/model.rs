//! [`Model`]: the state of the screen. Pure: it gets what happened ([`Message`]) and returns what is to be done
//! ([`Effect`]).

use ratatui::crossterm::event::KeyCode;
use uuid::Uuid;

use super::{
    action_dialog::{ActionDialog, ActionResult},
    operator_action::ActionRequest,
    query::Query,
    rates::{CountsInterval, Rates},
    selection::Selection,
    snapshot::Snapshot,
    sort::Sort,
};
use crate::{
    client::time::Moment,
    proto::{QueueStats, Saga},
};

/// Settings that don't change while it runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The coordinator's address.
    pub server: String,
    /// Who acts.
    pub actor: String,
    /// True if nothing may be changed.
    pub read_only: bool,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// A key, and an unused id in case it opens a dialog.
    Key(KeyCode, Uuid),
    /// Text was pasted.
    Paste(String),
    /// Time passed, or the screen was resized.
    Tick,
    /// A snapshot was fetched.
    Fetched(Box<Snapshot>),
    /// A snapshot could not be fetched; says why.
    FetchFailed(String),
    /// Events.
    Counted(CountsInterval),
    /// The result of an action.
    Answered(ActionResult),
    /// Ctrl-C, a signal to end, or the loss of the terminal.
    Terminate,
}

/// Something to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Fetch snapshots with this query, now and from now on.
    Fetch(Query),
    /// Send this, once.
    Send(Box<ActionRequest>),
    /// Restore the terminal and end.
    Leave,
}

/// Which half of the screen has the focus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Focus {
    /// The sagas.
    #[default]
    Sagas,
    /// The queues.
    Queues,
}

/// What is being typed into the line at the bottom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Typing {
    /// A text to look for.
    Text(String),
    /// The queues to be shown, separated by commas.
    Queues(String),
}

/// The state of the screen.
pub struct Model {
    /// What does not change.
    pub settings: Settings,
    /// The current time.
    pub now: Moment,
    /// The last snapshot.
    pub snapshot: Option<Snapshot>,
    /// Why the last fetch failed; none if it succeeded.
    pub fetch_error: Option<String>,
    /// Rates of events.
    pub rates: Rates,
    /// The current query.
    pub query: Query,
    /// The tokens of the pages before this one.
    pub pages: Vec<String>,
    /// The order of the rows on the page.
    pub sort: Sort,
    /// True if the order is reversed.
    pub reversed: bool,
    /// The half with the focus.
    pub focus: Focus,
    /// The selected saga.
    pub saga: Selection,
    /// True after an action of this user: if the saga then leaves the view, the row in its place is selected.
    decided: bool,
    /// The selected queue.
    pub queue: Selection,
    /// The scroll position of the detail view.
    pub scroll: usize,
    /// What is being typed.
    pub typing: Option<Typing>,
    /// The open dialog.
    pub dialog: Option<ActionDialog>,
    /// Whether help is shown.
    pub help: bool,
    /// The result of the last action, or why a key did nothing.
    pub notice: String,
}

impl Model {
    /// The state before the first snapshot.
    pub fn new(settings: Settings, query: Query, now: Moment) -> Self {
        Model {
            settings,
            now,
            snapshot: None,
            fetch_error: None,
            rates: Rates::default(),
            query,
            pages: Vec::new(),
            sort: Sort::default(),
            reversed: false,
            focus: Focus::default(),
            saga: Selection::default(),
            decided: false,
            queue: Selection::default(),
            scroll: 0,
            typing: None,
            dialog: None,
            help: false,
            notice: String::new(),
        }
    }

    /// Applies a message.
    pub fn update(&mut self, now: Moment, message: Message) -> Vec<Effect> {
        self.now = now;
        match message {
            Message::Terminate => return vec![Effect::Leave],
            Message::Key(key, id) => return self.key(key, id),
            Message::Fetched(snapshot) => return self.show(*snapshot),
            Message::Answered(result) => return self.answered(&result),
            Message::Paste(text) => self.paste(&text),
            Message::FetchFailed(why) => self.fetch_error = Some(why),
            Message::Counted(interval) => self.rates.add(interval),
            Message::Tick => {}
        }
        Vec::new()
    }

    /// The sagas in screen order.
    pub fn rows(&self) -> Vec<&Saga> {
        let mut rows: Vec<&Saga> = self.snapshot.iter().flat_map(|snapshot| &snapshot.page.sagas).collect();
        rows.sort_by(|a, b| self.sort.compare(a, b));
        if self.reversed {
            rows.reverse();
        }
        rows
    }

    /// Their ids.
    pub fn task_ids(&self) -> Vec<String> {
        self.rows().iter().map(|saga| saga.task_id.clone()).collect()
    }

    /// The queues in screen order.
    pub fn queues(&self) -> Vec<&QueueStats> {
        let all = self.snapshot.iter().flat_map(|snapshot| &snapshot.stats.queues);
        all.filter(|stats| self.query.queues.is_empty() || self.query.queues.contains(&stats.queue)).collect()
    }

    /// Their names.
    pub fn queue_names(&self) -> Vec<String> {
        self.queues().iter().map(|stats| stats.queue.clone()).collect()
    }

    /// Finds the selected rows again.
    pub fn follow(&mut self) {
        let (sagas, queues) = (self.task_ids(), self.queue_names());
        self.saga.follow(&sagas);
        self.queue.follow(&queues);
    }

    /// Changes the query.
    pub fn set_query(&mut self, change: impl FnOnce(&mut Query)) -> Vec<Effect> {
        change(&mut self.query);
        self.query.number += 1;
        vec![Effect::Fetch(self.query.clone())]
    }

    fn show(&mut self, snapshot: Snapshot) -> Vec<Effect> {
        self.fetch_error = None;
        // A snapshot for an old query; the right one will follow.
        if snapshot.number != self.query.number {
            return Vec::new();
        }
        let page_is_gone = snapshot.page.sagas.is_empty() && snapshot.page.next_page_token.is_empty();
        self.snapshot = Some(snapshot);
        self.follow();
        if std::mem::take(&mut self.decided) && self.saga.name.is_none() {
            let rows = self.task_ids();
            self.saga.step(0, &rows);
        }
        match if page_is_gone { self.pages.pop() } else { None } {
            Some(before) => self.set_query(|query| query.page_token = before),
            None => Vec::new(),
        }
    }

    fn answered(&mut self, result: &ActionResult) -> Vec<Effect> {
        if self.dialog.as_mut().is_some_and(|dialog| dialog.answered(result)) {
            self.dialog = None;
        }
        if let ActionResult::Done(what) = result {
            self.notice = what.clone();
            self.decided = true;
        }
        // The effect of the action must be visible at once.
        self.set_query(|_| {})
    }

    fn paste(&mut self, text: &str) {
        if let Some(dialog) = &mut self.dialog {
            dialog.paste(text);
        } else if let Some(Typing::Text(typed) | Typing::Queues(typed)) = &mut self.typing {
            typed.extend(text.chars().filter(|c| !c.is_control()));
        }
    }
}
