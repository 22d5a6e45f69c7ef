//! No two modules of a folder use each other, directly or by way of others.
//!
//! The modules of a folder are its files, each folder in it as one, and its own `mod.rs`. Which module uses which is read
//! from the paths in the sources; a path is followed through `pub use` to the file that declares the item. A `pub use` in a
//! `mod.rs` only wires the folder and does not count as a use, so a `mod.rs` whose code uses its children must not declare
//! what they use.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use crate::floors::{collect, expand, find_use, root, without_comments, without_tests};

/// The parts of the crate that are checked: all with more than one file.
const WITHOUT_CIRCLES: &[&str] = &[
    "client",
    "cli",
    "config",
    "coordinator",
    "domain",
    "grpc",
    "listen",
    "logs",
    "metrics",
    "proto",
    "serve",
    "store",
    "watch",
];

/// The name of a folder's `mod.rs` among its modules.
const MOD: &str = "mod";

/// The path of a module in the crate, such as `["store", "sqlite"]`.
type ModulePath = Vec<String>;

/// Which modules use which, by name.
type Uses = BTreeMap<String, BTreeSet<String>>;

/// The paths in one module's code.
#[derive(Default)]
struct Code {
    /// Of `pub use`.
    reexported: Vec<String>,
    /// All others.
    used: Vec<String>,
}

impl Code {
    fn read(code: &str) -> Self {
        let mut found = Code::default();
        // The path of a visibility is no use.
        let parts = code.split("pub(in ").enumerate();
        let seen =
            parts.map(|(at, part)| if at == 0 { part } else { part.split_once(')').map_or(part, |(_, rest)| rest) });
        let code = seen.collect::<Vec<_>>().join("pub");
        let (mut rest, mut others) = (code.as_str(), String::new());
        while let Some(begin) = find_use(rest) {
            let is_public = rest[..begin].rsplit('\n').next().is_some_and(|line| line.trim_start().starts_with("pub"));
            others.push_str(&rest[..begin]);
            let end = begin + rest[begin..].find(';').expect("a use ends with a semicolon");
            let tree = rest[begin..end].trim_start_matches("use ").split_whitespace().collect::<Vec<_>>().join(" ");
            expand("", &tree, if is_public { &mut found.reexported } else { &mut found.used });
            rest = &rest[end + 1..];
        }
        others.push_str(rest);
        let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        found.used.extend(others.split(|c| !is_part(c)).filter(|word| word.contains("::")).map(str::to_owned));
        found
    }
}

/// All modules of the crate, each with the modules that its paths name.
struct Modules {
    used: BTreeMap<ModulePath, Vec<ModulePath>>,
    /// By module: the items that it re-exports, by name, and where they come from.
    reexported: BTreeMap<ModulePath, BTreeMap<String, ModulePath>>,
}

impl Modules {
    fn of(codes: &BTreeMap<ModulePath, Code>) -> Self {
        let places = |module: &ModulePath, paths: &[String]| -> Vec<ModulePath> {
            paths.iter().filter_map(|path| absolute(path, module, codes)).collect()
        };
        let used = codes.iter().map(|(module, code)| {
            let mut used = places(module, &code.used);
            // A re-export counts as a use, except in a `mod.rs`.
            if !is_folder(module, codes) {
                used.extend(places(module, &code.reexported));
            }
            (module.clone(), used)
        });
        let reexported = codes.iter().map(|(module, code)| {
            let items = places(module, &code.reexported).into_iter();
            (module.clone(), items.filter_map(|place| Some((place.last()?.clone(), place))).collect())
        });
        Modules { used: used.collect(), reexported: reexported.collect() }
    }

    /// The module that declares the item of a path.
    fn owner(&self, place: &[String]) -> ModulePath {
        let mut place = place.to_vec();
        // Follows re-exports of re-exports, up to a few steps.
        for _ in 0..16 {
            let known = (0..=place.len()).rev().find(|length| self.used.contains_key(&place[..*length])).unwrap_or(0);
            let reexport = place.get(known).and_then(|item| self.reexported.get(&place[..known])?.get(item));
            match reexport {
                Some(origin) => place = origin.iter().chain(&place[known + 1..]).cloned().collect(),
                None => return place[..known].to_vec(),
            }
        }
        place
    }

    /// Which modules of a folder use which.
    fn of_folder(&self, folder: &[String]) -> Uses {
        let name = |module: &ModulePath| {
            let inside = module.starts_with(folder);
            inside.then(|| module.get(folder.len()).cloned().unwrap_or_else(|| MOD.to_owned()))
        };
        let mut uses = Uses::new();
        for (module, used) in &self.used {
            let Some(user) = name(module) else { continue };
            let owners = used.iter().filter_map(|place| name(&self.owner(place)));
            uses.entry(user.clone()).or_default().extend(owners.filter(|owner| *owner != user));
        }
        uses
    }

    fn folders(&self) -> BTreeSet<ModulePath> {
        self.used.keys().filter(|module| module.len() > 1).map(|module| module[..module.len() - 1].to_vec()).collect()
    }
}

/// A path from the crate's root; none if it leads out of the crate or begins with a name that is no module.
fn absolute(path: &str, module: &ModulePath, codes: &BTreeMap<ModulePath, Code>) -> Option<ModulePath> {
    let mut parts: Vec<&str> = path.split("::").filter(|part| !part.is_empty()).collect();
    if parts.last() == Some(&"self") && parts.len() > 1 {
        parts.pop();
    }
    let mut place = module.clone();
    match *parts.first()? {
        "crate" => {
            place.clear();
            parts.remove(0);
        }
        "self" => {
            parts.remove(0);
        }
        "super" => {
            while parts.first() == Some(&"super") {
                parts.remove(0);
                place.pop();
            }
        }
        first => {
            let child: ModulePath = module.iter().cloned().chain([first.to_owned()]).collect();
            if !codes.contains_key(&child) {
                return None;
            }
        }
    }
    place.extend(parts.into_iter().map(str::to_owned));
    Some(place)
}

fn is_folder(module: &ModulePath, codes: &BTreeMap<ModulePath, Code>) -> bool {
    codes.keys().any(|other| other.len() > module.len() && other.starts_with(module))
}

fn place_of(path: &Path) -> ModulePath {
    let inside = path.strip_prefix(root().join("src")).unwrap().with_extension("");
    let mut place: ModulePath = inside.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if place.last().is_some_and(|last| last == "mod") || place == ["lib"] {
        place.pop();
    }
    place
}

fn codes() -> BTreeMap<ModulePath, Code> {
    let mut files: Vec<PathBuf> = Vec::new();
    collect(&root().join("src"), &mut files);
    files.retain(|path| path.file_name().unwrap() != "tests.rs");
    let code = |path: &PathBuf| without_tests(&without_comments(&fs::read_to_string(path).unwrap()));
    files.iter().map(|path| (place_of(path), Code::read(&code(path)))).collect()
}

/// The modules that use each other in a circle: those left after removing, again and again, all that use none of the others or
/// are used by none of the others.
fn circle(mut modules: Uses) -> BTreeSet<String> {
    loop {
        let left: BTreeSet<String> = modules.keys().cloned().collect();
        let used: BTreeSet<String> = modules.values().flatten().cloned().collect();
        modules.retain(|name, uses| used.contains(name) && !uses.is_disjoint(&left));
        modules.values_mut().for_each(|uses| uses.retain(|name| left.contains(name)));
        if modules.len() == left.len() {
            return left;
        }
    }
}

/// The modules of a crate that has these files with this code.
fn crate_of(files: &[(&str, &str)]) -> Modules {
    let place =
        |path: &str| path.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect::<ModulePath>();
    Modules::of(&files.iter().map(|(path, code)| (place(path), Code::read(code))).collect())
}

#[test]
fn module_circles_are_detected() {
    let circle_in = |files: &[(&str, &str)]| circle(crate_of(files).of_folder(&["p".to_owned()]));
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let wiring = ("p", "mod a;\nmod b;\npub use a::A;\npub use b::B;\n");
    assert_eq!(circle_in(&[wiring, ("p::a", "use super::B;"), ("p::b", "use std::fs;")]), names(&[]));
    let both = [wiring, ("p::a", "use super::B;"), ("p::b", "fn f() -> crate::p::A {}")];
    assert_eq!(circle_in(&both), names(&["a", "b"]), "a re-export leads to the file that declares the item");
    let round = [("p", ""), ("p::a", "use super::b;"), ("p::b", "use super::{c::X, d};"), ("p::c", "use super::d::Y;")];
    assert_eq!(circle_in(&[&round[..], &[("p::d", "use super::b::Z;")]].concat()), names(&["b", "c", "d"]));
    let own = [("p", "mod a;\nuse a::run;\nstruct Own;\n"), ("p::a", "use super::Own;")];
    assert_eq!(circle_in(&own), names(&["a", MOD]), "a mod.rs that uses its child declares what the child uses");
    let inner = [("p", ""), ("p::a", ""), ("p::a::x", "use super::super::b::B;"), ("p::b", "use super::a::x::X;")];
    assert_eq!(circle_in(&inner), names(&["a", "b"]), "a folder counts as one module");
}

#[test]
fn no_modules_use_each_other_in_a_circle() {
    let modules = Modules::of(&codes());
    let transition = &modules.of_folder(&["domain".to_owned()])["transition"];
    assert!(transition.contains("holder_operations"), "uses are found: {transition:?}");
    let mut folders = 0;
    for folder in modules.folders() {
        if WITHOUT_CIRCLES.contains(&folder[0].as_str()) {
            folders += 1;
            let found = circle(modules.of_folder(&folder));
            assert_eq!(found, BTreeSet::new(), "these modules of {} use each other in a circle", folder.join("::"));
        }
    }
    assert!(folders > 15, "the folders are found: {folders}");
}
