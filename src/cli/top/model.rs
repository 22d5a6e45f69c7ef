//! [`Model`]: the state of the screen. Pure: it gets what happened ([`Message`]) and returns what is to be done
//! ([`Effect`]).

use uuid::Uuid;

use super::{
    ask::{Ask, Sent},
    keys::Key,
    query::{Query, View},
    rows::{Chosen, Sort},
    sight::{Rates, Sight, Stretch},
    verb::Action,
};
use crate::{client::time::Moment, proto::Saga};

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
#[derive(Clone, Debug)]
pub enum Message {
    /// A key, and an unused id in case it opens a dialog.
    Key(Key, Uuid),
    /// Text was pasted.
    Paste(String),
    /// Time passed, or the screen was resized.
    Tick,
    /// A snapshot was fetched.
    Seen(Box<Sight>),
    /// A snapshot could not be fetched; says why.
    Blind(String),
    /// Events.
    Happened(Stretch),
    /// The result of an action.
    Sent(Sent),
    /// A signal asked to end.
    Told,
}

/// Something to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Fetch snapshots with this query, now and from now on.
    Look(Query),
    /// Send this, once.
    Send(Box<Action>),
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
    pub sight: Option<Sight>,
    /// Why the last fetch failed; none if it succeeded.
    pub blind: Option<String>,
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
    pub saga: Chosen,
    /// True after an action of this user: if the saga then leaves the view, the row in its place is selected.
    decided: bool,
    /// The selected queue.
    pub queue: Chosen,
    /// The scroll position of the detail view.
    pub scroll: usize,
    /// What is being typed.
    pub typing: Option<Typing>,
    /// The open dialog.
    pub ask: Option<Ask>,
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
            sight: None,
            blind: None,
            rates: Rates::default(),
            query,
            pages: Vec::new(),
            sort: Sort::default(),
            reversed: false,
            focus: Focus::default(),
            saga: Chosen::default(),
            decided: false,
            queue: Chosen::default(),
            scroll: 0,
            typing: None,
            ask: None,
            help: false,
            notice: String::new(),
        }
    }

    /// Applies a message.
    pub fn update(&mut self, now: Moment, message: Message) -> Vec<Effect> {
        self.now = now;
        match message {
            Message::Key(Key::Interrupt, _) | Message::Told => vec![Effect::Leave],
            Message::Key(key, id) => self.key(key, id),
            Message::Paste(text) => {
                self.paste(&text);
                Vec::new()
            }
            Message::Tick => Vec::new(),
            Message::Seen(sight) => self.seen(*sight),
            Message::Blind(why) => {
                self.blind = Some(why);
                Vec::new()
            }
            Message::Happened(stretch) => {
                self.rates.add(stretch);
                Vec::new()
            }
            Message::Sent(sent) => self.sent(&sent),
        }
    }

    /// The sagas in screen order.
    pub fn rows(&self) -> Vec<&Saga> {
        let mut rows: Vec<&Saga> = self.sight.iter().flat_map(|sight| &sight.page.sagas).collect();
        rows.sort_by(|a, b| self.sort.compare(a, b));
        if self.reversed {
            rows.reverse();
        }
        rows
    }

    /// The names of the queues in screen order.
    pub fn queues(&self) -> Vec<&str> {
        let all = self.sight.iter().flat_map(|sight| &sight.stats.queues).map(|queue| queue.queue.as_str());
        let wanted = &self.query.queues;
        all.filter(|queue| wanted.is_empty() || wanted.iter().any(|wanted| wanted == queue)).collect()
    }

    /// Finds the selected rows again.
    pub fn follow(&mut self) {
        let sagas: Vec<String> = self.rows().iter().map(|saga| saga.task_id.clone()).collect();
        self.saga.follow(sagas.iter().map(String::as_str));
        let queues: Vec<String> = self.queues().into_iter().map(str::to_owned).collect();
        self.queue.follow(queues.iter().map(String::as_str));
    }

    /// Changes the query.
    pub fn look(&mut self, change: impl FnOnce(&mut Query)) -> Vec<Effect> {
        change(&mut self.query);
        self.query.number += 1;
        vec![Effect::Look(self.query.clone())]
    }

    fn seen(&mut self, sight: Sight) -> Vec<Effect> {
        self.blind = None;
        // A snapshot for an old query; the right one will follow.
        if sight.number != self.query.number {
            return Vec::new();
        }
        let page_is_gone = sight.page.sagas.is_empty() && sight.page.next_page_token.is_empty();
        self.sight = Some(sight);
        self.follow();
        if std::mem::take(&mut self.decided) && self.saga.name.is_none() {
            let rows: Vec<String> = self.rows().iter().map(|saga| saga.task_id.clone()).collect();
            self.saga.step(0, rows.iter().map(String::as_str));
        }
        match if page_is_gone { self.pages.pop() } else { None } {
            Some(before) => self.look(|query| query.page_token = before),
            None => Vec::new(),
        }
    }

    fn sent(&mut self, sent: &Sent) -> Vec<Effect> {
        if self.ask.as_mut().is_some_and(|ask| ask.answered(sent)) {
            self.ask = None;
        }
        match sent {
            Sent::Done(what) => {
                self.notice = what.clone();
                self.decided = true;
            }
            Sent::Refused(_) | Sent::Unknown(_) => {}
        }
        // The effect of the action must be visible at once.
        self.look(|_| {})
    }

    fn paste(&mut self, text: &str) {
        if let Some(ask) = &mut self.ask {
            ask.paste(text);
        } else if let Some(Typing::Text(typed) | Typing::Queues(typed)) = &mut self.typing {
            typed.extend(text.chars().filter(|c| !c.is_control()));
        }
    }
}

/// The view of a number key.
pub fn view(key: char) -> Option<View> {
    let number = usize::try_from(key.to_digit(10)?).ok()?.checked_sub(1)?;
    View::ALL.get(number).copied()
}
