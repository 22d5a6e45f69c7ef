//! `deploy/sagad.toml` is true: each key once, with its default and its bounds. So is what is told about each setting.

use std::{collections::HashMap, io::Write, path::PathBuf};

use super::super::{args::KEYS, *};

const DEPLOYED: &str = include_str!("../../../deploy/sagad.toml");

fn explain(text: &str) -> Result<Explained, ConfigError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let args = ServeArgs { config: Some(file.path().to_owned()), ..ServeArgs::default() };
    Explained::merge(&args, &|_| None)
}

/// The lines with keys, each with the comment above it, as one line.
fn entries() -> Vec<(String, String)> {
    let (mut entries, mut comment) = (Vec::new(), Vec::new());
    for line in DEPLOYED.lines() {
        if let Some(words) = line.strip_prefix("# ") {
            comment.push(words);
        } else if line.is_empty() || line == "#" {
            comment.clear();
        } else {
            let key = line.strip_prefix('#').filter(|key| key.contains(" = "));
            let key = key.unwrap_or_else(|| panic!("neither a comment nor a key that is commented out: {line}"));
            entries.push((key.to_owned(), comment.join(" ")));
        }
    }
    entries
}

fn values(explained: &Explained) -> Vec<(&'static str, String)> {
    explained.settings.iter().map(|setting| (setting.key, setting.shown())).collect()
}

#[test]
fn the_file_as_it_stands_changes_nothing() {
    let (as_it_stands, default) = (explain(DEPLOYED).unwrap(), explain("").unwrap());
    assert_eq!(as_it_stands.config, default.config);
    assert!(as_it_stands.settings.iter().all(|setting| setting.origin.is_none()));
}

#[test]
fn the_file_has_each_key_once_with_its_default() {
    let entries = entries();
    let mut keys: Vec<_> = entries.iter().filter_map(|(line, _)| line.split(" = ").next()).collect();
    keys.sort_unstable();
    let mut known = KEYS;
    known.sort_unstable();
    assert_eq!(keys, known);
    let lines: Vec<_> = entries.iter().map(|(line, _)| line.as_str()).collect();
    let (said, default) = (explain(&lines.join("\n")).unwrap(), explain("").unwrap());
    assert_eq!(said.config, default.config);
    assert_eq!(values(&said), values(&default), "what the machine decides, too");
    assert!(said.settings.iter().all(|setting| setting.origin.is_some()));
}

#[test]
fn the_file_says_why_and_tells_the_bounds() {
    let mut bounded = Vec::new();
    for (line, comment) in entries() {
        let (key, default) = line.split_once(" = ").unwrap();
        assert!(comment.len() > 60 && comment.ends_with('.'), "{key}: {comment}");
        let takes = |value: &str| explain(&format!("{key} = {value:?}")).is_ok();
        let told = comment.rsplit_once("From ").and_then(|(_, rest)| rest.strip_suffix('.')?.split_once(" to "));
        let Some((least, most)) = told else { continue };
        bounded.push(key.to_owned());
        assert!(takes(least) && takes(most), "{key}: from {least} to {most}");
        let number = |text: &str| {
            let length = humantime::parse_duration(text).map(|length| length.as_micros() as u64);
            length.or_else(|_| value::size(0, u64::MAX)(text)).unwrap()
        };
        let quoted = default.strip_prefix('"').and_then(|default| default.strip_suffix('"'));
        let unit = if quoted.is_some_and(|text| humantime::parse_duration(text).is_ok()) { "us" } else { "" };
        assert!(!takes(&format!("{}{unit}", number(most) + 1)), "{key} may be more than {most}");
        if let Some(less) = number(least).checked_sub(1) {
            assert!(!takes(&format!("{less}{unit}")), "{key} may be less than {least}");
        }
    }
    let unbounded = [
        "listen",
        "data",
        "insecure",
        "log_format",
        "log",
        "tls_cert",
        "tls_key",
        "tls_client_ca",
        "tls_client_crl",
        "principals",
        "reflection",
        "retention_export",
        "ops_listen",
        "otlp_endpoint",
        "trace_sample",
    ];
    let rest: Vec<_> = KEYS.iter().filter(|key| !bounded.iter().any(|bounded| bounded == *key)).collect();
    assert!(rest.iter().all(|key| unbounded.contains(key)), "no bounds are told for one of {rest:?}");
}

#[test]
fn settings_are_told_in_the_order_of_the_keys_with_who_said_them() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"# One line above.\nreaders = 7\ndata = \"/file\"\n").unwrap();
    let args = ServeArgs { config: Some(file.path().to_owned()), data: Some("/flag".into()), ..ServeArgs::default() };
    let variables = HashMap::from([("SAGAD_MAX_WAL_BYTES", "1048576"), ("SAGAD_INSECURE", "1")]);
    let explained = Explained::merge(&args, &|name| variables.get(name).map(Into::into)).unwrap();
    assert!(explained.settings.iter().map(|setting| setting.key).eq(KEYS));
    let told = |key: &str| {
        let setting = explained.settings.iter().find(|setting| setting.key == key).unwrap();
        (setting.shown(), setting.origin.clone())
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
fn what_is_hardly_meant_is_warned_of() {
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
