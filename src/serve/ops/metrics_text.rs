//! [`MetricsText`]: all metrics at one moment, and their text in two formats.

use std::{collections::HashSet, fmt};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text::encode},
    metrics::MetricType,
    registry::{Registry, Unit},
};

/// The formats of `/metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MetricsFormat {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus text format 0.0.4, unless the client asks for OpenMetrics.
    Prometheus,
}

impl MetricsFormat {
    pub(super) fn content_type(self) -> &'static str {
        match self {
            MetricsFormat::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            MetricsFormat::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

pub(super) type Labels = Vec<(&'static str, String)>;

/// The value of a metric with one set of labels.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Counter(f64),
    Gauge(f64),
    /// The buckets, each with its upper bound and its own count (the last bound is infinite), and the sum.
    Histogram(Vec<(f64, u64)>, f64),
}

impl Value {
    fn write(&self, to: &mut MetricEncoder<'_>) -> Result<(), fmt::Error> {
        match self {
            Value::Counter(value) => to.encode_counter::<NoLabelSet, _, f64>(value, None),
            Value::Gauge(value) => to.encode_gauge(value),
            Value::Histogram(buckets, sum) => {
                let count = buckets.iter().map(|(_, count)| count).sum();
                to.encode_histogram::<NoLabelSet>(*sum, count, buckets, None)
            }
        }
    }
}

/// A metric with its values.
#[derive(Debug)]
pub(super) struct Family {
    /// Without its unit, and without the `_total` of counters.
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) unit: Option<Unit>,
    pub(super) kind: MetricType,
    pub(super) values: Vec<(Labels, Value)>,
}

/// All metrics.
#[derive(Debug, Default)]
pub(super) struct MetricsText(Vec<Family>);

impl MetricsText {
    pub(super) fn counter(
        &mut self,
        name: &'static str,
        help: &'static str,
        values: impl IntoIterator<Item = (Labels, f64)>,
    ) {
        let values = values.into_iter().map(|(labels, value)| (labels, Value::Counter(value))).collect();
        let (name, unit) = split(name);
        self.0.push(Family { name, help, unit, kind: MetricType::Counter, values });
    }

    pub(super) fn gauge(
        &mut self,
        name: &'static str,
        help: &'static str,
        values: impl IntoIterator<Item = (Labels, f64)>,
    ) {
        let values = values.into_iter().map(|(labels, value)| (labels, Value::Gauge(value))).collect();
        let (name, unit) = split(name);
        self.0.push(Family { name, help, unit, kind: MetricType::Gauge, values });
    }

    /// Bounds and sums are divided by `scale`: 1e6 for seconds from microseconds.
    pub(super) fn histogram<'a>(
        &mut self,
        name: &'static str,
        help: &'static str,
        scale: f64,
        values: impl IntoIterator<Item = (Labels, &'a [u64], Vec<u64>, u64)>,
    ) {
        let values = values.into_iter().map(|(labels, bounds, counts, sum)| {
            let bounds = bounds.iter().map(|bound| *bound as f64 / scale).chain([f64::INFINITY]);
            (labels, Value::Histogram(bounds.zip(counts).collect(), sum as f64 / scale))
        });
        let (name, unit) = split(name);
        self.0.push(Family { name, help, unit, kind: MetricType::Histogram, values: values.collect() });
    }

    /// Renders all metrics.
    pub(super) fn render(self, format: MetricsFormat) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::with_capacity(64 << 10);
        encode(&mut text, &registry)?;
        Ok(match format {
            MetricsFormat::OpenMetrics => text,
            MetricsFormat::Prometheus => to_prometheus(&text),
        })
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

impl Collector for MetricsText {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for family in self.0.iter().filter(|family| !family.values.is_empty()) {
            let mut metric = encoder.encode_descriptor(family.name, family.help, family.unit.as_ref(), family.kind)?;
            for (labels, value) in &family.values {
                if labels.is_empty() {
                    value.write(&mut metric)?;
                } else {
                    value.write(&mut metric.encode_family(labels)?)?;
                }
            }
        }
        Ok(())
    }
}

/// Turns OpenMetrics into Prometheus text: without units and `# EOF`, and with `_total` in the header lines of counters.
fn to_prometheus(text: &str) -> String {
    let kinds = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"));
    let counters: HashSet<&str> = kinds.collect();
    let mut written = String::with_capacity(text.len());
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("EOF" | "UNIT"), _, _) => continue,
            (Some("#"), Some(what), Some(name), Some(rest)) if counters.contains(name) => {
                written.push_str(&format!("# {what} {name}_total {rest}"));
            }
            _ => written.push_str(line),
        }
        written.push('\n');
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> MetricsText {
        let mut metrics = MetricsText::default();
        let label = |queue: &str| vec![("queue", queue.to_owned())];
        metrics.counter("a_things", "Things", [(label("q\"\\\n1"), 2.0), (label("q2"), 3.0)]);
        metrics.gauge("a_room_bytes", "Room", [(Vec::new(), 1.5)]);
        metrics.gauge("nothing", "Nothing", []);
        metrics.histogram("a_time_seconds", "Time", 1e6, [(Vec::new(), &[1_000_000_u64][..], vec![2, 1], 5_000_000)]);
        metrics
    }

    #[test]
    fn it_is_written_in_both_forms() {
        let open = "# HELP a_things Things\n# TYPE a_things counter\na_things_total{queue=\"q\\\"\\\\\\n1\"} 2.0\n\
             a_things_total{queue=\"q2\"} 3.0\n\
             # HELP a_room_bytes Room\n# TYPE a_room_bytes gauge\n# UNIT a_room_bytes bytes\na_room_bytes 1.5\n\
             # HELP a_time_seconds Time\n# TYPE a_time_seconds histogram\n# UNIT a_time_seconds seconds\n\
             a_time_seconds_sum 5.0\na_time_seconds_count 3\n\
             a_time_seconds_bucket{le=\"1.0\"} 2\na_time_seconds_bucket{le=\"+Inf\"} 3\n# EOF\n";
        assert_eq!(metrics().render(MetricsFormat::OpenMetrics).unwrap(), open);
        let text = metrics().render(MetricsFormat::Prometheus).unwrap();
        assert!(text.contains("# HELP a_things_total Things\n# TYPE a_things_total counter\n"), "{text}");
        assert!(!text.contains("UNIT") && !text.contains("EOF") && text.contains("\na_room_bytes 1.5\n"), "{text}");
    }
}
