//! [`WatchedDaemon`]: a daemon with the operators' listener.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use crate::support::{Daemon, WAIT_MAX, now};

/// A daemon with the operators' listener.
pub struct WatchedDaemon {
    pub daemon: Daemon,
    pub ops: SocketAddr,
}

/// An HTTP answer.
#[derive(Debug)]
pub struct HttpAnswer {
    pub status: u16,
    pub kind: String,
    pub text: String,
}

impl WatchedDaemon {
    pub async fn start(args: &[&str]) -> Self {
        let mut daemon = Daemon::start_with(&[&["--ops-listen", "127.0.0.1:0"], args].concat());
        // The address is logged before calls are served, but read by another thread.
        let begun = now();
        let ops = loop {
            match address(&daemon.process().log()) {
                Some(ops) => break ops,
                None => assert!(begun.elapsed() < WAIT_MAX, "the log has no address of the metrics"),
            }
            thread::sleep(Duration::from_millis(5));
        };
        WatchedDaemon { daemon, ops }
    }

    pub fn get(&self, path: &str) -> HttpAnswer {
        get(self.ops, path, "")
    }

    pub fn metrics(&self) -> MetricsText {
        let page = self.get("/metrics");
        assert_eq!(page.status, 200, "{page:?}");
        MetricsText(page.text)
    }
}

/// The listener's address, from the log.
pub fn address(log: &str) -> Option<SocketAddr> {
    let line = log.lines().find(|line| line.contains("serving metrics and probes"))?;
    let (_, rest) = line.split_once("address")?;
    let end = |c: char| !(c.is_ascii_digit() || c == '.' || c == ':');
    rest.trim_start_matches(['=', '"', ':']).split(end).next()?.parse().ok()
}

/// Requests a path with further headers.
pub fn get(ops: SocketAddr, path: &str, headers: &str) -> HttpAnswer {
    ask(ops, &format!("GET {path} HTTP/1.1\r\nHost: ops\r\n{headers}Connection: close\r\n\r\n"))
}

pub fn ask(ops: SocketAddr, request: &str) -> HttpAnswer {
    let mut stream = TcpStream::connect(ops).unwrap();
    stream.set_read_timeout(Some(WAIT_MAX)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, text) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let kind = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap_or_default().to_owned();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    HttpAnswer { status, kind, text: text.to_owned() }
}

/// Metrics as OpenMetrics text.
pub struct MetricsText(pub String);

impl MetricsText {
    /// Each series with its value.
    pub fn series(&self) -> BTreeMap<&str, f64> {
        let lines = self.0.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.rsplit_once(' ').unwrap()).map(|(name, value)| (name, value.parse().unwrap())).collect()
    }

    /// The value of a series; labels as they are written.
    pub fn value(&self, series: &str) -> Option<f64> {
        self.series().get(series).copied()
    }

    /// The types of all metrics.
    pub fn types(&self) -> BTreeMap<String, &str> {
        let types = self.0.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let types = types.map(|line| line.split_once(' ').unwrap());
        types
            .map(|(name, kind)| (if kind == "counter" { format!("{name}_total") } else { name.to_owned() }, kind))
            .collect()
    }

    /// The names of all labels.
    pub fn labels_anywhere(&self) -> Vec<String> {
        self.types().into_keys().flat_map(|name| self.labels(&name)).collect()
    }

    /// The names of a metric's labels, in order; `le` left out.
    pub fn labels(&self, metric: &str) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for line in self.0.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, labels)) = line.split_once('{') else { continue };
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            if name != metric && base != metric {
                continue;
            }
            let labels = labels.rsplit_once('}').unwrap().0;
            for label in labels.split("\",").map(|label| label.split_once('=').unwrap().0) {
                if label != "le" && !names.iter().any(|known| known == label) {
                    names.push(label.to_owned());
                }
            }
        }
        names
    }
}
