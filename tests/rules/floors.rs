//! Which module may use which, read from the sources. Unit tests may use anything.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use sagad::mutants::Mutant;

/// What each part of the crate may use of the others.
const MAY_USE: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("clock", &["domain", "mutants"]),
    ("config", &["domain"]),
    ("private_files", &[]),
    ("logs", &["config", "domain", "mutants"]),
    ("listen", &["mutants"]),
    ("proto", &["domain"]),
    ("mutants", &[]),
    ("metrics", &["domain"]),
    ("coordinator", &["domain", "mutants"]),
    ("store", &["metrics", "coordinator", "domain", "clock", "mutants", "private_files"]),
    ("watch", &["metrics", "store", "domain", "mutants"]),
    ("grpc", &["metrics", "watch", "store", "domain", "clock", "proto", "private_files", "mutants"]),
    (
        "serve",
        &["metrics", "grpc", "watch", "store", "domain", "clock", "config", "logs", "listen", "proto", "private_files"],
    ),
    ("client", &["proto"]),
    ("cli", &["serve", "client", "proto", "config", "store", "domain", "clock", "logs", "private_files", "mutants"]),
];

/// What the domain may use of other crates: what only holds data, and the calendar, by which a time is written.
const PURE: &[&str] = &["std", "bytes", "chrono::DateTime", "chrono::SecondsFormat"];
/// What the coordinator may use of other crates: a bounded map, and derived error messages.
const PURE_COORDINATOR: &[&str] = &["std", "quick_cache", "thiserror::Error"];
/// Parts of `std` that are not pure: clocks, files, the network, threads, and maps with random order.
const IMPURE_STD: &[&str] =
    &["time::Instant", "time::SystemTime", "fs", "net", "io", "thread", "process", "env", "sync::mpsc"];
/// Crates that are not for the store.
const NOT_IN_STORE: &[&str] = &["tonic", "prost", "tower", "http", "hyper", "clap"];

/// One source file.
struct Source {
    path: PathBuf,
    /// Its path in the crate, such as `store::sqlite::decode`.
    module: Vec<String>,
    /// The paths that it names, from the crate's root (`crate`) or from another crate.
    paths: BTreeSet<String>,
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    let mut files = Vec::new();
    collect(&root().join("src"), &mut files);
    assert!(files.len() > 50, "the sources are there");
    files.into_iter().filter(|path| path.file_name().unwrap() != "tests.rs").map(read).collect()
}

pub(crate) fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().unwrap() != "tests" {
                collect(&path, files);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn read(path: PathBuf) -> Source {
    let inside = path.strip_prefix(root().join("src")).unwrap().with_extension("");
    let mut module: Vec<_> = inside.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if module.last().is_some_and(|last| last == "mod" || (module.len() == 1 && last == "lib")) {
        module.pop();
    }
    let code = without_tests(&without_comments(&fs::read_to_string(&path).unwrap()));
    let paths = paths(&code).into_iter().filter_map(|path| resolve(&path, &module)).collect();
    Source { path, module, paths }
}

pub(crate) fn without_comments(text: &str) -> String {
    // A `//` in a string belongs to an address; the rest of its line names no path.
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The code before the first module of tests, which comes last.
pub(crate) fn without_tests(code: &str) -> String {
    match code.find("#[cfg(test)]\nmod tests {") {
        Some(begin) => code[..begin].to_owned(),
        None => code.to_owned(),
    }
}

/// All paths in some code: those of `use`, with braces expanded, and those elsewhere.
fn paths(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = code;
    let mut others = String::new();
    while let Some(begin) = find_use(rest) {
        others.push_str(&rest[..begin]);
        let end = begin + rest[begin..].find(';').expect("a use ends with a semicolon");
        let tree = rest[begin..end].trim_start().trim_start_matches("use ");
        expand("", &tree.split_whitespace().collect::<Vec<_>>().join(" "), &mut found);
        rest = &rest[end + 1..];
    }
    others.push_str(rest);
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    found.extend(others.split(|c| !is_part(c)).filter(|word| word.contains("::")).map(str::to_owned));
    found
}

/// The position of the next `use` at the beginning of a line.
pub(crate) fn find_use(code: &str) -> Option<usize> {
    let mut place = 0;
    for line in code.split_inclusive('\n') {
        let words = line.trim_start();
        let visible = words.strip_prefix("pub").map_or(words, |rest| {
            rest.strip_prefix('(').and_then(|rest| rest.split_once(')')).map_or(rest, |(_, rest)| rest).trim_start()
        });
        if visible.starts_with("use ") {
            return Some(place + (line.len() - visible.len()));
        }
        place += line.len();
    }
    None
}

/// `a::{b, c::{d, e}}` as `a::b`, `a::c::d`, `a::c::e`.
pub(crate) fn expand(prefix: &str, tree: &str, found: &mut Vec<String>) {
    let tree = tree.trim();
    let Some(brace) = tree.find('{') else {
        let path = tree.split(" as ").next().unwrap_or_default().trim();
        if !path.is_empty() {
            found.push(format!("{prefix}{path}"));
        }
        return;
    };
    let inner = &tree[brace + 1..tree.rfind('}').expect("a brace is closed")];
    let prefix = format!("{prefix}{}", &tree[..brace]);
    let (mut depth, mut begin) = (0, 0);
    for (place, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&prefix, &inner[begin..place], found);
                begin = place + 1;
            }
            _ => {}
        }
    }
    expand(&prefix, &inner[begin..], found);
}

/// A path as one from the root of this or another crate; none if it begins with a local name.
fn resolve(path: &str, module: &[String]) -> Option<String> {
    let mut parts: Vec<_> = path.split("::").collect();
    let first = *parts.first()?;
    if first == "super" {
        let mut place = module.to_vec();
        while parts.first() == Some(&"super") {
            parts.remove(0);
            place.pop();
        }
        let rest = place.iter().map(String::as_str).chain(parts).collect::<Vec<_>>().join("::");
        return Some(format!("crate::{rest}"));
    }
    let named = first == "crate" || crates().contains(first);
    named.then(|| path.to_owned())
}

/// The names under which code knows other crates: the dependencies', and the standard library's.
fn crates() -> &'static BTreeSet<String> {
    static NAMES: std::sync::OnceLock<BTreeSet<String>> = std::sync::OnceLock::new();
    NAMES.get_or_init(|| {
        let manifest: toml::Table = fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
        let dependencies = manifest["dependencies"].as_table().unwrap().keys().map(|name| name.replace('-', "_"));
        dependencies.chain(["std", "core", "alloc"].map(str::to_owned)).collect()
    })
}

impl Source {
    /// The part of the crate it belongs to; `main.rs` and `lib.rs` belong to none.
    fn part(&self) -> Option<&str> {
        self.module.first().map(String::as_str).filter(|part| *part != "main")
    }

    /// A path that it uses of a part of the crate or of another crate.
    fn uses(&self, name: &str) -> Option<&String> {
        self.paths.iter().find(|path| *path == name || path.starts_with(&format!("{name}::")))
    }
}

fn of_part(name: &str) -> Vec<Source> {
    let sources: Vec<_> = sources().into_iter().filter(|source| source.part() == Some(name)).collect();
    assert!(!sources.is_empty(), "there is no {name}");
    sources
}

#[test]
fn use_paths_are_parsed() {
    let code = "pub(super) use a::{b, c::{self, d as e}};\nuse super::x;\nfn f() -> crate::y::Z { std::fs::read(1) }\n";
    assert_eq!(paths(code), ["a::b", "a::c::self", "a::c::d", "super::x", "crate::y::Z", "std::fs::read"]);
    let module = ["store".to_owned(), "sqlite".to_owned(), "rows".to_owned()];
    assert_eq!(resolve("super::super::rows::Rows", &module).unwrap(), "crate::store::rows::Rows");
    assert_eq!(resolve("super::sql", &module).unwrap(), "crate::store::sqlite::sql");
    assert_eq!(resolve("Self::new", &module), None);
}

#[test]
fn each_part_uses_only_what_lies_below_it() {
    let parts: BTreeSet<_> = sources().iter().filter_map(|source| source.part().map(str::to_owned)).collect();
    let known: BTreeSet<_> = MAY_USE.iter().map(|(part, _)| (*part).to_owned()).collect();
    assert_eq!(parts, known, "each part of the crate is in the table");
    for source in sources() {
        let Some(part) = source.part() else { continue };
        let (_, allowed) = MAY_USE.iter().find(|(name, _)| *name == part).unwrap();
        for (other, _) in MAY_USE {
            if *other == part || allowed.contains(other) {
                continue;
            }
            let used = source.uses(&format!("crate::{other}"));
            assert_eq!(used, None, "{}: {part} must not use {other}", source.path.display());
        }
    }
}

#[test]
fn the_dependency_table_has_no_circle() {
    for (part, allowed) in MAY_USE {
        let mut below: BTreeSet<&str> = allowed.iter().copied().collect();
        let mut size = 0;
        while size != below.len() {
            size = below.len();
            for (name, lower) in MAY_USE {
                if below.contains(name) {
                    below.extend(*lower);
                }
            }
        }
        assert!(!below.contains(part), "{part} is below itself");
    }
}

#[test]
fn the_domain_and_the_coordinator_are_pure() {
    for (part, allowed) in [("domain", PURE), ("coordinator", PURE_COORDINATOR)] {
        for source in of_part(part) {
            for path in &source.paths {
                let below = |name: &&str| path == *name || path.starts_with(&format!("{name}::"));
                let pure = path.starts_with("crate::") || allowed.iter().any(below);
                assert!(pure, "{}: {part} must not use {path}", source.path.display());
                for impure in IMPURE_STD {
                    let inside = path.strip_prefix("std::").is_some_and(|path| path.starts_with(impure));
                    assert!(!inside, "{}: {part} must not use {path}", source.path.display());
                }
            }
        }
    }
}

#[test]
fn the_store_uses_no_crate_of_the_wire() {
    for source in of_part("store") {
        for name in NOT_IN_STORE {
            assert_eq!(source.uses(name), None, "{}", source.path.display());
        }
    }
}

#[test]
fn only_the_sqlite_backend_uses_rusqlite() {
    for source in sources() {
        let inside = source.module.starts_with(&["store".to_owned(), "sqlite".to_owned()]);
        // `check` and `restore` open a store that no daemon uses.
        let offline = source.part() == Some("cli");
        if !inside && !offline {
            assert_eq!(source.uses("rusqlite"), None, "{}", source.path.display());
        }
    }
}

/// Files whose code, without comments and tests, has one of these words; by their paths below `src/`.
fn files_with(words: &[&str]) -> BTreeSet<String> {
    let holds = |code: &str| words.iter().any(|word| code.contains(word));
    let mut files = Vec::new();
    collect(&root().join("src"), &mut files);
    // Modules that are compiled for tests alone.
    files.retain(|path| !["tests.rs", "fake.rs", "plans.rs"].contains(&path.file_name().unwrap().to_str().unwrap()));
    let code = |path: &PathBuf| without_tests(&without_comments(&fs::read_to_string(path).unwrap()));
    files.retain(|path| holds(&code(path)));
    files.iter().map(|path| path.strip_prefix(root().join("src")).unwrap().display().to_string()).collect()
}

/// One module creates files: for their owner alone, and not through links.
#[test]
fn files_are_written_by_one_module() {
    let made = files_with(&[
        "File::create",
        "File::options",
        "OpenOptions",
        "DirBuilder",
        "create_dir(",
        "create_dir_all",
        "fs::write",
        "fs::copy",
        "fs::rename",
        "hard_link",
        "os::unix::fs::symlink",
        "set_permissions",
        "tempfile::tempfile",
        "tempfile::tempdir",
        "tempfile::Builder",
        "NamedTempFile",
        "TempDir::new",
    ]);
    // Seeds for the fuzzer: with a feature that no release has.
    assert_eq!(made, ["private_files.rs", "proto/seeds.rs"].map(str::to_owned).into());
}

/// One module opens databases: without trusting their schema, and without creating a file.
#[test]
fn databases_are_opened_by_one_module() {
    let opened = files_with(&["Connection::open"]);
    assert_eq!(opened, ["store/sqlite/connection.rs"].map(str::to_owned).into());
}

/// Printed text is escaped where it is printed: in tables and lines of results, messages, logs, and the screen.
#[test]
fn few_files_write_to_a_terminal() {
    let printing = files_with(&["stdout()", "stderr()", "println!", "print!(", "comfy_table::Cell"]);
    let known = [
        "cli/admin.rs",          // the question before a purge, in numbers
        "cli/bench/progress.rs", // whether it is a terminal
        "cli/docs.rs",           // manual pages and completions
        "cli/import.rs",         // whether it is a terminal
        "cli/notices.rs",
        "cli/output.rs",
        "cli/token.rs", // the entry of a principal, whose name has no such characters
        "cli/top/screen.rs",
        "logs.rs",
    ];
    assert_eq!(printing, known.map(str::to_owned).into());
}

#[test]
fn generated_types_are_used_only_in_the_outer_modules() {
    for source in sources() {
        let Some(part) = source.part() else { continue };
        let used: Vec<_> = source.paths.iter().filter(|path| path.starts_with("crate::proto")).collect();
        match part {
            "grpc" | "client" | "cli" | "proto" => {}
            // The descriptors for reflection, and the services' names for health.
            "serve" => {
                for path in used {
                    let named = path == "crate::proto::DESCRIPTORS" || path.contains("_server");
                    assert!(named, "{}: {path}", source.path.display());
                }
            }
            _ => assert_eq!(used, Vec::<&String>::new(), "{}", source.path.display()),
        }
    }
}

#[test]
fn only_two_files_may_read_a_clock() {
    let clippy = fs::read_to_string(root().join("clippy.toml")).unwrap();
    for clock in
        ["chrono::Utc::now", "std::time::SystemTime::now", "std::time::Instant::now", "tokio::time::Instant::now"]
    {
        assert!(clippy.contains(&format!("path = \"{clock}\"")), "clippy.toml does not forbid {clock}");
    }
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(manifest.contains("disallowed_methods = \"warn\""), "the lint is on");
    let mut files = Vec::new();
    collect(&root().join("src"), &mut files);
    let excepted: BTreeSet<_> = files
        .into_iter()
        .filter(|path| fs::read_to_string(path).unwrap().contains("clippy::disallowed_methods"))
        .map(|path| path.strip_prefix(root().join("src")).unwrap().display().to_string())
        .collect();
    // The coordinator's clock, and the one with which a client measures its own waiting.
    assert_eq!(excepted, ["client/time.rs", "clock.rs"].map(str::to_owned).into());
}

/// Tests of pages and examples: their names don't begin with a promise's number.
const WITHOUT_NUMBERS: [&str; 2] = ["tests/client/worktrees.rs", "tests/operate/documents/run_blocks.rs"];

/// The table of promises in `ARCHITECTURE.md` has M1 to M17, and each file in it has a test of that promise.
#[test]
fn each_promise_has_the_tests_of_the_architecture_table() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let mut promised = 0;
    for row in text.lines().filter(|line| line.starts_with("| M")) {
        let cells: Vec<&str> = row.split(" | ").collect();
        promised += 1;
        assert_eq!(cells[0], format!("| M{promised}"), "the promises are in order");
        let files: Vec<&str> = cells[2].split('`').filter(|cell| cell.ends_with(".rs")).collect();
        let named = format!("fn m{promised}_");
        let shown = |file: &&&str| fs::read_to_string(root().join(file)).unwrap().contains(&named);
        assert!(files.iter().any(|file| shown(&file)), "M{promised} has no test");
        for file in files.iter().filter(|file| file.starts_with("tests/") && !WITHOUT_NUMBERS.contains(*file)) {
            assert!(shown(&file), "{file} has no test of M{promised}");
        }
    }
    assert_eq!(promised, 17);
}

/// The table of mutants in `docs/maintainers/evidence.md` has the rows of `.ci/mutants`, each mutant is in a row, and each test is
/// in the named target.
#[test]
fn each_mutant_has_a_test_in_the_evidence_table() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let script = read(".ci/mutants");
    let (_, table) = script.split_once("TABLE='\n").expect("the script's table");
    let (table, _) = table.split_once('\'').unwrap();
    let tried: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    let document = read("docs/maintainers/evidence.md");
    let rows = document.lines().filter(|line| line.starts_with("| P") || line.starts_with("| M"));
    let told: Vec<Vec<&str>> = rows
        .map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect::<Vec<_>>())
        .filter(|cells| cells.len() == 4)
        .collect();
    assert_eq!(told, tried, "docs/maintainers/evidence.md and .ci/mutants");

    let faults: BTreeSet<_> = Mutant::ALL.iter().map(|mutant| mutant.name()).collect();
    assert_eq!(
        tried.iter().map(|row| row[1]).collect::<BTreeSet<_>>(),
        faults,
        "the rows have exactly the mutants of src/mutants.rs"
    );
    let histories = read("tests/faults/histories/mod.rs");
    for row in &tried {
        let [promise, fault, target, test] = row[..] else { panic!("{row:?}") };
        let mut files = Vec::new();
        collect(&root().join("tests").join(target), &mut files);
        let defined = format!("fn {test}(");
        let found = files.iter().any(|file| fs::read_to_string(file).unwrap().contains(&defined));
        assert!(found, "tests/{target} has no {test}");
        if test == "each_mutant_is_detected" {
            assert!(histories.contains(&format!("(\"{fault}\", \"{promise}\")")), "{test} does not try {fault}");
        }
    }
    // The promises of several coordinators and of PostgreSQL have no code yet.
    for number in (1..=18).filter(|number| ![15, 16].contains(number)) {
        let promise = format!("P{number}");
        assert!(tried.iter().any(|row| row[0] == promise), "{promise} has no mutant");
    }
}
