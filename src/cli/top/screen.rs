//! [`Screen`]: the terminal in full-screen mode, restored on every way out, including a panic; and its keys.

use std::{
    env,
    io::{self, IsTerminal, Stdout, Write},
    panic, thread,
    time::Duration,
};

use ratatui::{
    Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor::{Hide, Show},
        event::{
            self, DisableBracketedPaste, EnableBracketedPaste, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers,
        },
        execute,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{
    draw::{self, Theme},
    model::{Message, Model},
};

/// How long the thread that reads keys waits before it checks whether keys are still wanted.
const PATIENCE: Duration = Duration::from_millis(200);

/// True if there is a terminal for a screen and for keys.
pub fn has_terminal() -> bool {
    let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
    io::stdout().is_terminal() && io::stdin().is_terminal() && !dumb
}

impl Theme {
    /// The theme for the environment: `NO_COLOR`, and whether the locale uses UTF-8.
    pub fn here() -> Self {
        let colour = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let set = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(|name| env::var(name).ok());
        Theme { unicode: is_utf8(set), colour }
    }
}

/// True if the locale uses UTF-8; the first variable that is set counts.
fn is_utf8(mut set: impl Iterator<Item = String>) -> bool {
    let locale = set.find(|locale| !locale.is_empty()).unwrap_or_default().to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// Restores the terminal when dropped.
struct TerminalGuard<W: Write>(W);

impl<W: Write> Drop for TerminalGuard<W> {
    fn drop(&mut self) {
        give_back(&mut self.0);
    }
}

/// Restores the terminal for the shell. Fails silently if the terminal is gone.
fn give_back(out: &mut impl Write) {
    disable_raw_mode().ok();
    execute!(out, DisableBracketedPaste, LeaveAlternateScreen, Show).ok();
}

/// The terminal in full-screen mode.
pub struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    _given: TerminalGuard<Stdout>,
}

impl Screen {
    /// Switches the terminal to full-screen mode.
    ///
    /// # Errors
    /// The system's.
    pub fn take() -> io::Result<Self> {
        // Before the message of a panic: on the other screen nobody would see it.
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            give_back(&mut io::stdout());
            before(info);
        }));
        let given = TerminalGuard(io::stdout());
        enable_raw_mode()?;
        execute!(io::stdout(), EnterAlternateScreen, EnableBracketedPaste, Hide)?;
        Ok(Screen { terminal: Terminal::new(CrosstermBackend::new(io::stdout()))?, _given: given })
    }

    /// Shows the model.
    ///
    /// # Errors
    /// The system's: the terminal is gone.
    pub fn show(&mut self, model: &Model, theme: Theme) -> io::Result<()> {
        self.terminal.draw(|frame| draw::draw(frame, model, theme)).map(|_| ())
    }
}

/// Sends keys until the receiver is dropped.
pub fn read_keys(messages: mpsc::Sender<Message>) {
    thread::spawn(move || {
        while !messages.is_closed() {
            let read = match event::poll(PATIENCE) {
                Ok(true) => event::read(),
                Ok(false) => continue,
                Err(error) => Err(error),
            };
            let message = match read {
                Ok(Event::Key(key)) => key_message(&key, Uuid::new_v4()),
                Ok(Event::Paste(text)) => Some(Message::Paste(text)),
                Ok(Event::Resize(..)) => Some(Message::Tick),
                Ok(Event::FocusGained | Event::FocusLost | Event::Mouse(_)) => None,
                // The terminal is gone.
                Err(_) => Some(Message::Terminate),
            };
            let told = matches!(message, Some(Message::Terminate));
            if message.is_some_and(|message| messages.blocking_send(message).is_err()) || told {
                return;
            }
        }
    });
}

/// The message for a key; none if the key has no meaning here.
fn key_message(key: &KeyEvent, id: Uuid) -> Option<Message> {
    let with = |modifier| key.modifiers.contains(modifier);
    match key.code {
        _ if key.kind == KeyEventKind::Release => None,
        KeyCode::Char('c') if with(KeyModifiers::CONTROL) => Some(Message::Terminate),
        _ if with(KeyModifiers::CONTROL) => None,
        KeyCode::Char(_) if with(KeyModifiers::ALT) => None,
        KeyCode::BackTab => Some(Message::Key(KeyCode::Tab, id)),
        KeyCode::Char(_) | KeyCode::Enter | KeyCode::Esc | KeyCode::Backspace | KeyCode::Tab => {
            Some(Message::Key(key.code, id))
        }
        KeyCode::Up | KeyCode::Down | KeyCode::PageUp | KeyCode::PageDown | KeyCode::Home | KeyCode::End => {
            Some(Message::Key(key.code, id))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_panic_restores_the_terminal() {
        let out = Shared::default();
        let taken = out.clone();
        let ended = panic::catch_unwind(panic::AssertUnwindSafe(move || {
            let _given = TerminalGuard(taken);
            panic!("like a bug in drawing");
        }));
        assert!(ended.is_err());
        let written = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        assert!(written.contains("\u{1b}[?1049l") && written.contains("\u{1b}[?25h"), "{written:?}");
    }

    #[test]
    fn keys_with_control_or_alt_are_not_letters() {
        let id = Uuid::nil();
        let message = |code, modifiers| key_message(&KeyEvent::new(code, modifiers), id);
        assert_eq!(message(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Message::Terminate));
        assert_eq!(message(KeyCode::Char('y'), KeyModifiers::CONTROL), None);
        assert_eq!(message(KeyCode::Char('y'), KeyModifiers::ALT), None);
        let shifted = message(KeyCode::Char('Y'), KeyModifiers::SHIFT);
        assert_eq!(shifted, Some(Message::Key(KeyCode::Char('Y'), id)));
        assert_eq!(message(KeyCode::F(1), KeyModifiers::NONE), None);
    }

    #[test]
    fn the_first_nonempty_locale_decides() {
        let is = |set: &[&str]| is_utf8(set.iter().map(|locale| (*locale).to_owned()));
        assert!(is(&["en_US.UTF-8"]) && is(&["", "C.utf8"]));
        assert!(!is(&["C", "en_US.UTF-8"]) && !is(&[]) && !is(&["POSIX"]));
    }
}
