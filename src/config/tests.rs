//! Precedence, and every way to be wrong.

mod documents;

use std::{collections::HashMap, ffi::OsString, io::Write, os::unix::ffi::OsStringExt};

use clap::{Args, Command, FromArgMatches};

use super::*;

fn args(line: &[&str]) -> ServeArgs {
    let command = ServeArgs::augment_args(Command::new("serve").no_binary_name(true));
    ServeArgs::from_arg_matches(&command.try_get_matches_from(line).unwrap()).unwrap()
}

fn merge(line: &[&str], variables: &[(&str, &str)], file: Option<&str>) -> Result<Config, ConfigError> {
    let mut args = args(line);
    let mut stored = tempfile::NamedTempFile::new().unwrap();
    if let Some(text) = file {
        stored.write_all(text.as_bytes()).unwrap();
        args.config = Some(stored.path().to_owned());
    }
    let variables: HashMap<_, _> = variables.iter().map(|(name, value)| (*name, OsString::from(value))).collect();
    Config::merge(&args, &|name| variables.get(name).cloned())
}

fn problem(line: &[&str], variables: &[(&str, &str)], file: Option<&str>) -> String {
    merge(line, variables, file).unwrap_err().to_string()
}

#[test]
fn without_settings_the_defaults_apply() {
    let config = merge(&[], &[], None).unwrap();
    let expected = Config {
        ops_listen: None,
        otlp_endpoint: None,
        trace_sample: 0.01,
        listen: Listen::Address("127.0.0.1:7420".parse().unwrap()),
        data: "./sagad-data".into(),
        store: None,
        restart_grace: Span::from_secs(10),
        drain_grace: Span::from_secs(10),
        log_format: LogFormat::Text,
        log: "info".to_owned(),
        insecure: false,
        security: Security::default(),
        retention: Retention::default(),
        limits: Limits::default(),
    };
    assert_eq!(config, expected);
}

#[test]
fn a_flag_overrides_a_variable_and_a_variable_the_file() {
    let file = Some("restart_grace = \"1s\"\ndata = \"/file\"\nreaders = 7\ninsecure = true\n");
    let variables = [("SAGAD_RESTART_GRACE", "2s"), ("SAGAD_DATA", "/variable"), ("SAGAD_INSECURE", "false")];
    let config = merge(&["--restart-grace", "3s"], &variables, file).unwrap();
    assert_eq!(config.restart_grace, Span::from_secs(3));
    assert_eq!(config.data, PathBuf::from("/variable"));
    assert_eq!(config.limits.readers, 7);
    assert!(!config.insecure);
    assert!(merge(&["--insecure"], &variables, file).unwrap().insecure);
    assert!(!merge(&["--insecure=false"], &[], file).unwrap().insecure);
}

#[test]
fn every_setting_can_be_given_in_all_three_ways() {
    for setting in settings::all() {
        let key = setting.key;
        // A pair: see below.
        if key.starts_with("tls_") {
            continue;
        }
        let (value, default) = match key {
            "listen" => ("[::1]:7", "127.0.0.1:7420"),
            "data" => ("/d", "./sagad-data"),
            "store" => ("sqlite:/s", ""),
            "log_format" => ("json", "text"),
            "log" => ("debug", "info"),
            "insecure" => ("true", "false"),
            "reflection" => ("false", "true"),
            "principals" => ("/p", ""),
            "ops_listen" => ("[::1]:7", ""),
            "otlp_endpoint" => ("http://[::1]:7", ""),
            "trace_sample" => ("0.5", "0.25"),
            // Beyond what any machine has by default.
            "network_threads" => ("61", "60"),
            "max_call_bytes" => ("128MiB", "64MiB"),
            "max_message_bytes" | "max_wal_bytes" => ("5MiB", "4MiB"),
            "retention_export" => ("/e", ""),
            _ if key.starts_with("retain_") => ("9d", "forever"),
            _ if key.ends_with("grace") || key.ends_with("timeout") || key.ends_with("interval") => ("9s", "8s"),
            _ => ("17", "16"),
        };
        let base = merge(&[], &[], None).unwrap();
        let flag = format!("{}={value}", setting.flag());
        let variable = setting.variable();
        let by_flag = merge(&[&flag], &[(&variable, default)], None).unwrap();
        let by_variable = merge(&[], &[(&variable, value)], Some(&format!("{key} = {default:?}"))).unwrap();
        let by_file = merge(&[], &[], Some(&format!("{key} = {value:?}"))).unwrap();
        assert_ne!(by_flag, base, "{key}");
        assert_eq!(by_flag, by_variable, "{key}");
        assert_eq!(by_flag, by_file, "{key}");
    }
}

#[test]
fn errors_name_the_source_of_the_value() {
    assert!(problem(&["--restart-grace", "2h"], &[], None).starts_with("--restart-grace: \"2h\" is more than"));
    assert!(problem(&[], &[("SAGAD_DRAIN_GRACE", "11m")], None).starts_with("SAGAD_DRAIN_GRACE: \"11m\" is more than"));
    assert!(problem(&["--drain-grace", "0"], &[], None).contains("is less than 1s"));
    let text = problem(&[], &[], Some("listen = \"localhost\""));
    assert!(text.starts_with("listen in /") && text.contains(":1: \"localhost\" is neither an address"), "{text}");
    let text = problem(&[], &[], Some("# A comment\nreaders = 4\n\n  'restart_grace' = 7\n"));
    assert!(text.starts_with("restart_grace in /") && text.contains(":4: \"7\" is not a length"), "{text}");
    assert!(problem(&[], &[], Some("readers = 0")).contains("\"0\" is less than 1"));
    assert!(problem(&[], &[], Some("readers = -1")).contains("\"-1\" is not a whole number"));
    assert!(problem(&[], &[], Some("restart_grace = 10")).contains("\"10\" is not a length of time"));
    assert!(problem(&[], &[], Some("restart_grace = 1.5")).contains("TOML float"));
    assert!(problem(&["--log", "a=b=c"], &[], None).starts_with("--log: \"a=b=c\" is not a log filter"));
    assert!(problem(&["--max-message-bytes", "2MiB"], &[], None).contains("is less than"));
    assert!(problem(&["--insecure=perhaps"], &[], None).starts_with("--insecure: \"perhaps\""));
    assert!(problem(&["--data", ""], &[], None).starts_with("--data: \"\" is empty"));
}

#[test]
fn a_password_in_an_address_is_refused_and_not_printed() {
    let addresses = ["http://ann:hush@host:4317", "https://hush@host", "ann:hush@host:4317", "http://ann:hush@"];
    for address in addresses {
        let quoted = format!("otlp_endpoint = {address:?}");
        let list = format!("otlp_endpoint = [{address:?}]");
        let unfinished = format!("otlp_endpoint = {address:?} {address:?}");
        for text in [
            problem(&["--otlp-endpoint", address], &[], None),
            problem(&[], &[("SAGAD_OTLP_ENDPOINT", address)], None),
            problem(&[], &[], Some(&quoted)),
            problem(&[], &[], Some(&list)),
            problem(&[], &[], Some(&unfinished)),
        ] {
            assert!(!text.contains("hush") || (text.contains("not valid TOML") && !address.contains("://")), "{text}");
        }
    }
}

#[test]
fn the_file_must_exist_parse_and_hold_known_keys() {
    let unknown = problem(&[], &[], Some("restart-grace = \"1s\""));
    assert!(unknown.contains("unknown key: restart-grace") && unknown.contains("restart_grace"), "{unknown}");
    assert!(problem(&[], &[], Some("[limits]\nreaders = 1")).contains("unknown key: limits"));
    assert!(problem(&[], &[], Some("limits.readers = 1")).contains("unknown key: limits"));
    assert!(problem(&[], &[], Some("\n[readers]\nx = 1")).contains(":2: \"{ x = 1 }\" is a TOML table"));
    assert!(problem(&[], &[], Some("readers = 1\nreaders = 1")).contains("duplicate key"));
    assert!(problem(&[], &[], Some("readers = ")).contains("not valid TOML"));
    assert!(problem(&["--config", "/nowhere/sagad.toml"], &[], None).contains("/nowhere/sagad.toml can't be read"));
    assert!(problem(&[], &[("SAGAD_CONFIG", "/nowhere/sagad.toml")], None).contains("can't be read"));
    assert!(merge(&[], &[("SAGAD_CONFIG", "/nowhere/sagad.toml")], Some("")).is_ok(), "the flag wins here, too");
}

#[test]
fn unrelated_and_empty_variables_are_ignored() {
    let variables = [("SAGAD_SERVER", "http://elsewhere"), ("SAGAD_TOKEN", "7"), ("SAGAD_LISTEN", "")];
    assert_eq!(merge(&[], &variables, None).unwrap(), merge(&[], &[], None).unwrap());
    let not_text = |_: &str| Some(OsString::from_vec(vec![0xff]));
    let error = Config::merge(&ServeArgs::default(), &not_text).unwrap_err();
    assert_eq!(error.to_string(), "SAGAD_CONFIG: its value is not UTF-8");
}

#[test]
fn a_public_address_needs_an_explicit_flag() {
    for outside in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "[::ffff:192.0.2.1]:1", "coordinator.example:1"] {
        let text = problem(&["--listen", outside], &[], None);
        assert!(text.contains("TLS") && text.contains("--insecure") && text.contains(outside), "{text}");
        assert!(merge(&["--listen", outside, "--insecure"], &[], None).is_ok());
    }
    for inside in ["127.0.0.1:0", "127.8.8.8:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "localhost:1", "unix:/s"] {
        assert!(merge(&["--listen", inside], &[], None).is_ok(), "{inside}");
    }
}

#[test]
fn tls_and_principals_are_needed_together_beyond_loopback() {
    let tls = ["--tls-cert=/c", "--tls-key=/k"];
    let outside = ["--listen", "192.0.2.1:1"];
    let said = |more: &[&str]| problem(&[&outside[..], more].concat(), &[], None);
    assert!(said(&[]).contains("both are missing"), "{}", said(&[]));
    assert!(said(&tls).contains("principals are missing"), "{}", said(&tls));
    assert!(said(&["--principals=/p"]).contains("TLS is missing"));
    let both = [&outside[..], &tls, &["--principals=/p"]].concat();
    let config = merge(&both, &[], None).unwrap();
    let files = TlsFiles { cert: "/c".into(), key: "/k".into(), client_ca: None, client_crl: None };
    assert_eq!(config.security, Security { tls: Some(files), principals: Some("/p".into()), reflection: true });
    assert!(problem(&["--tls-cert", "/c"], &[], None).contains("--tls-cert needs tls_key"));
    assert!(problem(&[], &[("SAGAD_TLS_KEY", "/k")], None).contains("SAGAD_TLS_KEY needs tls_cert"));
    assert!(problem(&[], &[], Some("tls_client_ca = '/a'")).contains("tls_client_ca in"));
    let crl = [&tls[..], &["--tls-client-crl=/r"]].concat();
    assert!(problem(&crl, &[], None).contains("--tls-client-crl needs tls_client_ca"));
    let ca = [&tls[..], &["--tls-client-ca=/a"]].concat();
    assert_eq!(merge(&ca, &[], None).unwrap().security.tls.unwrap().client_ca, Some("/a".into()));
}

#[test]
fn max_connections_stays_below_the_limit_of_open_files() {
    let mut limits = Limits::default();
    assert_eq!(limits.fit_to_descriptors(1 << 20), None);
    let warning = limits.fit_to_descriptors(1024).unwrap();
    let left = 1024 - 64 - OPS_CONNECTIONS - 17 - 12 - 4 * limits.network_threads;
    assert_eq!(limits.max_connections, left);
    assert!(warning.contains(&format!("{left} instead of 10240")), "{warning}");
    limits.fit_to_descriptors(3);
    assert_eq!(limits.max_connections, 1);
}

#[test]
fn each_limit_is_shown_with_its_unit() {
    let bounds =
        merge(&["--drain-grace", "9s", "--max-wal-bytes", "2MiB", "--readers", "3"], &[], None).unwrap().bounds();
    let names: Vec<_> = bounds.iter().map(|bound| bound.name).collect();
    let limits: Vec<_> = ["drain_grace"].into_iter().chain(settings::limits().map(|setting| setting.key)).collect();
    assert_eq!(names, limits);
    for (name, value, unit) in
        [("drain_grace", 9_000_000, "microseconds"), ("max_wal_bytes", 2 << 20, "bytes"), ("readers", 3, "count")]
    {
        let bound = bounds.iter().find(|bound| bound.name == name).unwrap();
        assert_eq!((bound.value, bound.unit), (value, unit));
        assert!(!bound.meaning.is_empty());
    }
}

#[test]
fn each_default_is_within_its_range_and_values_outside_are_refused() {
    for setting in settings::all() {
        setting.default_value();
        let takes = |value: &str| merge(&[&format!("{}={value}", setting.flag())], &[], None).is_ok();
        let Some((least, most)) = setting.kind.range() else { continue };
        assert!(takes(&least) && takes(&most), "{}: from {least} to {most}", setting.key);
        let (low, high, unit) = match setting.kind {
            Kind::Length { least, most } | Kind::Age { least, most } => {
                (least.micros() as u64, most.micros() as u64, "us")
            }
            Kind::Count { least, most } | Kind::Size { least, most } => (least, most, ""),
            other => panic!("{other:?} has a range"),
        };
        assert!(!takes(&format!("{}{unit}", high + 1)), "{} may be more than {most}", setting.key);
        if let Some(less) = low.checked_sub(1) {
            assert!(!takes(&format!("{less}{unit}")), "{} may be less than {least}", setting.key);
        }
    }
}

#[test]
fn the_help_shows_the_default_and_the_range() {
    let command = ServeArgs::augment_args(Command::new("serve"));
    let help = |key: &str| {
        let flag = command.get_arguments().find(|arg| arg.get_id() == key).unwrap();
        (flag.get_help().unwrap().to_string(), flag.get_help_heading())
    };
    assert_eq!(command.get_arguments().count(), settings::all().count() + 1, "a flag for each, and --config");
    let (text, heading) = help("readers");
    assert_eq!((text.as_str(), heading), ("Connections to the store that read, 1 to 64 [default: 4]", Some("Limits")));
    assert!(help("restart_grace").0.ends_with(", 0s to 1h [default: 10s]"));
    assert!(help("tls_key").0.ends_with(" [default: none]") && help("tls_key").1 == Some("Security"));
    assert!(help("retain_failed").0.ends_with(", 1s to 10years [default: forever]"));
}
