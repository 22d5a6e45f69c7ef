//! The documents: links have targets, blocks work as shown, and generated pages are up to date.

mod blocks;
mod links;
mod reference;
mod run_blocks;

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A page: its path from the root, and its text.
struct Page {
    path: String,
    text: String,
}

/// A fenced block of a page.
struct Block {
    /// The line of its fence, counted from 1.
    line: usize,
    language: String,
    text: String,
}

impl Page {
    /// Every page of the repository, without installed packages and build output.
    fn all() -> Vec<Page> {
        let mut paths = Vec::new();
        collect(&root(), &mut paths);
        paths.sort();
        let page = |path: PathBuf| {
            let text = fs::read_to_string(&path).unwrap();
            Page { path: path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned(), text }
        };
        paths.into_iter().map(page).collect()
    }

    fn is_generated(&self) -> bool {
        reference::GENERATED.iter().any(|(path, _)| *path == self.path)
    }

    /// Its fenced blocks, and the text outside of them.
    fn split(&self) -> (Vec<Block>, String) {
        let (mut blocks, mut prose) = (Vec::new(), String::new());
        let mut open: Option<Block> = None;
        for (index, line) in self.text.lines().enumerate() {
            match (line.strip_prefix("```"), &mut open) {
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (Some(language), None) => {
                    open = Some(Block { line: index + 1, language: language.to_owned(), text: String::new() });
                }
                (None, Some(block)) => block.text += &format!("{line}\n"),
                (None, None) => prose += &format!("{line}\n"),
            }
        }
        assert!(open.is_none(), "{}: a block has no end", self.path);
        (blocks, prose)
    }
}

fn collect(directory: &Path, paths: &mut Vec<PathBuf>) {
    const NOT_OURS: [&str; 7] = ["bin", "dist", "gen", "node_modules", "sagad-data", "target", "corpus"];
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_ours = !NOT_OURS.contains(&name.as_str()) && !name.starts_with('.');
        if entry.file_type().unwrap().is_dir() {
            if is_ours {
                collect(&entry.path(), paths);
            }
        } else if name.ends_with(".md") {
            paths.push(entry.path());
        }
    }
}
