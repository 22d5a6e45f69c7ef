//! What the screen knows. Pure: it is told what happened ([`Message`]) and says what is to be done ([`Effect`]).

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

/// What does not change while it runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The coordinator's address.
    pub server: String,
    /// Who acts.
    pub actor: String,
    /// Whether nothing can be changed from here.
    pub read_only: bool,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Message {
    /// A key, and an id that nobody has used, should it begin something.
    Key(Key, Uuid),
    /// Text was pasted.
    Paste(String),
    /// Some time went by, or the screen has another size.
    Tick,
    /// The coordinator was looked at.
    Seen(Box<Sight>),
    /// It could not be; why.
    Blind(String),
    /// Events.
    Happened(Stretch),
    /// An action was answered, or not.
    Sent(Sent),
    /// A signal told to end.
    Told,
}

/// Something to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Look at the coordinator with this query, now and from now on.
    Look(Query),
    /// Send this, once.
    Send(Box<Action>),
    /// Give the terminal back and end.
    Leave,
}

/// Which half of the screen the keys are for.
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

/// All that the screen knows.
pub struct Model {
    /// What does not change.
    pub settings: Settings,
    /// The present moment.
    pub now: Moment,
    /// What was seen last.
    pub sight: Option<Sight>,
    /// Why the last look failed; none: it did not.
    pub blind: Option<String>,
    /// How often things happen.
    pub rates: Rates,
    /// What is looked for.
    pub query: Query,
    /// The tokens of the pages before this one.
    pub pages: Vec<String>,
    /// The order of the rows on the page.
    pub sort: Sort,
    /// The other way round.
    pub reversed: bool,
    /// What the keys are for.
    pub focus: Focus,
    /// The chosen saga.
    pub saga: Chosen,
    /// Whether it was just decided on from here: if it leaves the view over that, the row in its place is chosen.
    decided: bool,
    /// The chosen queue.
    pub queue: Chosen,
    /// How far the saga that is looked at closely is scrolled.
    pub scroll: usize,
    /// What is being typed.
    pub typing: Option<Typing>,
    /// The verb on its way.
    pub ask: Option<Ask>,
    /// Whether help is shown.
    pub help: bool,
    /// What came of the last verb, or why a key did nothing.
    pub notice: String,
}

impl Model {
    /// Before the first look.
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

    /// Takes in what happened at a moment.
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

    /// The sagas in the order of the screen.
    pub fn rows(&self) -> Vec<&Saga> {
        let mut rows: Vec<&Saga> = self.sight.iter().flat_map(|sight| &sight.page.sagas).collect();
        rows.sort_by(|a, b| self.sort.compare(a, b));
        if self.reversed {
            rows.reverse();
        }
        rows
    }

    /// The names of the queues in the order of the screen.
    pub fn queues(&self) -> Vec<&str> {
        let all = self.sight.iter().flat_map(|sight| &sight.stats.queues).map(|queue| queue.queue.as_str());
        let wanted = &self.query.queues;
        all.filter(|queue| wanted.is_empty() || wanted.iter().any(|wanted| wanted == queue)).collect()
    }

    /// Finds the chosen rows again.
    pub fn follow(&mut self) {
        let sagas: Vec<String> = self.rows().iter().map(|saga| saga.task_id.clone()).collect();
        self.saga.follow(sagas.iter().map(String::as_str));
        let queues: Vec<String> = self.queues().into_iter().map(str::to_owned).collect();
        self.queue.follow(queues.iter().map(String::as_str));
    }

    /// Asks for something else from now on.
    pub fn look(&mut self, change: impl FnOnce(&mut Query)) -> Vec<Effect> {
        change(&mut self.query);
        self.query.number += 1;
        vec![Effect::Look(self.query.clone())]
    }

    fn seen(&mut self, sight: Sight) -> Vec<Effect> {
        self.blind = None;
        // The answer to what is not asked any more; the right one is on its way.
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
        // What came of it is to be seen at once.
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

/// Chooses the view with this number, as on its key.
pub fn view(key: char) -> Option<View> {
    let number = usize::try_from(key.to_digit(10)?).ok()?.checked_sub(1)?;
    View::ALL.get(number).copied()
}
