//! All bounds of the contract. The parser enforces them, and `GetServerInfo` reports them.

use super::time::Span;

/// Longest id (task, saga, owner, assignee), in bytes: long enough for a URL path, short enough to index.
pub const ID_BYTES: usize = 200;
/// Longest queue name, in bytes.
pub const QUEUE_BYTES: usize = 100;
/// Longest actor, in bytes.
pub const ACTOR_BYTES: usize = 200;
/// Longest compensation kind, in bytes.
pub const KIND_BYTES: usize = 100;
/// Longest target, branch, worktree, note or reason, in bytes.
pub const TEXT_BYTES: usize = 4 * 1024;
/// Most labels of a saga, or details of a note.
pub const LABELS: usize = 64;
/// Longest key of a label or detail, in bytes.
pub const LABEL_KEY_BYTES: usize = 63;
/// Longest value of a label or detail, in bytes.
pub const LABEL_VALUE_BYTES: usize = 256;
/// Most compensations of one saga.
pub const COMPENSATIONS: usize = 128;
/// Longest payload, result or progress, in bytes each. Larger data belongs in a blob store; put its address here.
pub const BLOB_BYTES: usize = 64 * 1024;
/// Shortest lease or reservation. With a shorter one a scheduling delay would lose the lease.
pub const TTL_MIN: Span = Span::from_millis(100);
/// Longest lease or reservation.
pub const TTL_MAX: Span = Span::from_secs(24 * 3600);
/// The lease's length when none is given.
pub const TTL_DEFAULT: Span = Span::from_secs(30);
/// Longest delay or timeout.
pub const DELAY_MAX: Span = Span::from_secs(30 * 24 * 3600);
/// Largest count in a policy.
pub const COUNT_MAX: i32 = 1_000_000;
/// Most sagas created by one batch.
pub const BATCH_SAGAS: usize = 1000;
/// Largest batch, in bytes of its encoded request.
pub const BATCH_BYTES: usize = 2 * 1024 * 1024;
/// Most sagas that one `ClaimNext` returns.
pub const CLAIM_SAGAS: usize = 100;
/// Most queues that one request may name.
pub const QUEUES: usize = 100;
/// Most compensation kinds that one `ClaimNext` may name.
pub const KINDS: usize = 128;
/// Longest time that `ClaimNext` waits.
pub const WAIT_MAX: Span = Span::from_secs(60);
/// A held `ClaimNext` is answered this long before its caller's deadline, so that an empty answer still arrives in
/// time.
pub const WAIT_MARGIN: Span = Span::from_millis(100);
/// Page size when none is given.
pub const PAGE_DEFAULT: usize = 100;
/// Largest page.
pub const PAGE_MAX: usize = 1000;
/// Largest answer, in encoded bytes. Pages and claims stop before it; clients accept 4 MiB by default.
pub const ANSWER_BYTES: usize = 3 * 1024 * 1024;
/// How long the answer to a `request_id` is kept.
pub const ANSWER_KEPT: Span = Span::from_secs(3600);
/// Most sagas that one `PurgeSagas` removes.
pub const PURGE_SAGAS: usize = 100_000;
/// How many sagas `PurgeSagas` removes by default.
pub const PURGE_DEFAULT: usize = 1000;
/// Most leases that one `RevokePrincipal` ends.
pub const REVOKE_LEASES: usize = 100_000;
/// How many leases `RevokePrincipal` ends by default: a few seconds of the writer's time.
pub const REVOKE_DEFAULT: usize = 10_000;
/// Longest absence of the coordinator after which leases get no grace.
pub const ABSENCE_WITHOUT_GRACE: Span = Span::from_secs(1);
/// Revisions and fencing tokens stay below this, so that JSON numbers hold them exactly.
pub const REVISION_MAX: i64 = 1 << 53;
/// A store is not opened with fewer revisions or row numbers left than this. It is more than a year's worth at the
/// highest rate.
pub const NUMBERS_LEFT: i64 = 1 << 40;
/// Largest row number: far above what any store reaches, and far below where adding to it overflows.
pub const ROW_MAX: i64 = 1 << 53;
/// The latest time that a store may hold, in microseconds: the year 8000. With [`STORED_LENGTH_MAX`] added it still
/// fits into a protobuf timestamp, which ends with the year 9999.
pub const STORED_TIME_MAX: i64 = 190_288_396_800_000_000;
/// The longest duration that a store may hold, in microseconds: a thousand years, more than the contract ever
/// accepted.
pub const STORED_LENGTH_MAX: i64 = 1000 * 366 * 86_400 * 1_000_000;
/// The latest time at which anything in a store can have happened, in microseconds: the year 2500. A system clock
/// can't reach it, since 64-bit nanoseconds end in 2262. A later time in a damaged store would move the coordinator's
/// clock forward for good.
pub const HAPPENED_MAX: i64 = 16_725_225_600_000_000;

/// One bound as `GetServerInfo` reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The bound's name, in snake case.
    pub name: &'static str,
    /// Its value, in `unit`.
    pub value: i64,
    /// `bytes`, `count` or `microseconds`.
    pub unit: &'static str,
    /// What it bounds.
    pub meaning: &'static str,
}

const fn bytes(name: &'static str, value: usize, meaning: &'static str) -> Bound {
    Bound { name, value: value as i64, unit: "bytes", meaning }
}

const fn count(name: &'static str, value: usize, meaning: &'static str) -> Bound {
    Bound { name, value: value as i64, unit: "count", meaning }
}

const fn span(name: &'static str, value: Span, meaning: &'static str) -> Bound {
    Bound { name, value: value.micros(), unit: "microseconds", meaning }
}

/// The contract's bounds in the order in which `GetServerInfo` reports them.
pub const ALL: &[Bound] = &[
    bytes("id_bytes", ID_BYTES, "longest task, saga, owner or assignee id"),
    bytes("queue_bytes", QUEUE_BYTES, "longest queue name"),
    bytes("actor_bytes", ACTOR_BYTES, "longest actor"),
    bytes("kind_bytes", KIND_BYTES, "longest compensation kind"),
    bytes("text_bytes", TEXT_BYTES, "longest target, branch, worktree, note or reason"),
    count("labels", LABELS, "most labels or details"),
    bytes("label_key_bytes", LABEL_KEY_BYTES, "longest key of a label or detail"),
    bytes("label_value_bytes", LABEL_VALUE_BYTES, "longest value of a label or detail"),
    count("compensations", COMPENSATIONS, "most compensations of a saga"),
    bytes("blob_bytes", BLOB_BYTES, "longest payload, result or progress"),
    span("ttl_min", TTL_MIN, "shortest lease or reservation"),
    span("ttl_max", TTL_MAX, "longest lease or reservation"),
    span("ttl_default", TTL_DEFAULT, "lease or reservation when none is given"),
    span("delay_max", DELAY_MAX, "longest delay, backoff or timeout"),
    count("count_max", COUNT_MAX as usize, "largest count in a policy"),
    count("batch_sagas", BATCH_SAGAS, "most sagas in BatchCreateSagas"),
    bytes("batch_bytes", BATCH_BYTES, "largest BatchCreateSagas request"),
    count("claim_sagas", CLAIM_SAGAS, "most sagas in ClaimNext"),
    count("queues", QUEUES, "most queues in one request"),
    count("kinds", KINDS, "most compensation kinds in ClaimNext"),
    span("wait_max", WAIT_MAX, "longest wait of ClaimNext"),
    count("page_default", PAGE_DEFAULT, "page size when none is given"),
    count("page_max", PAGE_MAX, "largest page"),
    bytes("answer_bytes", ANSWER_BYTES, "largest answer"),
    span("answer_kept", ANSWER_KEPT, "how long the answer to a request_id is kept"),
    count("purge_sagas", PURGE_SAGAS, "most sagas in PurgeSagas"),
    count("revoke_leases", REVOKE_LEASES, "most leases in RevokePrincipal"),
    span("absence", ABSENCE_WITHOUT_GRACE, "longest absence of the coordinator that needs no grace"),
];
