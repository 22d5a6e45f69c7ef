//! `sagad config`: checks and shows the configuration of `sagad serve` without starting it.

use std::{env, fs, path::Path, process::Command};

use serde_json::{Value, json};

use super::cli_fixture::{CliFixture, sagad};
use crate::support::binary::CommandOutput;

/// Runs it with these variables only.
fn run(line: &str, variables: &[(&str, &str)]) -> CommandOutput {
    CommandOutput::of(command(line, variables))
}

fn command(line: &str, variables: &[(&str, &str)]) -> Command {
    let mut command = sagad(line);
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SAGAD_")) {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied());
    command
}

/// Runs it, which must succeed with nothing on stderr; returns stdout.
fn ok(line: &str, variables: &[(&str, &str)]) -> String {
    let ran = run(line, variables);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "sagad {line}");
    ran.out
}

fn shown(line: &str, variables: &[(&str, &str)]) -> Value {
    serde_json::from_str(&ok(&format!("config show -o json {line}"), variables)).unwrap()
}

/// The path of `deploy/sagad.toml`, and its text with every key uncommented.
fn deployed() -> (String, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/sagad.toml");
    let lines = fs::read_to_string(&path).unwrap();
    let lines = lines.lines().map(|line| line.strip_prefix('#').filter(|key| !key.starts_with(' ')).unwrap_or(line));
    (path.display().to_string(), lines.collect::<Vec<_>>().join("\n"))
}

#[test]
fn config_check_accepts_what_serve_accepts() {
    assert_eq!(ok("config check", &[]), "the configuration is fine (no file)\n");
    let (path, _) = deployed();
    let fine = format!("the configuration is fine (file {path})\n");
    assert_eq!(ok(&format!("config check --config {path}"), &[]), fine);
    assert_eq!(ok("config check", &[("SAGAD_CONFIG", &path)]), fine);
    let json: Value = serde_json::from_str(&ok(&format!("config check -o json --config {path}"), &[])).unwrap();
    assert_eq!(json, json!({ "file": path, "warnings": [] }));
}

#[test]
fn config_check_refuses_what_serve_refuses_with_the_same_message() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name).display().to_string()
    };
    let none: &[(&str, &str)] = &[];
    let data = dir.path().join("data").display().to_string();
    for (flags, variables, about) in [
        ("--restart-grace 2h".to_owned(), none, "--restart-grace: \"2h\" is more than"),
        ("--listen 0.0.0.0:0".to_owned(), none, "--insecure"),
        (String::new(), &[("SAGAD_READERS", "0")][..], "SAGAD_READERS: \"0\" is less than 1"),
        (format!("--config {}", file("a.toml", "\nreaders = 0")), none, "a.toml:2: \"0\" is less than 1"),
        (format!("--config {}", file("b.toml", "reader = 1")), none, "unknown key: reader"),
        (format!("--config {}", file("c.toml", "readers = \nlog = 1")), none, "not valid TOML"),
        ("--config /nowhere/sagad.toml".to_owned(), none, "/nowhere/sagad.toml can't be read"),
        ("--readers".to_owned(), none, "a value is required"),
    ] {
        let serve = run(&format!("serve --data {data} {flags}"), variables);
        for verb in ["check", "show"] {
            let ran = run(&format!("config {verb} --data {data} {flags}"), variables);
            assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{verb} {flags}: {}", ran.err);
            assert!(ran.err.contains(about), "{verb} {flags}: {}", ran.err);
            // An invalid command line prints the usage of its own command.
            let told = |ran: &CommandOutput| if flags == "--readers" { String::new() } else { ran.err.clone() };
            assert_eq!((serve.code, told(&serve)), (ran.code, told(&ran)), "{verb} {flags}");
            let json = run(&format!("config {verb} -o json --data {data} {flags}"), variables);
            let error: Value = serde_json::from_str(&json.err).unwrap();
            assert_eq!((json.code, &error["error"]["reason"]), (2, &"USAGE".into()));
        }
    }
    assert!(!Path::new(&data).exists());
}

#[test]
fn all_errors_are_reported_at_once_each_with_its_source() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sagad.toml");
    fs::write(&file, "# A comment\nreders = 4\nreaders = 0\n\ndrain_grace = \"soon\"\nnothing = 1\n").unwrap();
    let name = file.display();
    // Whether the address is public is checked once the other settings are valid.
    let flags = format!("--config {name} --restart-grace 2h --listen 0.0.0.0:0");
    let variables = [("SAGAD_LOG_FORMAT", "xml")];
    let ran = run(&format!("config check {flags}"), &variables);
    let expected = [
        "sagad: 6 errors:".to_owned(),
        format!("  the configuration file {name}:2 has an unknown key: reders (is readers meant?)"),
        format!("  the configuration file {name}:6 has an unknown key: nothing (known: listen, data, "),
        "  --restart-grace: \"2h\" is more than 3600s".to_owned(),
        format!("  drain_grace in {name}:5: \"soon\" is not a length of time"),
        "  SAGAD_LOG_FORMAT: \"xml\" is neither text nor json".to_owned(),
        format!("  readers in {name}:3: \"0\" is less than 1"),
    ];
    let lines: Vec<&str> = ran.err.lines().collect();
    assert_eq!((ran.code, lines.len()), (2, expected.len()), "{}", ran.err);
    for (line, expected) in lines.iter().zip(&expected) {
        assert!(line.starts_with(expected.as_str()), "{line}\nwhere there should be\n{expected}");
    }
    let serve = run(&format!("serve {flags}"), &variables);
    assert_eq!((serve.code, serve.err), (2, ran.err), "the daemon tells them all as well");
    fs::write(&file, "").unwrap();
    let ran = run(&format!("config check --config {name} --listen 0.0.0.0:0"), &[]);
    assert!(ran.code == 2 && ran.err.contains("needs TLS and principals"), "{}", ran.err);
}

#[test]
fn config_check_starts_nothing_and_opens_no_store() {
    let d = CliFixture::start();
    let address = d.url().replace("http://", "");
    let (data, none) = (d.file("data"), d.file("none"));
    let names = || {
        let mut names: Vec<_> = fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    for verb in ["check", "show"] {
        // The address is in use and the store is locked, so starting anything would fail.
        ok(&format!("config {verb} --listen {address} --data {}", data.display()), &[]);
        ok(&format!("config {verb} --data {}", none.display()), &[]);
    }
    assert_eq!(names(), before);
    assert!(!none.exists());
    d.ok("health");
}

#[test]
fn config_show_names_the_source_of_each_setting() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sagad.toml").display().to_string();
    fs::write(&file, "# Mine.\n\nreaders = 7\ndata = '/file'\nmax_wal_bytes = 1048576\nlog = \"info\"\n").unwrap();
    let variables =
        [("SAGAD_DATA", "/a \"dir\""), ("SAGAD_INSECURE", "1"), ("SAGAD_LISTEN", "[::1]:7"), ("SAGAD_LOG", "")];
    let line = format!("--config {file} --listen 192.0.2.1:1 --restart-grace 90s");
    let table = ok(&format!("config show {line}"), &variables);
    let rows: Vec<(&str, String)> = table
        .lines()
        .filter_map(|row| row.split_once(' '))
        .map(|(key, rest)| {
            (key, rest.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect::<Vec<_>>().join(" | "))
        })
        .collect();
    assert_eq!(rows[0], ("KEY", "VALUE | FROM".to_owned()));
    for (key, rest) in [
        ("listen", "\"192.0.2.1:1\" | flag --listen".to_owned()),
        ("data", "\"/a \\\"dir\\\"\" | variable SAGAD_DATA".to_owned()),
        ("restart_grace", "\"1m30s\" | flag --restart-grace".to_owned()),
        ("drain_grace", "\"10s\" | default".to_owned()),
        ("log", format!("\"info\" | file {file}:6")),
        ("insecure", "true | variable SAGAD_INSECURE".to_owned()),
        ("readers", format!("7 | file {file}:3")),
        ("max_wal_bytes", format!("\"1MiB\" | file {file}:5")),
        ("network_threads", "0 | default".to_owned()),
    ] {
        assert!(rows.contains(&(key, rest.clone())), "{key} {rest}\n{table}");
    }
    let all = shown(&line, &variables);
    assert_eq!(all.as_object().unwrap().len() + 1, rows.len());
    assert_eq!(all["listen"], json!({ "value": "192.0.2.1:1", "from": "flag", "flag": "--listen" }));
    assert_eq!(all["data"], json!({ "value": "/a \"dir\"", "from": "variable", "variable": "SAGAD_DATA" }));
    assert_eq!(all["readers"], json!({ "value": 7, "from": "file", "file": file, "line": 3 }));
    assert_eq!(all["insecure"]["value"], true);
    assert_eq!(all["writer_batch"], json!({ "value": 1024, "from": "default" }));
    // The printed settings work as a configuration file.
    let cut = |row: &str| {
        let (key, rest) = row.split_once("  ")?;
        Some(format!("{key} = {}", rest.trim_start().split("  ").next()?))
    };
    let pasted: Option<Vec<String>> = table.lines().skip(1).map(cut).collect();
    let other = dir.path().join("pasted.toml").display().to_string();
    fs::write(&other, pasted.unwrap().join("\n")).unwrap();
    let again = shown(&format!("--config {other}"), &[]);
    for (key, setting) in all.as_object().unwrap() {
        assert_eq!((&again[key]["value"], &again[key]["file"]), (&setting["value"], &json!(other)), "{key}");
    }
}

#[test]
fn the_deployed_file_has_the_defaults() {
    let (path, uncommented) = deployed();
    let default = shown("", &[]);
    assert_eq!(shown(&format!("--config {path}"), &[]), default, "all is commented out");
    let dir = tempfile::tempdir().unwrap();
    let all = dir.path().join("all.toml").display().to_string();
    fs::write(&all, uncommented).unwrap();
    let said = shown(&format!("--config {all}"), &[]);
    for (key, setting) in default.as_object().unwrap() {
        assert_eq!((&said[key]["value"], &said[key]["from"]), (&setting["value"], &"file".into()), "{key}");
    }
}

#[test]
fn config_defaults_prints_a_file_with_all_defaults() {
    let deployed = include_str!("../../../deploy/sagad.toml");
    // It ignores invalid variables and missing files.
    assert_eq!(ok("config defaults", &[("SAGAD_READERS", "0"), ("SAGAD_CONFIG", "/nowhere")]), deployed);
    let json: Value = serde_json::from_str(&ok("config defaults -o json", &[])).unwrap();
    assert_eq!(json, json!({ "text": deployed }));
    assert!(ok("config defaults --help", &[]).contains("  sagad config defaults > sagad.toml"));
}

#[test]
fn suspicious_settings_are_warned_of_on_stderr() {
    let variables = [("SAGAD_RESTART_GRCE", "5s"), ("SAGAD_TOKEN", "7")];
    let ran = run("config check --insecure --max-calls 10 --max-watches 11", &variables);
    assert_eq!((ran.code, ran.out.as_str()), (0, "the configuration is fine (no file)\n"));
    let warnings: Vec<_> = ran.err.lines().collect();
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    for (warning, about) in warnings.iter().zip(["insecure has no effect", "--max-watches: 11", "SAGAD_RESTART_GRACE"])
    {
        assert!(warning.starts_with("sagad: warning: ") && warning.contains(about), "{warning}");
    }
    let ran = run("config check -o json", &variables);
    let json: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.err.as_str(), json["warnings"].as_array().unwrap().len()), ("", 1), "{json}");
}

#[test]
fn each_subcommand_of_config_has_help_with_examples() {
    for verb in ["check", "show"] {
        let help = ok(&format!("config {verb} --help"), &[]);
        assert!(
            help.contains(&format!("Usage: sagad config {verb}")) && help.contains(&format!("  sagad config {verb}"))
        );
        assert!(help.contains("--max-wal-bytes") && help.lines().all(|line| line.chars().count() <= 130), "{help}");
    }
    assert_eq!(run("config", &[]).code, 2);
}
