//! Every link between pages, and every anchor, has a target.

use std::{
    collections::{BTreeSet, HashMap},
    path::{Component, Path, PathBuf},
};

use super::{Page, root};

/// The targets of `[text](target)`, outside of code.
fn links(prose: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in prose.lines() {
        // Every other piece between backticks is code.
        let line: String = line.split('`').step_by(2).collect();
        found.extend(line.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())));
    }
    found
}

/// The anchors of a page's headings, as GitHub and mdBook make them.
fn anchors(prose: &str) -> BTreeSet<String> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| {
        let text = line.trim_start_matches('#').trim().to_lowercase();
        let kept = text.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let times = seen.entry(anchor.clone()).or_default();
        *times += 1;
        if *times == 1 { anchor } else { format!("{anchor}-{}", *times - 1) }
    };
    headings.map(anchor).collect()
}

/// `page/../other` as `other`.
fn resolved(path: &Path) -> PathBuf {
    let mut resolved = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                assert!(resolved.pop(), "{} leads out of the repository", path.display());
            }
            Component::CurDir => {}
            _ => resolved.push(component),
        }
    }
    resolved
}

#[test]
fn each_link_has_a_target() {
    let pages: HashMap<String, String> =
        Page::all().into_iter().map(|page| (page.path.clone(), page.split().1)).collect();
    let mut broken = Vec::new();
    for (page, prose) in &pages {
        for target in links(prose) {
            if target.starts_with("https://") || target.starts_with("http://") {
                continue;
            }
            let (path, anchor) =
                target.split_once('#').map_or((target.as_str(), None), |(path, anchor)| (path, Some(anchor)));
            let beside = Path::new(page).parent().unwrap().join(path);
            let file = if path.is_empty() { PathBuf::from(page) } else { resolved(&beside) };
            if !root().join(&file).exists() {
                broken.push(format!("{page}: {target}: there is no {}", file.display()));
                continue;
            }
            // The book and the package contain only the pages of `docs/`.
            if page.starts_with("docs/") && !file.starts_with("docs") {
                broken.push(format!("{page}: {target}: it leads out of docs/"));
            }
            if let Some(anchor) = anchor {
                let there = pages.get(file.to_str().unwrap()).map(|prose| anchors(prose));
                if !there.is_some_and(|anchors| anchors.contains(anchor)) {
                    broken.push(format!("{page}: {target}: there is no such heading"));
                }
            }
        }
    }
    broken.sort();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn each_page_is_in_the_book_and_in_the_index() {
    let pages = Page::all();
    let named = |path: &str| -> BTreeSet<String> {
        let page = pages.iter().find(|page| page.path == path).unwrap();
        links(&page.text).into_iter().collect()
    };
    let docs = pages.iter().filter_map(|page| page.path.strip_prefix("docs/"));
    let docs: BTreeSet<String> = docs.filter(|path| *path != "SUMMARY.md").map(str::to_owned).collect();
    assert_eq!(named("docs/SUMMARY.md"), docs, "docs/SUMMARY.md and the pages of docs/");
    let told: BTreeSet<String> = docs.into_iter().filter(|path| path != "index.md").collect();
    assert_eq!(named("docs/index.md"), told, "docs/index.md and the pages of docs/");
}

#[test]
fn anchors_are_made_as_github_and_mdbook_make_them() {
    let anchors = anchors("# One\n## What is `a_b`, or c-d?\n## One\n");
    assert_eq!(anchors, ["one", "one-1", "what-is-a_b-or-c-d"].map(str::to_owned).into());
}
