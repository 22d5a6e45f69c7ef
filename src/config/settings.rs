//! Every setting of the daemon, declared once. To add one: declare it here, and give it a field where its value is used
//! (`Limits`, `Retention`, `Security` or `Config`).

use super::setting::{Kind, Setting};
use crate::domain::{bounds::BATCH_BYTES, time::Span};

/// Settings of one subject, in the order in which the file and the help show them.
pub struct Group {
    /// The heading in the configuration file.
    pub title: &'static str,
    /// The heading in `--help`.
    pub help_heading: Option<&'static str>,
    /// Its settings.
    pub settings: &'static [Setting],
}

/// The help heading of what the daemon bounds: those settings are told by `GetServerInfo`, and stand in `docs/reference/limits.md`.
pub(super) const LIMITS: &str = "Limits";
const SECURITY: &str = "Security";
const RETENTION: &str = "Retention";

const FILE: Kind = Kind::Path { placeholder: "FILE" };
const MIB: u64 = 1 << 20;
/// Largest `max_message_bytes`.
const MESSAGE_BYTES_MOST: u64 = 64 * MIB;
/// Beyond ten years, "forever" is meant.
const AGE: Kind = Kind::Age { least: Span::from_secs(1), most: Span::from_secs(315_576_000) };

const fn count(most: u64) -> Kind {
    Kind::Count { least: 1, most }
}

const fn seconds(least: u32, most: u32) -> Kind {
    Kind::Length { least: Span::from_secs(least), most: Span::from_secs(most) }
}

const fn from_100_ms(most: u32) -> Kind {
    Kind::Length { least: Span::from_millis(100), most: Span::from_secs(most) }
}

/// All settings.
pub fn all() -> impl Iterator<Item = &'static Setting> + Clone {
    GROUPS.iter().flat_map(|group| group.settings)
}

/// The setting of this key.
pub(super) fn find(key: &str) -> Option<&'static Setting> {
    all().find(|setting| setting.key == key)
}

/// Those that bound something.
pub fn limits() -> impl Iterator<Item = &'static Setting> {
    GROUPS.iter().filter(|group| group.help_heading == Some(LIMITS)).flat_map(|group| group.settings)
}

/// All settings, by subject.
pub const GROUPS: &[Group] = &[
    Group {
        title: "Where it listens, and where its data lies",
        help_heading: None,
        settings: &[
            Setting::new(
                "listen",
                Kind::Listen,
                "127.0.0.1:7420",
                "Address or name with a port to listen on (port 0: any free one), or unix:PATH for a socket",
            )
            .about(
                "The IP address, or the name, and the port to listen on. Port 0 is any free one. A name stands for all \
                 its addresses. \"unix:\" and a path is a socket, which only this user of this machine reaches. Without \
                 `principals`, everyone who reaches the port can do everything: so the default is this machine only, and \
                 another address needs TLS and principals, or `insecure`.",
            ),
            Setting::new("data", Kind::Directory, "./sagad-data", "Directory that holds the store; created if absent")
                .about(
                    "The directory that holds the store; created if absent. A relative path starts at the working \
                     directory of the daemon, so give a full path where a service manager starts it. It has to be on a \
                     local disk, and only one daemon at a time can use it.",
                ),
            Setting::new(
                "store",
                Kind::Store,
                "",
                "Where the store is: sqlite:DIR, which is the same as --data DIR, or postgres://USER@HOST/DATABASE",
            )
            .about(
                "Where the store is, if it is not in the directory `data`: \"sqlite:\" and a directory, or the URL of a \
                 PostgreSQL database (14 or later), as in \"postgres://sagad@db.example/sagad?sslmode=verify-full\". Any number \
                 of coordinators may have the same database: one of them writes, and another takes over when it is gone. Keep \
                 the password out of the URL, which other users of the machine may see: PGPASSFILE or ~/.pgpass has it, or \
                 PGPASSWORD. See docs/how-to/cluster.md.",
            ),
            Setting::new("insecure", Kind::Flag, "false", "Listen beyond this machine though TLS or principals are missing")
                .about(
                    "Listen beyond this machine though TLS or principals are missing, so that others can read the tokens \
                     or need none. Set it to true only behind a proxy, a tunnel or a network that keeps others out.",
                ),
        ],
    },
    Group {
        title: "Who may connect, and what they may call (see docs/how-to/secure.md)",
        help_heading: Some(SECURITY),
        settings: &[
            Setting::new(
                "tls_cert",
                FILE,
                "",
                "PEM file with the certificate of the server and those between it and its CA: then TLS is spoken",
            )
            .about(
                "A PEM file with the server's certificate and those between it and its CA; \"\" is none. With it the daemon \
                 speaks TLS 1.2 or 1.3, and nothing else. The files of this section are read again when they change, and on \
                 SIGHUP. If one can't be used, the log says so and the previous contents stay in force.",
            ),
            Setting::new("tls_key", FILE, "", "PEM file with the private key of that certificate").about(
                "A PEM file with the private key of that certificate; \"\" is none. Only the daemon should be able to read \
                 it: the log warns if others can.",
            ),
            Setting::new(
                "tls_client_ca",
                FILE,
                "",
                "PEM file with the CAs of clients: then each client needs a certificate that one of them signed",
            )
            .about(
                "A PEM file with the CAs of clients; \"\" is none. With it each client needs a certificate that one of them \
                 signed, and connections without one are closed.",
            ),
            Setting::new(
                "tls_client_crl",
                FILE,
                "",
                "PEM file with the lists of certificates that those CAs have revoked (CRLs), one of each CA",
            )
            .about(
                "A PEM file with the lists of certificates that those CAs have revoked (CRLs); \"\" is none, and then a \
                 client is kept out only by removing its principal. With it each CA needs a list, also those between a \
                 client and tls_client_ca: clients of a CA without one are refused. A list whose next update is overdue \
                 still counts, and the log warns of it.",
            ),
            Setting::new(
                "principals",
                FILE,
                "",
                "TOML file with who may call, and what: then every call but health needs a principal",
            )
            .about(
                "A TOML file with those who may call, their roles and the hashes of their tokens; \"\" is none. With it \
                 every call but health checks needs a token, or a certificate that stands for a principal.",
            ),
            Setting::new("reflection", Kind::Flag, "true", "Let clients ask what rpcs there are, as grpcurl does").about(
                "Let clients ask what rpcs there are, as grpcurl does. With principals, only callers with valid credentials \
                 may ask. Set it to false where nobody needs it.",
            ),
        ],
    },
    Group {
        title: "Starting and ending",
        help_heading: None,
        settings: &[
            // With the default ttl of 30 s a worker heartbeats every 10 s. Beyond an hour it hides dead workers instead of
            // forgiving live ones.
            Setting::new(
                "restart_grace",
                seconds(0, 3600),
                "10s",
                "How long leases are kept after the coordinator was away (restart, suspension, full disk)",
            )
            .about(
                "How long leases are kept after the coordinator was away, by a restart, a suspension or a full disk, so that workers that are alive can heartbeat \
                 first. With the default ttl of 30s they do so every 10s: set it longer where ttls are longer.",
            ),
            // A second is what closing connections and the store may take by themselves.
            Setting::new("drain_grace", seconds(1, 600), "10s", "How long ending may take after SIGTERM").about(
                "How long ending may take after SIGTERM: calls in flight are answered, then the store is closed. Keep it \
                 below the time after which the service manager kills, which is mostly half a minute or more.",
            ),
        ],
    },
    Group {
        title: "Logs",
        help_heading: None,
        settings: &[
            Setting::new("log_format", Kind::LogFormat, "text", "How log lines on stderr look: text or json").about(
                "How log lines on stderr look: \"text\" for people, \"json\" (one object a line) for collectors.",
            ),
            Setting::new(
                "log",
                Kind::LogFilter,
                "info",
                "Which log lines are written, such as info or sagad=debug,info",
            )
            .about(
                "Which log lines are written: error, warn, info, debug, trace or off, also for a part of the program, such \
                 as \"sagad=debug,info\". At debug each call is logged: for an investigation, not for every day.",
            ),
        ],
    },
    Group {
        title: "Monitoring",
        help_heading: None,
        settings: &[
            Setting::new(
                "ops_listen",
                Kind::Address,
                "",
                "Address and port for metrics and probes, without authentication; none: they are off",
            )
            .about(
                "The IP address and port of a second listener, for operators: /metrics (Prometheus), /livez, /readyz, and \
                 gRPC health for probes. Port 0 is any free one, which the log names; \"\" is none. It has neither TLS nor \
                 authentication, and shows names of queues, counts and times, though no task's id: keep it on this machine \
                 or in a private network. It needs no `insecure`.",
            ),
            Setting::new(
                "otlp_endpoint",
                Kind::Url,
                "",
                "Collector that traces are sent to by OTLP over gRPC, such as http://127.0.0.1:4317; none: no traces",
            )
            .about(
                "The collector that traces are sent to, by OTLP over gRPC: http://127.0.0.1:4317, or https:// with a \
                 certificate that the system trusts. \"\" is none. While it is slow or away, spans are dropped and no call \
                 waits.",
            ),
            // Enough to see what is usual, little enough to cost nothing.
            Setting::new(
                "trace_sample",
                Kind::Share,
                "0.01",
                "Share of calls that are traced though their client does not say so, 0 to 1",
            )
            .about(
                "The share of calls that are traced though their client does not say so, a number between \"0\" and \"1\". \
                 A client that sends a `traceparent` decides itself: its call is traced if it is sampled there, and not \
                 otherwise.",
            ),
        ],
    },
    Group {
        title: "Connections",
        help_heading: Some(LIMITS),
        settings: &[
            Setting::new(
                "max_connections",
                count(1_000_000),
                "10240",
                "Most connections at a time; beyond, those are closed that have made no call",
            )
            .about(
                "Most connections at a time: 10,000 clients and some people. When all are taken, the next one takes the place \
                 of the idlest one beyond the share of its principal, or of the one that has waited longest for its first \
                 call. Each costs some 20 KiB and a descriptor, so the limit on open files (`ulimit -n`, LimitNOFILE) can \
                 lower it.",
            )
            .at_bound(
                "a new connection takes the place of one whose client has more than its share, or of one that has made no \
                 call (see below); if there is none, it waits in the kernel's backlog",
            ),
            // A client sends the preface with its first packet.
            Setting::new(
                "preface_timeout",
                from_100_ms(60),
                "5s",
                "How long a new connection may take to speak HTTP/2",
            )
            .about(
                "How long a new connection may take to speak HTTP/2. A client does so with its first packet: 5s allow for a \
                 few lost ones.",
            )
            .at_bound("it is closed"),
            Setting::new(
                "auth_timeout",
                seconds(1, 3600),
                "30s",
                "How long a new connection may take until a call on it is let in",
            )
            .about(
                "How long a new connection may take until a call on it is let in: with principals one with valid \
                 credentials, else any call. With principals, health checks don't count. Programs connect when they start, \
                 and make their first call a moment later.",
            )
            .at_bound("it is closed"),
            Setting::new(
                "max_concurrent_streams",
                count(100_000),
                "1024",
                "Most calls and streams at a time on one connection",
            )
            .about(
                "Most calls and streams at a time on one connection. Clients make further ones wait, heartbeats too: keep it \
                 above the held ClaimNext calls of one process. Lower it where clients are not trusted (see \
                 docs/reference/limits.md).",
            )
            .at_bound("clients make further calls wait; those of clients that don't are refused"),
            Setting::new(
                "keepalive_interval",
                seconds(1, 3600),
                "20s",
                "How often a quiet connection is asked whether its peer is there",
            )
            .about(
                "How often a quiet connection is asked whether its peer is there. With keepalive_timeout, a dead peer is \
                 found within the default ttl of 30s.",
            ),
            Setting::new(
                "keepalive_timeout",
                seconds(1, 600),
                "10s",
                "How long the peer may take to answer that",
            )
            .about(
                "How long the peer may take to answer that before its connection is closed: several round trips of the \
                 worst networks.",
            )
            .at_bound("it is closed"),
        ],
    },
    Group {
        title: "Calls",
        help_heading: Some(LIMITS),
        settings: &[
            Setting::new(
                "max_message_bytes",
                // The least lets the largest batch through, with its framing.
                Kind::Size { least: BATCH_BYTES as u64 + (64 << 10), most: MESSAGE_BYTES_MOST },
                "4MiB",
                "Largest request message",
            )
            .about(
                "The largest request message: gRPC's own default, and twice the largest batch. The lowest value is what the \
                 largest batch takes.",
            )
            .at_bound("`INVALID_ARGUMENT`; a request that is compressed (gzip) counts as it is once unpacked"),
            // It can be this long because it isn't what bounds memory.
            Setting::new(
                "request_timeout",
                from_100_ms(600),
                "30s",
                "How long a request may take to arrive, an item of a KeepAlive or Session stream, too",
            )
            .about(
                "How long a request may take to arrive once its call has begun, and an item of a KeepAlive or Session \
                 stream once the item has; not the time between items. 30s are the largest request at 1.2 Mbit/s.",
            )
            .at_bound("`DEADLINE_EXCEEDED`"),
            // Twice request_timeout, because clients stop to think.
            Setting::new(
                "answer_timeout",
                seconds(1, 3600),
                "1m",
                "How long a client may take none of the answers that are there for it; watches may be read late",
            )
            .about(
                "How long a client may take none of the answers that are there for it, those of a Session among them, before \
                 its connection is cut. A watch may be read as late as its client likes.",
            )
            .at_bound("the connection is cut"),
            Setting::new(
                "max_calls",
                count(10_000_000),
                "32768",
                "Most calls and open streams at a time on all connections",
            )
            .about(
                "Most calls and open streams at a time, on all connections, until their answers are taken: room for \
                 max_waiting, max_watches (of three kinds), and 14,000 short calls. Each costs some 10 KiB; beyond it, calls \
                 are refused with OVERLOADED.",
            )
            .at_bound("see below; then `OVERLOADED`"),
            Setting::new(
                "max_call_bytes",
                // The largest message that can be allowed has to fit.
                Kind::Size { least: MESSAGE_BYTES_MOST, most: 1 << 40 },
                "256MiB",
                "Memory for requests that are received or carried out, and for answers that are not taken yet",
            )
            .about(
                "Memory for requests that are received or carried out, and for what is not taken yet of answers and streams: \
                 64 of the largest requests. Lower it where memory is short.",
            )
            .at_bound("see below; then `OVERLOADED`"),
            Setting::new(
                "max_watches",
                count(1_000_000),
                "4096",
                "Most open streams at a time of each kind: watches, of workers (KeepAlive, Session), all others",
            )
            .about(
                "Most open watches at a time; as many streams of workers (KeepAlive, Session), and as many others. Each \
                 holds at most 16 KiB of what it watches; what is larger is read when it is sent.",
            )
            .at_bound(
                "`OVERLOADED`. From three quarters on, a principal (or a connection, where callers are not known) that has 64 \
                 gets no more. As many others (reflection); of health watches, which everybody may open, an eighth as many \
                 and four on a connection; an eighth of those for each address, and three quarters for all together, on \
                 connections without a call that was let in; from three quarters on, a principal that has an eighth gets no \
                 more",
            ),
            Setting::new(
                "max_session_calls",
                count(100_000),
                "256",
                "Most items of one Session that have no answer yet; then it is read no further",
            )
            .about(
                "Most items of one Session that have no answer yet; then the stream is read no further. That is more than a \
                 worker normally has leases. Each costs some 200 bytes beside its request, and counts as a call, with its \
                 bytes.",
            )
            .at_bound("the stream is read no further until one is answered"),
            Setting::new(
                "max_waiting",
                count(1_000_000),
                "10000",
                "Most ClaimNext calls that wait for a saga at a time",
            )
            .about(
                "Most ClaimNext calls that wait for a saga at a time: one for each worker of a fleet as large as the \
                 connections allow.",
            )
            .at_bound(
                "`OVERLOADED`. From three quarters of it on, a principal (or a connection, where callers are not known) that \
                 has 64 gets no more",
            ),
        ],
    },
    Group {
        title: "The store",
        help_heading: Some(LIMITS),
        settings: &[
            Setting::new(
                "writer_queue",
                count(1_000_000),
                "8192",
                "Most changes that wait for the writer; further ones are refused",
            )
            .about(
                "Most changes that wait for the writer: a fifth of a second's work at full speed. What would wait longer is \
                 refused with OVERLOADED, and changed nothing.",
            )
            .at_bound("`OVERLOADED`, also when those that wait hold 128 MiB"),
            Setting::new("writer_batch", count(100_000), "1024", "Most changes in one transaction").about(
                "Most changes in one transaction. A commit stays below some 10 ms, so that the first change in it does not \
                 wait long for the last.",
            ),
            Setting::new("readers", count(64), "4", "Connections to the store that read").about(
                "Connections to the store that read: as many reads run at a time, further ones wait. More help where many \
                 list and look at once, on a machine with cores to spare; each has a page cache of its own.",
            )
            .at_bound(
                "further reads wait; each looks through 5,000 rows at most, and what needs more takes several turns. Next is \
                 the principal (or the connection, where callers are not known) that has the fewest running, and among those \
                 the one that has waited longest since its last turn",
            ),
            Setting::new(
                "max_wal_bytes",
                Kind::Size { least: MIB, most: 1 << 40 },
                "64MiB",
                "Largest write-ahead log",
            )
            .about(
                "The largest write-ahead log: large enough to seldom restart it, small enough to be read back in under a \
                 second after a crash.",
            )
            .at_bound("it is restarted"),
        ],
    },
    Group {
        title: "Threads",
        help_heading: Some(LIMITS),
        settings: &[Setting::new(
            "network_threads",
            Kind::Count { least: 0, most: 64 },
            "0",
            "Threads that serve connections; 0: one for each processor, at most 16",
        )
        .about(
            "Threads that serve connections; 0: one for each processor, at most 16, because the writer keeps up with no more. \
             Lower it where the machine has other work.",
        )
        .at_bound("connections share them")],
    },
    Group {
        title: "Retention (see docs/how-to/retention.md)",
        help_heading: Some(RETENTION),
        settings: &[
            Setting::new(
                "retain_completed",
                AGE,
                "forever",
                "How long completed sagas are kept after their last change",
            )
            .about(
                "How long completed sagas are kept after their last change; then they are purged with their events, a few at \
                 a time, as `sagad purge` does it. The default is \"forever\", until somebody decides what may go. Watches \
                 that resume from before what was purged begin anew. Keep it well above an hour, so that repeated requests \
                 are still recognized.",
            ),
            Setting::new("retain_failed", AGE, "forever", "The same for failed ones").about(
                "The same for failed sagas. They tell what went wrong and who has to look, so they are mostly kept longer.",
            ),
            Setting::new("retain_compensated", AGE, "forever", "The same for compensated ones")
                .about("The same for compensated sagas, whose work was undone as it should be."),
            Setting::new("retain_quarantined", AGE, "forever", "The same for quarantined ones").about(
                "The same for quarantined sagas. They wait for a person: keep them longer than anybody is away.",
            ),
            Setting::new(
                "retention_export",
                Kind::Path { placeholder: "DIR" },
                "",
                "Existing directory in which each saga is written, as a line of JSON, before it is purged",
            )
            .about(
                "An existing directory. Before retention purges a saga, it is written there with its history, as a line of \
                 JSON in a file of the day, and synced; while that fails nothing is purged. \"\": they are not written \
                 anywhere.",
            ),
        ],
    },
];
