//! `deploy/prometheus/` and `deploy/grafana/` are valid and use existing metrics.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
};

use serde_json::Value;

use super::{sample_load::some_of_everything, watched_daemon::WatchedDaemon};
use crate::support::{needs, tools::must_succeed};

const ALERTS: &str = include_str!("../../../deploy/prometheus/alerts.yml");
const ALERTS_TEST: &str = include_str!("../../../deploy/prometheus/alerts_test.yml");
const DASHBOARD: &str = include_str!("../../../deploy/grafana/sagad.json");
const RUNBOOK: &str = include_str!("../../../docs/how-to/troubleshoot.md");

/// The names in a text that look like our metrics.
fn metrics(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = ["sagad_", "rpc_server_", "process_"];
    words.filter(|word| ours.iter().any(|begin| word.starts_with(begin))).map(str::to_owned).collect()
}

fn expressions(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

fn alerts() -> Vec<(&'static str, &'static str)> {
    let parts = ALERTS.split("- alert: ").skip(1);
    parts.map(|part| part.split_once('\n').unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_and_dashboard_use_existing_metrics() {
    let watched = WatchedDaemon::start(&[]).await;
    let load = some_of_everything(&watched).await;
    let served = watched.metrics();
    let names: BTreeSet<String> =
        served.series().keys().map(|series| series.split('{').next().unwrap().to_owned()).collect();
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let alerts: Vec<String> =
        ALERTS.lines().filter(|line| line.trim_start().starts_with("expr:")).map(str::to_owned).collect();
    assert!(alerts.len() >= 15 && expressions(&dashboard).len() >= 30);
    for expression in alerts.iter().chain(&expressions(&dashboard)) {
        let asked = metrics(expression);
        // Metrics that Prometheus adds itself.
        assert!(!asked.is_empty() || expression.contains("up{"), "{expression}");
        for name in asked.iter().filter(|name| served.labels_anywhere().iter().all(|label| label != *name)) {
            assert!(names.contains(name), "{name} is not served: {expression}");
        }
    }
    drop(load);
}

#[test]
fn each_alert_has_a_summary_an_action_and_a_test() {
    let headings: Vec<String> = RUNBOOK
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .map(|line| line.trim_start_matches('#').trim().trim_end_matches('?').to_lowercase().replace(' ', "-"))
        .collect();
    for (name, rule) in alerts() {
        let severities = ["severity: page", "severity: ticket"];
        assert!(severities.iter().any(|severity| rule.contains(severity)), "{name}");
        let said = |key: &str| {
            let line = rule.lines().find_map(|line| line.trim_start().strip_prefix(&format!("{key}: \"")));
            line.unwrap_or_else(|| panic!("{name} has no {key}")).trim_end_matches('"').to_owned()
        };
        assert!(said("summary").len() > 30 && said("action").len() > 20, "{name}");
        let runbook = said("runbook");
        let section =
            runbook.strip_prefix("docs/how-to/troubleshoot.md#").unwrap_or_else(|| panic!("{name}: {runbook}"));
        assert!(headings.iter().any(|heading| heading == section), "{name}: there is no section {section}");
        for tried in ["fires", "keeps quiet"] {
            assert!(ALERTS_TEST.contains(&format!("- name: \"{name} {tried}\"")), "no test that {name} {tried}");
        }
    }
}

#[test]
fn the_dashboard_has_unique_panels_with_a_source() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let mut seen = BTreeMap::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert_eq!(seen.insert(panel["id"].as_u64().unwrap(), title), None, "{title} has the id of another");
        let source = &panel["datasource"]["uid"];
        assert!(panel["type"] == "row" || *source == "${datasource}", "{title}");
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap().iter();
    let names: Vec<_> = variables.map(|variable| variable["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["datasource", "instance", "queue"]);
}

#[test]
fn prometheus_accepts_its_configuration_and_rules() {
    needs!("promtool");
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus");
    for words in ["check config prometheus.yml", "check rules alerts.yml", "test rules alerts_test.yml"] {
        must_succeed(Command::new("promtool").args(words.split(' ')).current_dir(&directory));
    }
}
