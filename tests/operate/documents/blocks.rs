//! Every fenced block of every page is run or checked, except those that are listed here.

use std::{collections::BTreeSet, fs};

use clap::{CommandFactory, Parser};
use sagad::cli::Cli;

use super::{Page, root, run_blocks::RUN};

/// This page's blocks start a daemon of their own: `the_commands_of_the_secure_page_work` of the tests on security runs them.
const RUN_ELSEWHERE: &str = "docs/how-to/secure.md";

/// Blocks that no test runs: page, language and number.
const NOT_RUN: [(&str, &str, usize); 2] = [
    // The tree of the sources.
    ("ARCHITECTURE.md", "text", 1),
    // Four lines of a client.
    (RUN_ELSEWHERE, "python", 1),
];

/// Programs in `console` blocks other than `sagad` and `cargo`.
const OTHERS: [&str; 12] = [
    "apt",
    "cargo",
    "docker",
    "install",
    "journalctl",
    "kubectl",
    "ls",
    "mv",
    "runuser",
    "sqlite3",
    "systemctl",
    "systemd-sysusers",
];

/// The words of a command line, with the quoting that these pages use.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (Some(open), _) if open == c => quote = None,
            (None, '#') if word.is_none() => break,
            (None, ' ') => words.extend(word.take()),
            (_, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// The commands of a block, with continued lines joined and several commands on a line separated.
fn commands(text: &str) -> Vec<Vec<String>> {
    let joined = text.replace("\\\n", " ");
    let lines = joined.lines().map(words);
    lines
        .flat_map(|words| {
            words.split(|word| word == "&&" || word == "|" || word == "||").map(<[_]>::to_vec).collect::<Vec<_>>()
        })
        .map(|words| words.into_iter().skip_while(|word| is_assignment(word)).collect())
        .filter(|words: &Vec<String>| !words.is_empty())
        .collect()
}

/// `NAME=value` before a command.
fn is_assignment(word: &str) -> bool {
    word.split_once('=')
        .is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_uppercase() || c == '_' || c.is_ascii_digit()))
}

/// The error in a command that is shown but not run; none if it is valid.
fn wrong(command: &[String]) -> Option<String> {
    let (program, arguments) = command.split_first().unwrap();
    let is_file = || root().join(program).is_file();
    match program.as_str() {
        "sagad" => {
            let arguments = arguments
                .iter()
                .take_while(|word| ![">", "<"].iter().any(|to| word.trim_start_matches('2').starts_with(to)));
            Cli::try_parse_from(std::iter::once(program).chain(arguments)).err().map(|error| error.to_string())
        }
        "cargo" => {
            let targets = arguments.windows(2).filter(|pair| ["--test", "--bench"].contains(&pair[0].as_str()));
            targets
                .map(|pair| &pair[1])
                .find(|target| !is_target(target))
                .map(|target| format!("there is no target {target}"))
        }
        "just" => {
            let recipes = fs::read_to_string(root().join("justfile")).unwrap();
            let recipe = arguments.first().map_or("--list", String::as_str);
            let is_there =
                recipe.starts_with('-') || recipes.lines().any(|line| line.split([' ', ':']).next() == Some(recipe));
            (!is_there).then(|| format!("there is no recipe {recipe}"))
        }
        "mdbook" => None,
        other if OTHERS.contains(&other) || is_file() => None,
        other => Some(format!("{other} is neither a file of this repository nor a program that these pages may show")),
    }
}

fn is_target(name: &str) -> bool {
    let tests = root().join("tests");
    let bench = root().join("benches").join(format!("{name}.rs"));
    tests.join(format!("{name}.rs")).exists() || tests.join(name).join("main.rs").exists() || bench.exists()
}

/// Every key of the configuration.
fn keys() -> BTreeSet<String> {
    let text = fs::read_to_string(root().join("deploy/sagad.toml")).unwrap();
    let set = text.lines().filter_map(|line| line.strip_prefix('#')?.split_once(" = "));
    set.map(|(key, _)| key.to_owned()).collect()
}

/// Every variable that a command reads.
fn variables(command: &clap::Command, found: &mut BTreeSet<String>) {
    let named = command.get_arguments().filter_map(|argument| argument.get_env());
    found.extend(named.map(|name| name.to_string_lossy().into_owned()));
    for sub in command.get_subcommands() {
        variables(sub, found);
    }
}

#[test]
fn each_block_is_run_or_checked() {
    let (keys, mut known) = (keys(), BTreeSet::new());
    variables(&Cli::command(), &mut known);
    let (mut complaints, mut not_run) = (Vec::new(), Vec::new());
    // The pages of `examples/` are run by `tests/polyglot`, which also finds blocks that are not run.
    let pages = Page::all().into_iter().filter(|page| !page.path.starts_with("examples/") && !page.is_generated());
    for page in pages {
        let is_run = RUN.contains(&page.path.as_str()) || page.path == RUN_ELSEWHERE;
        let mut after_run = false;
        for block in page.split().0 {
            let mut complain = |why: String| complaints.push(format!("{}:{}: {why}", page.path, block.line));
            let was_after_run = std::mem::replace(&mut after_run, block.language == "sh");
            match block.language.as_str() {
                "sh" if is_run => {}
                "text" | "json" if is_run && was_after_run => {}
                "console" => commands(&block.text).iter().filter_map(|command| wrong(command)).for_each(complain),
                "toml" => match block.text.parse::<toml::Table>() {
                    Ok(table) => table
                        .keys()
                        .filter(|key| !keys.contains(*key))
                        .for_each(|key| complain(format!("no key {key}"))),
                    Err(error) => complain(error.to_string()),
                },
                "ini" => {
                    let names = block.text.lines().map(|line| line.split('=').next().unwrap_or_default());
                    names
                        .filter(|name| !known.contains(*name))
                        .for_each(|name| complain(format!("no variable {name}")));
                }
                // `tests/storage/sqlite.rs` runs each of these queries.
                "sql" if page.path == "docs/reference/tables.md" => {}
                // `tests/faults/failover` runs these.
                "sql" if page.path == "docs/how-to/cluster.md" => {}
                language => not_run.push((page.path.clone(), language.to_owned())),
            }
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    let mut listed = Vec::new();
    for (page, language, times) in NOT_RUN {
        listed.extend(std::iter::repeat_n((page.to_owned(), language.to_owned()), times));
    }
    assert_eq!(not_run, listed, "blocks that nothing runs (left), and those that may be so (right)");
}

#[test]
fn wrong_commands_in_blocks_are_detected() {
    let found = |text: &str| commands(text).iter().filter_map(|command| wrong(command)).count();
    assert_eq!(found("sagad list --in-flight   # a comment\nX=1 sagad create --from - 2>>log"), 0);
    assert_eq!(found("sagad lst"), 1);
    assert_eq!(found("sagad work --queue q -- sh -c 'a \"b\" | c'"), 0);
    assert_eq!(found("cargo test --test no-such-test"), 1);
    assert_eq!(found("just no-such-recipe && no-such-program"), 2);
    assert_eq!(found("sagad create \\\n  --no-such-flag"), 1);
}
