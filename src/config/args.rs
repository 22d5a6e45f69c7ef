//! The flags of `sagad serve`.

use std::path::PathBuf;

/// Runs the coordinator.
///
/// Every setting is a flag, a variable (`SAGAD_` and the flag's name: `SAGAD_RESTART_GRACE`) and a key of the TOML file
/// (`restart_grace = "10s"`). The flag wins over the variable, the variable over the file. Lengths of time read `500ms`,
/// `30s`, `5m`, `1h30m`; sizes are bytes or read `512KiB`, `64MiB`.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct ServeArgs {
    /// Address or name with a port to listen on (port 0: any free one), or unix:PATH for a socket [default: 127.0.0.1:7420]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Directory that holds the store; created if absent [default: ./sagad-data]
    #[arg(long, value_name = "DIR")]
    pub data: Option<String>,
    /// How long leases are kept after the coordinator was away, 0 to 1h [default: 10s]
    #[arg(long, value_name = "DURATION")]
    pub restart_grace: Option<String>,
    /// How long ending may take after SIGTERM, 1s to 10m [default: 10s]
    #[arg(long, value_name = "DURATION")]
    pub drain_grace: Option<String>,
    /// TOML file with any of these settings (SAGAD_CONFIG)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How log lines on stderr look: text or json [default: text]
    #[arg(long, value_name = "text|json")]
    pub log_format: Option<String>,
    /// Which log lines are written, such as info or sagad=debug,info [default: info]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// Listen beyond this machine though TLS or principals are missing
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub insecure: Option<String>,
    /// PEM file with the certificate of the server and those between it and its CA: then TLS is spoken [default: none]
    #[arg(long, value_name = "FILE", help_heading = "Security")]
    pub tls_cert: Option<String>,
    /// PEM file with the private key of that certificate [default: none]
    #[arg(long, value_name = "FILE", help_heading = "Security")]
    pub tls_key: Option<String>,
    /// PEM file with the CAs of clients: then each client needs a certificate of theirs [default: none]
    #[arg(long, value_name = "FILE", help_heading = "Security")]
    pub tls_client_ca: Option<String>,
    /// PEM file with the lists of certificates that those CAs have revoked (CRLs), one of each CA [default: none]
    #[arg(long, value_name = "FILE", help_heading = "Security")]
    pub tls_client_crl: Option<String>,
    /// TOML file with who may call, and what: then every call but health needs a principal [default: none]
    #[arg(long, value_name = "FILE", help_heading = "Security")]
    pub principals: Option<String>,
    /// Let clients ask what rpcs there are, as grpcurl does [default: true]
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true", require_equals = true, help_heading = "Security")]
    pub reflection: Option<String>,
    /// Address and port for metrics and probes, without authentication; none: they are off [default: none]
    #[arg(long, value_name = "ADDRESS")]
    pub ops_listen: Option<String>,
    /// Collector that traces are sent to by OTLP over gRPC, such as http://127.0.0.1:4317; none: no traces [default: none]
    #[arg(long, value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// Share of calls that are traced though their client does not say so, 0 to 1 [default: 0.01]
    #[arg(long, value_name = "SHARE")]
    pub trace_sample: Option<String>,
    /// Most connections at a time; beyond, those are closed that have made no call [default: 10240]
    #[arg(long, value_name = "COUNT", help_heading = "Limits")]
    pub max_connections: Option<String>,
    /// How long a new connection may take to speak HTTP/2 [default: 5s]
    #[arg(long, value_name = "DURATION", help_heading = "Limits")]
    pub preface_timeout: Option<String>,
    /// How long a new connection may take until a call on it is let in [default: 30s]
    #[arg(long, value_name = "DURATION", help_heading = "Limits")]
    pub auth_timeout: Option<String>,
    /// Most calls and streams at a time on one connection [default: 1024]
    #[arg(long, value_name = "COUNT", help_heading = "Limits")]
    pub max_concurrent_streams: Option<String>,
    /// How often a quiet connection is asked whether its peer is there [default: 20s]
    #[arg(long, value_name = "DURATION", help_heading = "Limits")]
    pub keepalive_interval: Option<String>,
    /// How long the peer may take to answer that [default: 10s]
    #[arg(long, value_name = "DURATION", help_heading = "Limits")]
    pub keepalive_timeout: Option<String>,
    /// Largest request message [default: 4MiB]
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    pub max_message_bytes: Option<String>,
    /// How long a request may take to arrive, an item of a KeepAlive or Session stream, too [default: 30s]
    #[arg(long, value_name = "DURATION", help_heading = "Limits")]
    pub request_timeout: Option<String>,
    /// How long a client may take none of the answers that are there for it; watches wait for ever [default: 1m]
    #[arg(long, value_name = "DURATION", help_heading = "Limits")]
    pub answer_timeout: Option<String>,
    /// Most calls and open streams at a time on all connections [default: 32768]
    #[arg(long, value_name = "COUNT", help_heading = "Limits")]
    pub max_calls: Option<String>,
    /// Memory for requests that are received or carried out, and for answers that are not taken yet [default: 256MiB]
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    pub max_call_bytes: Option<String>,
    /// Most open streams at a time: of watches, of workers (KeepAlive, Session), of all others [default: 4096]
    #[arg(long, value_name = "COUNT", help_heading = "Limits")]
    pub max_watches: Option<String>,
    /// Most items of one Session that have no answer yet; then it is read no further [default: 256]
    #[arg(long, value_name = "COUNT", help_heading = "Limits")]
    pub max_session_calls: Option<String>,
    /// Most ClaimNext calls that wait for a saga at a time [default: 10000]
    #[arg(long, value_name = "COUNT", help_heading = "Limits")]
    pub max_waiting: Option<String>,
    /// Most changes that wait for the writer; further ones are refused [default: 8192]
    #[arg(long, value_name = "COUNT", help_heading = "Limits")]
    pub writer_queue: Option<String>,
    /// Most changes in one transaction [default: 1024]
    #[arg(long, value_name = "COUNT", help_heading = "Limits")]
    pub writer_batch: Option<String>,
    /// Threads that serve connections; 0: one for each processor, at most 16 [default: 0]
    #[arg(long, value_name = "COUNT", help_heading = "Limits")]
    pub network_threads: Option<String>,
    /// Connections to the store that read [default: 4]
    #[arg(long, value_name = "COUNT", help_heading = "Limits")]
    pub readers: Option<String>,
    /// Largest write-ahead log [default: 64MiB]
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    pub max_wal_bytes: Option<String>,
    /// How long completed sagas are kept after their last change, 1s to 10years [default: forever]
    #[arg(long, value_name = "DURATION", help_heading = "Retention")]
    pub retain_completed: Option<String>,
    /// The same for failed ones [default: forever]
    #[arg(long, value_name = "DURATION", help_heading = "Retention")]
    pub retain_failed: Option<String>,
    /// The same for compensated ones [default: forever]
    #[arg(long, value_name = "DURATION", help_heading = "Retention")]
    pub retain_compensated: Option<String>,
    /// The same for quarantined ones [default: forever]
    #[arg(long, value_name = "DURATION", help_heading = "Retention")]
    pub retain_quarantined: Option<String>,
    /// Existing directory in which each saga is written, as a line of JSON, before it is purged [default: none]
    #[arg(long, value_name = "DIR", help_heading = "Retention")]
    pub retention_export: Option<String>,
}

/// The keys of all settings: as they are in the file, in capitals after `SAGAD_` in the environment, with dashes on
/// the command line.
pub const KEYS: [&str; 40] = [
    "listen",
    "data",
    "restart_grace",
    "drain_grace",
    "log_format",
    "log",
    "insecure",
    "tls_cert",
    "tls_key",
    "tls_client_ca",
    "tls_client_crl",
    "principals",
    "reflection",
    "ops_listen",
    "otlp_endpoint",
    "trace_sample",
    "max_connections",
    "preface_timeout",
    "auth_timeout",
    "max_concurrent_streams",
    "keepalive_interval",
    "keepalive_timeout",
    "max_message_bytes",
    "request_timeout",
    "answer_timeout",
    "max_calls",
    "max_call_bytes",
    "max_watches",
    "max_session_calls",
    "max_waiting",
    "writer_queue",
    "writer_batch",
    "network_threads",
    "readers",
    "max_wal_bytes",
    "retain_completed",
    "retain_failed",
    "retain_compensated",
    "retain_quarantined",
    "retention_export",
];

impl ServeArgs {
    /// The value of a key on the command line.
    pub(super) fn given(&self, key: &str) -> Option<String> {
        let field = match key {
            "listen" => &self.listen,
            "data" => &self.data,
            "restart_grace" => &self.restart_grace,
            "drain_grace" => &self.drain_grace,
            "log_format" => &self.log_format,
            "log" => &self.log,
            "insecure" => &self.insecure,
            "tls_cert" => &self.tls_cert,
            "tls_key" => &self.tls_key,
            "tls_client_ca" => &self.tls_client_ca,
            "tls_client_crl" => &self.tls_client_crl,
            "principals" => &self.principals,
            "reflection" => &self.reflection,
            "ops_listen" => &self.ops_listen,
            "otlp_endpoint" => &self.otlp_endpoint,
            "trace_sample" => &self.trace_sample,
            "max_connections" => &self.max_connections,
            "preface_timeout" => &self.preface_timeout,
            "auth_timeout" => &self.auth_timeout,
            "max_concurrent_streams" => &self.max_concurrent_streams,
            "keepalive_interval" => &self.keepalive_interval,
            "keepalive_timeout" => &self.keepalive_timeout,
            "max_message_bytes" => &self.max_message_bytes,
            "request_timeout" => &self.request_timeout,
            "answer_timeout" => &self.answer_timeout,
            "max_calls" => &self.max_calls,
            "max_call_bytes" => &self.max_call_bytes,
            "max_watches" => &self.max_watches,
            "max_session_calls" => &self.max_session_calls,
            "max_waiting" => &self.max_waiting,
            "writer_queue" => &self.writer_queue,
            "writer_batch" => &self.writer_batch,
            "network_threads" => &self.network_threads,
            "readers" => &self.readers,
            "max_wal_bytes" => &self.max_wal_bytes,
            "retain_completed" => &self.retain_completed,
            "retain_failed" => &self.retain_failed,
            "retain_compensated" => &self.retain_compensated,
            "retain_quarantined" => &self.retain_quarantined,
            "retention_export" => &self.retention_export,
            _ => &None,
        };
        field.clone()
    }
}
