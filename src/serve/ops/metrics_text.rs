//! [`MetricsText`]: all metrics at one moment, as OpenMetrics text.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text::encode},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use super::{
    metrics::{Kind, METRICS, Metric, Samples, Value},
    readings::Readings,
};

/// What the text is. (OpenMetrics 1.0, which Prometheus and its relatives read)
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics with their values.
#[derive(Debug)]
pub(super) struct MetricsText(Vec<(&'static Metric, Samples)>);

impl MetricsText {
    /// Reads every metric.
    pub(super) fn read(now: &Readings) -> Self {
        let all = METRICS.iter().flat_map(|(_, metrics)| *metrics);
        MetricsText(all.map(|metric| (metric, (metric.read)(now))).filter(|(_, samples)| !samples.is_empty()).collect())
    }

    /// Renders all of them.
    pub(super) fn render(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::with_capacity(64 << 10);
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

impl Collector for MetricsText {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (metric, samples) in &self.0 {
            let (name, unit) = split(metric.name);
            let kind = match metric.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            let mut to = encoder.encode_descriptor(name, metric.help, unit.as_ref(), kind)?;
            // Microseconds where the name says seconds.
            let scale = if matches!(unit, Some(Unit::Seconds)) { 1e6 } else { 1.0 };
            for (labels, value) in samples {
                let labels: Vec<_> = metric.labels.iter().copied().zip(labels.iter().map(String::as_str)).collect();
                if labels.is_empty() {
                    write(metric.kind, value, scale, &mut to)?;
                } else {
                    write(metric.kind, value, scale, &mut to.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }
}

fn write(kind: Kind, value: &Value, scale: f64, to: &mut MetricEncoder<'_>) -> Result<(), fmt::Error> {
    match value {
        Value::Number(number) if kind == Kind::Counter => to.encode_counter::<NoLabelSet, _, f64>(number, None),
        Value::Number(number) => to.encode_gauge(number),
        Value::Histogram(values) => {
            let bounds = values.bounds.iter().map(|bound| *bound as f64 / scale).chain([f64::INFINITY]);
            let buckets: Vec<_> = bounds.zip(values.counts.iter().copied()).collect();
            to.encode_histogram::<NoLabelSet>(values.sum as f64 / scale, values.count(), &buckets, None)
        }
    }
}

/// Splits the unit off the end of a name.
fn split(name: &'static str) -> (&'static str, Option<Unit>) {
    if let Some(name) = name.strip_suffix("_seconds") {
        (name, Some(Unit::Seconds))
    } else if let Some(name) = name.strip_suffix("_bytes") {
        (name, Some(Unit::Bytes))
    } else {
        (name, None)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, env, fs, path::Path};

    use super::*;
    use crate::metrics::HistogramSnapshot;

    const PAGE: &str = "docs/reference/metrics.md";
    const BEGIN: &str =
        "<!-- Made from src/serve/ops/metrics.rs: SAGAD_WRITE_DOCS=1 cargo test --lib metrics_text -->\n";

    #[test]
    fn metrics_are_written_as_openmetrics() {
        fn nothing(_: &Readings) -> Samples {
            Vec::new()
        }
        const fn metric(name: &'static str, kind: Kind, labels: &'static [&'static str]) -> Metric {
            Metric { name, kind, labels, help: "Help", read: nothing }
        }
        static THINGS: Metric = metric("a_things", Kind::Counter, &["queue"]);
        static ROOM: Metric = metric("a_room_bytes", Kind::Gauge, &[]);
        static TIME: Metric = metric("a_time_seconds", Kind::Histogram, &[]);
        let times = HistogramSnapshot { bounds: &[1_000_000], counts: vec![2, 1], sum: 5_000_000 };
        let label = |queue: &str| vec![queue.to_owned()];
        let metrics = MetricsText(vec![
            (&THINGS, vec![(label("q\"\\\n1"), Value::Number(2.0)), (label("q2"), Value::Number(3.0))]),
            (&ROOM, vec![(Vec::new(), Value::Number(1.5))]),
            (&TIME, vec![(Vec::new(), Value::Histogram(times))]),
        ]);
        let text = "# HELP a_things Help\n# TYPE a_things counter\na_things_total{queue=\"q\\\"\\\\\\n1\"} 2.0\n\
             a_things_total{queue=\"q2\"} 3.0\n\
             # HELP a_room_bytes Help\n# TYPE a_room_bytes gauge\n# UNIT a_room_bytes bytes\na_room_bytes 1.5\n\
             # HELP a_time_seconds Help\n# TYPE a_time_seconds histogram\n# UNIT a_time_seconds seconds\n\
             a_time_seconds_sum 5.0\na_time_seconds_count 3\n\
             a_time_seconds_bucket{le=\"1.0\"} 2\na_time_seconds_bucket{le=\"+Inf\"} 3\n# EOF\n";
        assert_eq!(metrics.render().unwrap(), text);
    }

    #[test]
    fn the_metrics_page_is_generated_from_the_declarations() {
        let mut made = BEGIN.to_owned();
        let mut names = BTreeSet::new();
        for (section, metrics) in METRICS {
            made.push_str(&format!("\n## {section}\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n"));
            for Metric { name, kind, labels, help, .. } in *metrics {
                assert!(names.insert(name), "{name} is declared twice");
                let (kind, total) = match kind {
                    Kind::Counter => ("counter", "_total"),
                    Kind::Gauge => ("gauge", ""),
                    Kind::Histogram => ("histogram", ""),
                };
                let labels = match labels {
                    [] => "-".to_owned(),
                    labels => labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", "),
                };
                made.push_str(&format!("| `{name}{total}` | {kind} | {labels} | {help} |\n"));
            }
        }
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
        let page = fs::read_to_string(&path).unwrap();
        let (before, after) = page.split_once(BEGIN).expect("the place of the tables");
        if env::var_os("SAGAD_WRITE_DOCS").is_some() {
            fs::write(&path, format!("{before}{made}")).unwrap();
        } else {
            assert!(format!("{BEGIN}{after}") == made, "{PAGE} is to be made anew: see the line in it");
        }
    }
}
