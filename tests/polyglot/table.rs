//! [`Table`]: the results, which are printed, written to `target/polyglot.md`, and compared with the table in `examples/README.md`.

use std::{collections::BTreeMap, env, fs, path::Path};

use tokio::task::JoinError;

use crate::{
    languages::{LANGUAGES, Language, target},
    situations::{SITUATIONS, Situation},
    support::tools,
};

const BEGIN: &str = "<!-- languages × situations, written by the tests -->\n";
const END: &str = "<!-- end of the table -->\n";

/// The result of one situation in one language.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SituationResult {
    Passed,
    /// With the error.
    Failed(String),
}

/// All results, by situation and language.
pub struct Table {
    pub languages: Vec<&'static Language>,
    pub situations: Vec<&'static Situation>,
    pub cells: BTreeMap<(usize, usize), SituationResult>,
}

impl Table {
    fn text(&self) -> String {
        let mut text = String::from("| situation |");
        self.languages.iter().for_each(|language| text += &format!(" {} |", language.title));
        text += "\n|---|";
        self.languages.iter().for_each(|_| text += ":-:|");
        text += "\n";
        for (row, situation) in self.situations.iter().enumerate() {
            text += &format!("| {} |", situation.title);
            for column in 0..self.languages.len() {
                text += match self.cells.get(&(row, column)) {
                    Some(SituationResult::Passed) => " ✓ |",
                    Some(SituationResult::Failed(_)) => " **failed** |",
                    None => " – |",
                };
            }
            text += "\n";
        }
        text
    }

    /// Prints the table and writes it to `target/`.
    pub fn write(&self) {
        eprintln!("\n{}", self.text());
        fs::write(target().join("polyglot.md"), self.text()).unwrap();
    }

    /// The failures, as text.
    pub fn failures(&self) -> Vec<String> {
        let told = self.cells.iter().filter_map(|((row, column), cell)| match cell {
            SituationResult::Passed => None,
            SituationResult::Failed(why) => {
                Some(format!("- {}, {}: {why}", self.languages[*column].name, self.situations[*row].name))
            }
        });
        told.collect()
    }

    /// Fails unless the table is complete and equals the page's; with `SAGAD_ACCEPT=1` it is written to the page. An
    /// incomplete table fails in CI, and elsewhere is not compared.
    pub fn is_what_the_readme_shows(&self) {
        if self.languages.len() < LANGUAGES.len() || self.situations.len() < SITUATIONS.len() {
            return tools::skip("not every language went through every situation");
        }
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/README.md");
        let readme = fs::read_to_string(&path).unwrap();
        let begin = readme.find(BEGIN).expect("the page has a place for the table") + BEGIN.len();
        let end = begin + readme[begin..].find(END).expect("the place for the table has an end");
        if readme[begin..end] == self.text() {
            return;
        }
        if env::var_os("SAGAD_ACCEPT").is_some_and(|accept| accept == "1") {
            let text = format!("{}{}{}", &readme[..begin], self.text(), &readme[end..]);
            fs::write(path, text).unwrap();
            return;
        }
        panic!("examples/README.md shows another table; SAGAD_ACCEPT=1 puts this one there:\n{}", self.text());
    }
}

/// The panic message of a failed task.
pub fn panic_message(error: JoinError) -> String {
    match error.try_into_panic() {
        Ok(panic) => match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
            (Some(text), _) => text.clone(),
            (None, Some(text)) => (*text).to_owned(),
            (None, None) => "it panicked".to_owned(),
        },
        Err(error) => error.to_string(),
    }
}
