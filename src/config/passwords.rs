//! Passwords in addresses, which no message and no output shows.

/// An address without the user and the password that may stand in it, for errors.
pub(super) fn without_password(address: &str) -> String {
    let (scheme, rest) = address.split_once("://").map_or(("", address), |(scheme, rest)| (scheme, rest));
    match rest.rsplit_once('@') {
        Some((_, host)) if scheme.is_empty() => format!("***@{host}"),
        Some((_, host)) => format!("{scheme}://***@{host}"),
        None => address.to_owned(),
    }
}

/// The same for all addresses in a text.
pub(super) fn without_passwords(text: &str) -> String {
    let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`');
    let words = text
        .split_inclusive(ends)
        .map(|word| if word.contains("://") { without_password(word) } else { word.to_owned() });
    words.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_addresses_are_not_printed() {
        for (given, told) in [
            ("http://ann:hush@host:1", "http://***@host:1"),
            ("http://ann:hu/sh@host:1", "http://***@host:1"),
            ("ann:hush@host:1", "***@host:1"),
            ("http://host:1", "http://host:1"),
        ] {
            assert_eq!(without_password(given), told);
        }
        assert_eq!(without_passwords("a@b = \"http://ann:hush@h\" 'x'"), "a@b = \"http://***@h\" 'x'");
    }
}
