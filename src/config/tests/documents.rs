//! What is made of the declarations: `deploy/sagad.toml` and the table of `docs/reference/limits.md`. To make them anew:
//! `sagad config defaults > deploy/sagad.toml`, and `SAGAD_WRITE_DOCS=1 cargo test --lib documents`.

use std::{collections::HashMap, env, fs, io::Write, path::PathBuf};

use super::{super::*, args};

const LIMITS_PAGE: &str = "docs/reference/limits.md";
const BEGIN: &str = "<!-- Made from src/config/settings.rs: SAGAD_WRITE_DOCS=1 cargo test --lib documents -->\n";
const END: &str = "<!-- End of what is made. -->\n";

fn explain(text: &str) -> Result<Explained, ConfigError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    Explained::merge(&args(&["--config", file.path().to_str().unwrap()]), &|_| None)
}

fn values(explained: &Explained) -> Vec<(&'static str, Value)> {
    explained.settings.iter().map(|one| (one.setting.key, one.value.clone())).collect()
}

#[test]
fn the_deployed_file_is_the_generated_one() {
    let deployed = include_str!("../../../deploy/sagad.toml");
    assert_eq!(deployed, defaults_file(), "make it anew: sagad config defaults > deploy/sagad.toml");
    assert!(deployed.lines().all(|line| line.chars().count() <= 120));
}

#[test]
fn the_deployed_file_changes_no_setting() {
    let (as_it_stands, default) = (explain(&defaults_file()).unwrap(), explain("").unwrap());
    assert_eq!(as_it_stands.config, default.config);
    assert!(as_it_stands.settings.iter().all(|one| one.origin.is_none()));
}

#[test]
fn the_deployed_file_has_each_key_once_with_its_default() {
    let file = defaults_file();
    let keys = file.lines().filter_map(|line| line.strip_prefix('#').filter(|key| !key.starts_with([' ', '#'])));
    let keys = keys.filter(|key| !key.is_empty()).collect::<Vec<_>>().join("\n");
    let (said, default) = (explain(&keys).unwrap(), explain("").unwrap());
    assert_eq!(said.config, default.config);
    assert_eq!(values(&said), values(&default), "what the machine decides, too");
    assert!(said.settings.iter().all(|one| one.origin.is_some()), "each is in the file");
}

#[test]
fn each_setting_has_an_explanation() {
    for setting in settings::all() {
        assert!(setting.about.len() > 40 && setting.about.ends_with('.'), "{}: {}", setting.key, setting.about);
        assert!(!setting.help.ends_with('.') && setting.help.len() < 110, "{}: {}", setting.key, setting.help);
        assert!(!setting.about.contains("  ") && !setting.help.contains("  "), "{}", setting.key);
    }
}

#[test]
fn the_limits_page_has_the_generated_table() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(LIMITS_PAGE);
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the place of the table");
    let (_, after) = rest.split_once(END).expect("its end");
    let mut table = "| setting | default | range | what it bounds | at the bound |\n|---|---|---|---|---|\n".to_owned();
    for setting in settings::limits() {
        let Setting { key, default, help, at_bound, kind, .. } = setting;
        let (least, most) = kind.range().expect("a limit has a range");
        table.push_str(&format!("| `{key}` | {default} | {least} to {most} | {help} | {at_bound} |\n"));
    }
    let made = format!("{before}{BEGIN}{table}{END}{after}");
    if env::var_os("SAGAD_WRITE_DOCS").is_some() {
        fs::write(&path, &made).unwrap();
    }
    assert!(page == made || env::var_os("SAGAD_WRITE_DOCS").is_some(), "{LIMITS_PAGE} is to be made anew: see above");
}

#[test]
fn settings_are_shown_in_order_with_their_sources() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"# One line above.\nreaders = 7\ndata = \"/file\"\n").unwrap();
    let args = args(&["--data", "/flag", "--config", file.path().to_str().unwrap()]);
    let variables = HashMap::from([("SAGAD_MAX_WAL_BYTES", "1048576"), ("SAGAD_INSECURE", "1")]);
    let explained = Explained::merge(&args, &|name| variables.get(name).map(Into::into)).unwrap();
    assert!(explained.settings.iter().map(|one| one.setting.key).eq(settings::all().map(|setting| setting.key)));
    let told = |key: &str| {
        let one = explained.settings.find(key).unwrap();
        (one.value.shown().to_string(), one.origin.clone())
    };
    let path: PathBuf = file.path().to_owned();
    assert_eq!(explained.file, Some(path.clone()));
    assert_eq!(told("data"), ("\"/flag\"".into(), Some(Origin::Flag("--data".into()))));
    assert_eq!(told("readers"), ("7".into(), Some(Origin::Key { file: path, key: "readers".into(), line: 2 })));
    let variable = |name: &str| Some(Origin::Variable(name.to_owned()));
    assert_eq!(told("max_wal_bytes"), ("\"1MiB\"".into(), variable("SAGAD_MAX_WAL_BYTES")));
    assert_eq!(told("insecure"), ("true".into(), variable("SAGAD_INSECURE")));
    assert_eq!(told("network_threads"), ("0".into(), None));
}

#[test]
fn suspicious_settings_are_warned_of() {
    let warnings = |text: &str| explain(text).unwrap().warnings([]);
    for fine in ["", "max_calls = 1000", "max_waiting = 32768", "insecure = true\nlisten = \"192.0.2.1:1\""] {
        assert_eq!(warnings(fine), [""; 0], "{fine}");
    }
    let [warning] = &warnings("max_calls = 9000\nmax_waiting = 9001")[..] else { panic!("one warning") };
    assert!(warning.starts_with("max_waiting in /") && warning.contains(":2: 9001") && warning.contains("9000"));
    let both = warnings("max_calls = 9\nmax_watches = 10\nmax_concurrent_streams = 10");
    assert!(both[0].starts_with("max_concurrent_streams") && both[1].starts_with("max_watches"), "{both:?}");
    assert_eq!(warnings("ops_listen = \"127.0.0.1:7421\""), [""; 0]);
    assert!(warnings("ops_listen = \"0.0.0.0:7421\"")[0].contains("ops_listen is 0.0.0.0:7421, beyond this machine"));
    assert!(warnings("insecure = true")[0].contains("insecure has no effect"));
    let exposed = "insecure = true\nlisten = \"192.0.2.1:1\"\nprincipals = \"/p\"";
    assert!(warnings(exposed)[0].contains("plain text"), "{:?}", warnings(exposed));
    let needless = format!("{exposed}\ntls_cert = \"/c\"\ntls_key = \"/k\"");
    assert!(warnings(&needless)[0].contains("beside TLS and principals"));
}
