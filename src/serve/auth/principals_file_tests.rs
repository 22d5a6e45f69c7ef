//! Every error that a file of principals can have.

use proptest::prelude::*;

use super::*;

fn hash(digit: char) -> String {
    format!("\"sha256:{}\"", String::from(digit).repeat(64))
}

/// A reader's entry, with these lines added to its default lines or replacing them.
fn with(lines: &str) -> String {
    let own = [("name", "'p'".to_owned()), ("roles", "['reader']".to_owned()), ("tokens", format!("[{}]", hash('a')))];
    let own = own.iter().filter(|(key, _)| !lines.lines().any(|line| line.starts_with(&format!("{key} "))));
    let own: String = own.map(|(key, value)| format!("{key} = {value}\n")).collect();
    format!("[[principal]]\n{own}{lines}\n")
}

fn wrong(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn every_field_of_an_entry_is_read() {
    let text = format!(
        "[[principal]]\nname = 'ci/build@x'\nroles = ['worker', 'reader']\nqueues = ['a', 'b']\ntokens = [{}, {}]\n\
         certificate = 'spiffe://x/ci'\nnot_after = 2030-01-31T13:00:00+01:00\n\n[[principal]]\nname = 'all'\n\
         roles = ['worker']\nqueues = '*'\ncertificate = 'all.example'\n",
        hash('a'),
        hash('B')
    );
    let entries = parse(&text).unwrap();
    assert_eq!(entries.len(), 2);
    let PrincipalEntry { principal, tokens, certificate, not_after } = &entries[0];
    assert_eq!((principal.name.as_str(), &principal.roles[..]), ("ci/build@x", &[Role::Worker, Role::Reader][..]));
    let queues = ["a", "b"].map(|queue| QueueName::parse(queue).unwrap());
    assert_eq!(principal.queues, Scope::Only(queues.into()));
    assert_eq!(tokens, &[[0xaa; 32], [0xbb; 32]]);
    assert_eq!(*certificate, Some(ConfiguredCertificateName::Uri("spiffe://x/ci".to_owned())));
    assert_eq!(not_after.map(|time| time.micros()), Some(1_896_091_200_000_000));
    assert_eq!((&entries[1].principal.queues, entries[1].tokens.len()), (&Scope::All, 0));
    assert_eq!(parse_hash(&format_hash(&tokens[1])), Some(tokens[1]));
}

#[test]
fn each_mistake_names_line_entry_and_field() {
    let two = |second: &str| format!("{}{}", with(""), with(second));
    for (text, line, about) in [
        (String::new(), 1, "there is no [[principal]]"),
        ("principal = []".to_owned(), 1, "there is no [[principal]]"),
        ("principal = 1".to_owned(), 1, "[[principal]]"),
        ("principal = [1]".to_owned(), 1, "list of tables"),
        ("x = 1".to_owned(), 1, "unknown key `x`"),
        ("\n\n[[principal]\n".to_owned(), 3, "not valid TOML"),
        (with("token = 1"), 5, "principal `p`: unknown key `token` (known: name, roles"),
        (with("name = 7"), 2 + 2, "principal 1: name: has to be a string"),
        (with("name = 'a b'"), 4, "principal 1: name: has to be 1 to 64 letters"),
        (with(&format!("name = '{}'", "a".repeat(65))), 4, "principal 1: name: has to be"),
        (with("name = 'sagad'"), 4, "principal 1: name: `sagad` is the coordinator's own in the history"),
        (with("name = 'sagad/host-7'"), 4, "principal 1: name: `sagad` is the coordinator's own in the history"),
        (
            two("name = 'p/sub'"),
            9,
            "principal 2: name: `p` could act for `p/sub`, whose name begins with it and a slash",
        ),
        (two("name = 'p/'"), 9, "principal 2: name: `p` could act for `p/`"),
        (with("name = 'a/b/c'") + &with("name = 'a/b'"), 8, "principal 2: name: `a/b` could act for `a/b/c`"),
        ("[[principal]]\nroles = ['reader']".to_owned(), 1, "principal 1: name: is missing"),
        (two(&format!("tokens = [{}]", hash('b'))), 7, "principal 2: name: there is another principal `p`"),
        ("[[principal]]\nname = 'p'".to_owned(), 1, "principal `p`: roles: is missing"),
        (with("roles = []"), 4, "roles: is empty"),
        (with("roles = 'admin'"), 4, "roles: has to be a list of strings"),
        (with("roles = ['reader', 'root']"), 4, "roles: there is no such role"),
        (with("roles = ['reader', 'reader']"), 4, "roles: reader is there twice"),
        (with("roles = ['worker']"), 1, "queues: is missing"),
        (with("queues = ['q']"), 5, "queues: is for the role worker only"),
        (with("roles = ['worker']\nqueues = []"), 5, "queues: is empty"),
        (with("roles = ['worker']\nqueues = 'q'"), 5, "queues: has to be a list of strings"),
        (with("roles = ['worker']\nqueues = ['q', '*']"), 5, "queues: \"*\" stands for all, alone"),
        (with("roles = ['worker']\nqueues = ['q', '-']"), 5, "queues: one of them is no name"),
        (with("roles = ['worker']\nqueues = ['q', 'q']"), 5, "queues: q is there twice"),
        (with("tokens = []"), 1, "neither tokens nor a certificate"),
        (with("tokens = ['sha256:abc']"), 4, "tokens: has to be the hash of a token"),
        (with(&format!("tokens = ['{}']", "a".repeat(64))), 4, "tokens: has to be the hash"),
        (with("tokens = 'x'"), 4, "tokens: has to be a list of strings"),
        (with(&format!("tokens = [{0}, {0}]", hash('c'))), 4, "tokens: the token is one of principal `p`, too"),
        (two("name = 'other'"), 8, "principal `other`: tokens: the token is one of principal `p`, too"),
        (with("certificate = ''"), 5, "certificate: has to be 1 to"),
        (with("certificate = 1"), 5, "certificate: has to be a string"),
        (with("not_after = '2030-01-31T12:00:00Z'"), 5, "not_after: has to be a date"),
        (with("not_after = 2030-01-31T12:00:00"), 5, "not_after: has to be a date"),
        (with("not_after = 2030-01-31"), 5, "not_after: has to be a date"),
        (with("name = 'p'\nname = 'p'"), 5, "not valid TOML"),
    ] {
        let told = wrong(&text);
        assert!(told.starts_with(&format!("line {line}: ")) && told.contains(about), "{told}\n--- {text}");
    }
    let certificates = format!(
        "{}{}",
        with("certificate = 'c'"),
        with(&format!("name = 'o'\ntokens = [{}]\ncertificate = 'c'", hash('d')))
    );
    assert!(wrong(&certificates).contains("certificate: the same name stands for principal `p`"));
    let many: String = (0..=PRINCIPALS)
        .map(|n| format!("[[principal]]\nname = 'p{n}'\nroles = ['reader']\ncertificate = '{n}'\n"))
        .collect();
    assert!(wrong(&many).contains("over 1000"));
    let many = (0..9).map(|n| hash(char::from(b'0' + n))).collect::<Vec<_>>().join(", ");
    assert!(wrong(&with(&format!("tokens = [{many}]"))).contains("tokens: there are over 8"));
    let many = (0..=QUEUES).map(|n| format!("'q{n}'")).collect::<Vec<_>>().join(", ");
    assert!(wrong(&with(&format!("roles = ['worker']\nqueues = [{many}]"))).contains("queues: there are over 100"));
}

/// A token pasted anywhere in the file is repeated in no error.
#[test]
fn no_error_quotes_a_pasted_token() {
    const SECRET: &str = "sagad~p~0123456789012345678901234567890123456789012";
    for lines in [
        format!("name = '{SECRET}'"),
        format!("'{SECRET}' = 1"),
        format!("roles = ['{SECRET}']"),
        format!("roles = ['worker']\nqueues = ['{SECRET}']"),
        format!("queues = '{SECRET}'"),
        format!("tokens = ['{SECRET}']"),
        format!("tokens = {SECRET}"),
        format!("certificate = '{SECRET}\u{7f}'"),
        format!("not_after = '{SECRET}'"),
        format!("tokens = ['{SECRET}"),
    ] {
        let told = wrong(&with(&lines));
        assert!(!told.contains("0123456789"), "{told}");
    }
    assert!(!wrong(&format!("'{SECRET}' = 1")).contains("0123456789"));
}

proptest! {
    #[test]
    fn p12_no_text_makes_it_panic(text in ".*", line in "(name|roles|queues|tokens|certificate|not_after|x) = .*") {
        for text in [text, with(&line)] {
            match parse(&text) {
                Ok(entries) => prop_assert!(!entries.is_empty()),
                Err(FileError { line, .. }) => prop_assert!((1..=text.lines().count() + 1).contains(&line)),
            }
        }
    }
}

#[test]
fn names_with_a_common_prefix_are_different_principals() {
    let named =
        |name: &str, digit| format!("[[principal]]\nname = '{name}'\nroles = ['reader']\ntokens = [{}]\n", hash(digit));
    let text =
        [named("wa", 'a'), named("wab", 'b'), named("wa-2", 'c'), named("sagad-ci", 'd'), named("x/wa", 'e')].concat();
    assert_eq!(parse(&text).unwrap().len(), 5);
}
