//! Characters that must be escaped before they are shown: those that move the cursor, change the direction of text,
//! end a line invisibly, or are invisible themselves, so that two texts look the same. Use [`printable`] and
//! [`printable_lines`] for terminals and text logs, and [`json`] for JSON.

use std::{
    borrow::Cow,
    fmt::{self, Write},
    ops::RangeInclusive,
};

/// Characters that change or isolate the direction of text (Unicode's `Bidi_Control`).
const BIDIRECTIONAL: [RangeInclusive<char>; 4] =
    ['\u{61c}'..='\u{61c}', '\u{200e}'..='\u{200f}', '\u{202a}'..='\u{202e}', '\u{2066}'..='\u{2069}'];

/// Invisible characters: Unicode's format characters and fillers, except combining marks, characters that a script
/// needs, and the two emoji variation selectors (U+FE0E, U+FE0F).
const INVISIBLE: [RangeInclusive<char>; 15] = [
    '\u{ad}'..='\u{ad}',
    '\u{34f}'..='\u{34f}',
    '\u{115f}'..='\u{1160}',
    '\u{17b4}'..='\u{17b5}',
    '\u{180b}'..='\u{180f}',
    '\u{200b}'..='\u{200d}',
    '\u{2060}'..='\u{206f}',
    '\u{3164}'..='\u{3164}',
    '\u{fe00}'..='\u{fe0d}',
    '\u{feff}'..='\u{feff}',
    '\u{ffa0}'..='\u{ffa0}',
    '\u{fff0}'..='\u{fffb}',
    '\u{1bca0}'..='\u{1bca3}',
    '\u{1d173}'..='\u{1d17a}',
    '\u{e0000}'..='\u{e0fff}',
];

fn is_in(c: char, ranges: &[RangeInclusive<char>]) -> bool {
    ranges.iter().any(|range| range.contains(&c))
}

/// True for control characters (C0, DEL, C1), line and paragraph separators, and characters that change the direction
/// of text. Names and ids must not contain any.
pub fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') || is_in(c, &BIDIRECTIONAL)
}

/// True if the character must be escaped wherever it is shown.
pub fn is_unprintable(c: char) -> bool {
    // Fast path: nearly all characters.
    if matches!(c, ' '..='~') {
        return false;
    }
    is_control(c) || is_in(c, &INVISIBLE)
}

/// The text on one line; characters that can't be shown are escaped as `\n` or `\u{202e}`.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unprintable) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    // Writing to a String can't fail.
    let _ = PrintableWriter(&mut shown).write_str(text);
    Cow::Owned(shown)
}

/// Like [`printable`], but keeps line breaks.
pub fn printable_lines(text: &str) -> Cow<'_, str> {
    let is_unprintable = |c| c != '\n' && is_unprintable(c);
    if !text.contains(is_unprintable) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.split('\n').map(printable).collect::<Vec<_>>().join("\n"))
}

/// The same JSON value with all unprintable characters escaped as `\u202e`. They occur in its strings only. (The JSON
/// writer has escaped C0 already; line breaks between values stay.)
pub fn json(json: &str) -> Cow<'_, str> {
    let is_unprintable = |c| c >= '\u{7f}' && is_unprintable(c);
    if !json.contains(is_unprintable) {
        return Cow::Borrowed(json);
    }
    let mut shown = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if is_unprintable(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(shown, "\\u{unit:04x}");
            }
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// A writer that escapes text like [`printable`] and passes it on.
pub struct PrintableWriter<W>(pub W);

impl<W: Write> Write for PrintableWriter<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if !text.contains(is_unprintable) {
            return self.0.write_str(text);
        }
        text.chars().try_for_each(|c| self.write_char(c))
    }

    fn write_char(&mut self, c: char) -> fmt::Result {
        if is_unprintable(c) { write!(self.0, "{}", c.escape_default()) } else { self.0.write_char(c) }
    }
}

/// Every character that can't be shown. For tests.
pub fn all_unprintable() -> impl Iterator<Item = char> {
    ('\0'..=char::MAX).filter(|c| is_unprintable(*c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_control_and_invisible_characters_are_known() {
        let named = "\0\u{1}\t\n\r\u{1b}\u{7f}\u{80}\u{85}\u{9b}\u{9f}\u{ad}\u{61c}\u{200b}\u{200d}\u{200e}\u{2028}\u{2029}\
                     \u{202a}\u{202e}\u{2060}\u{2066}\u{2069}\u{feff}\u{e0001}\u{e007f}";
        assert!(named.chars().all(is_unprintable), "{named:?}");
        let fine = " a~\u{a0}äñе漢字か한글עברית العربية ไทย 👍 ❤️ e\u{301} \u{600}";
        assert!(!fine.contains(is_unprintable), "{fine:?}");
        // What the standard library shows as it is in `{:?}` and we don't, or would let through though it escapes it.
        assert!(all_unprintable().filter(|c| c.is_control()).count() == 65 && all_unprintable().count() < 5000);
        assert!(BIDIRECTIONAL.iter().cloned().flatten().all(is_control) && !is_control('\u{200d}'));
    }

    #[test]
    fn each_character_is_escaped_in_each_medium() {
        for c in all_unprintable() {
            let text = format!("a{c}b");
            for shown in [printable(&text), printable(&printable_lines(&text))] {
                assert!(!shown.contains(is_unprintable) && shown.starts_with('a') && shown.ends_with('b'), "{c:?}");
            }
            let made = serde_json::to_string(&text).unwrap();
            let shown = json(&made);
            assert!(!shown.contains(is_unprintable), "{c:?}: {shown}");
            assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text);
        }
        assert_eq!(printable("a\u{1b}[2Jb\n\u{202e}"), "a\\u{1b}[2Jb\\n\\u{202e}");
        assert_eq!(printable_lines("a\nb\u{9b}\n"), "a\nb\\u{9b}\n");
        assert_eq!(json("\"\u{9b}\u{e0001}ä\""), "\"\\u009b\\udb40\\udc01ä\"");
        assert!(matches!(printable("größe 猫"), Cow::Borrowed(_)));
    }
}
