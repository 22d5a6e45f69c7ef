//! The pages of `examples/` and their blocks, every one of which is run: the commands that build and start the programs by all
//! situations, the rest by `situations/readme.rs`. [`form`] lists them.

use crate::languages::Language;

/// The heading about installing the language and generating its client.
pub const INSTALL: &str = "Install and generate";
/// The heading about starting the three programs and giving them work.
pub const RUN: &str = "Run";
/// The heading with a program for the reader's own work.
pub const OWN: &str = "A worker of your own";

/// A fenced block.
#[derive(Debug)]
pub struct Block {
    /// The heading of the second level that it is under.
    pub heading: String,
    /// The word after the fence, such as `sh`.
    pub kind: String,
    /// Its lines, with their ends.
    pub text: String,
    /// The last line of text before it.
    pub before: String,
}

/// The blocks of a page, in order.
pub fn blocks(page: &str) -> Vec<Block> {
    let (mut blocks, mut open) = (Vec::new(), None::<Block>);
    let (mut heading, mut before) = (String::new(), String::new());
    for line in page.lines() {
        match &mut open {
            Some(block) if line.trim_end() != "```" => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            Some(_) => blocks.extend(open.take()),
            None => {
                if let Some(kind) = line.trim_start().strip_prefix("```") {
                    let (kind, text) = (kind.trim().to_owned(), String::new());
                    open = Some(Block { heading: heading.clone(), kind, text, before: before.clone() });
                } else if let Some(title) = line.strip_prefix("## ") {
                    title.trim().clone_into(&mut heading);
                } else if !line.trim().is_empty() {
                    line.clone_into(&mut before);
                }
            }
        }
    }
    assert!(open.is_none(), "a block has no end: {open:?}");
    blocks
}

/// The blocks that a language's page must have, by heading and kind. The tests run all of them.
pub fn form(language: &Language) -> Vec<(&'static str, &'static str)> {
    vec![(INSTALL, "sh"), (RUN, "sh"), (RUN, "console"), (OWN, language.code), (OWN, "sh"), (OWN, "console")]
}

/// A command of a `console` block, with its output on the page.
#[derive(Debug, PartialEq, Eq)]
pub struct ShownCommand {
    /// Without the prompt.
    pub command: String,
    /// Lines, with their ends.
    pub output: String,
}

/// The commands of a `console` block.
pub fn session(text: &str) -> Vec<ShownCommand> {
    let mut session: Vec<ShownCommand> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix("$ "), session.last_mut()) {
            (Some(command), _) => session.push(ShownCommand { command: command.to_owned(), output: String::new() }),
            (None, Some(shown)) => shown.output.push_str(&format!("{line}\n")),
            (None, None) => panic!("a `console` block begins with a command: {text}"),
        }
    }
    session
}

mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::languages::LANGUAGES;

    #[test]
    fn blocks_are_parsed_with_heading_and_kind() {
        let page = "## A\ntext\n\n```sh\none\n```\n```console\n$ two\n```\n## B\n  ```\n## A\nthree\n```\n";
        let found = blocks(page);
        let found: Vec<_> =
            found.iter().map(|b| (b.heading.as_str(), b.kind.as_str(), b.text.as_str(), b.before.as_str())).collect();
        let wanted =
            [("A", "sh", "one\n", "text"), ("A", "console", "$ two\n", "text"), ("B", "", "## A\nthree\n", "text")];
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_console_block_is_parsed_into_commands_and_output() {
        let shown =
            |command: &str, output: &str| ShownCommand { command: command.to_owned(), output: output.to_owned() };
        assert_eq!(session("$ one\n$ two\na\nb\n"), [shown("one", ""), shown("two", "a\nb\n")]);
    }

    /// All pages below a directory, without installed packages and build output.
    fn pages(directory: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            let installed =
                ["node_modules", "target", "dist", "bin", "gen"].contains(&name.as_str()) || name.starts_with('.');
            if entry.file_type().unwrap().is_dir() && !installed {
                pages(&entry.path(), found);
            } else if name.ends_with(".md") {
                found.push(entry.path().to_str().unwrap().to_owned());
            }
        }
    }

    /// Finds blocks that no test runs, whichever languages are installed.
    #[test]
    fn every_block_of_every_page_is_run() {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
        let mut found = Vec::new();
        pages(&examples, &mut found);
        assert_eq!(found.len(), LANGUAGES.len() + 1, "a page that no test reads: {found:?}");
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        assert_eq!(blocks(&read(&examples.join("README.md"))).len(), 0, "it has no blocks: nothing would run them");
        for language in LANGUAGES {
            let page = blocks(&read(&examples.join(language.name).join("README.md")));
            let page: Vec<_> = page.iter().map(|block| (block.heading.as_str(), block.kind.as_str())).collect();
            assert_eq!(page, form(language), "examples/{}/README.md", language.name);
        }
    }
}
