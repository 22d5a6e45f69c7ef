//! A lease: who works on a saga, until when, and how that ended.

use super::{
    ids::{FencingToken, OwnerId, Revision},
    time::{Span, Timestamp},
};

/// What a lease is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LeasePurpose {
    /// To do the work.
    #[default]
    Execute,
    /// To undo it.
    Compensate,
}

/// What limits a lease's expiry: its own length or a timeout of the policy; or that a person revoked it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StaleCause {
    /// Its length.
    Ttl,
    /// The policy's `execution_timeout`.
    ExecutionTimeout,
    /// The policy's `progress_timeout`.
    ProgressTimeout,
    /// A person revoked the leases of its principal. Never the `limit` of a lease.
    Revoked,
}

impl StaleCause {
    /// Its name in the history, as in the contract without the prefix.
    pub const fn name(self) -> &'static str {
        match self {
            StaleCause::Ttl => "TTL",
            StaleCause::ExecutionTimeout => "EXECUTION_TIMEOUT",
            StaleCause::ProgressTimeout => "PROGRESS_TIMEOUT",
            StaleCause::Revoked => "REVOKED",
        }
    }
}

impl LeasePurpose {
    /// All of them.
    pub const ALL: [LeasePurpose; 2] = [LeasePurpose::Execute, LeasePurpose::Compensate];

    /// Its name in the history, as in the contract without the prefix.
    pub const fn name(self) -> &'static str {
        match self {
            LeasePurpose::Execute => "EXECUTE",
            LeasePurpose::Compensate => "COMPENSATE",
        }
    }
}

/// How a lease's holder ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HolderEnd {
    /// By `Release`.
    Released,
    /// By `Complete`.
    Completed,
    /// By `Fail`, whatever it led to.
    Failed,
    /// By `Compensate`.
    Compensated,
    /// By `Quarantine`.
    Quarantined,
}

impl HolderEnd {
    const ALL: [HolderEnd; 5] =
        [HolderEnd::Released, HolderEnd::Completed, HolderEnd::Failed, HolderEnd::Compensated, HolderEnd::Quarantined];

    /// Its name in the history.
    pub const fn name(self) -> &'static str {
        match self {
            HolderEnd::Released => "RELEASE",
            HolderEnd::Completed => "COMPLETE",
            HolderEnd::Failed => "FAIL",
            HolderEnd::Compensated => "COMPENSATE",
            HolderEnd::Quarantined => "QUARANTINE",
        }
    }

    /// The value with this name in the history.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|end| end.name() == name)
    }
}

/// The standing of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Neither ended nor reported as expired. It may be past its expiry.
    Held,
    /// Reported as expired, and not ended since: the saga is stale.
    Expired {
        /// When it started to count as expired.
        at: Timestamp,
        /// The revision of its `lease_expired` event.
        revision: Revision,
    },
    /// Its holder ended it.
    EndedByHolder(HolderEnd),
    /// A decision, a policy or a revocation ended it.
    EndedByOther,
}

/// The current or last lease of a saga.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Who holds it.
    pub owner: OwnerId,
    /// The revision of its `claimed` event.
    pub token: FencingToken,
    /// What it is for.
    pub purpose: LeasePurpose,
    /// When it was claimed.
    pub acquire_time: Timestamp,
    /// When it was last extended; at first, when it was claimed.
    pub heartbeat_time: Timestamp,
    /// When it ends unless extended.
    pub expire_time: Timestamp,
    /// Its length.
    pub ttl: Span,
    /// What limits its expiry.
    pub limit: StaleCause,
    /// When its progress last changed; at first, when it was claimed.
    pub progress_time: Timestamp,
    /// Where it stands.
    pub standing: Standing,
}

/// The grace after the coordinator's last absence: a restart, a suspension, or a full disk. A deadline that was set before
/// the coordinator returned is postponed. Named after the setting `restart_grace`, which is its length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestartGrace {
    /// When the coordinator returned.
    pub returned_at: Timestamp,
    /// The least time that earlier leases keep after the return.
    pub length: Span,
}

impl RestartGrace {
    /// Postpones a deadline that was set at `since`, if that was before the coordinator returned.
    pub fn postpone(&self, deadline: Timestamp, since: Timestamp) -> Timestamp {
        if since < self.returned_at { deadline.max(self.returned_at.plus(self.length)) } else { deadline }
    }
}

impl Lease {
    /// When the lease counts as expired: at its expiry, or later if the grace applies.
    pub fn effective_expiry(&self, grace: &RestartGrace) -> Timestamp {
        grace.postpone(self.expire_time, self.heartbeat_time)
    }

    /// Neither ended nor expired.
    pub fn is_live(&self, now: Timestamp, grace: &RestartGrace) -> bool {
        match self.standing {
            Standing::Held => now < self.effective_expiry(grace),
            Standing::Expired { .. } | Standing::EndedByHolder(_) | Standing::EndedByOther => false,
        }
    }

    /// Expired, and not ended.
    pub fn is_stale(&self, now: Timestamp, grace: &RestartGrace) -> bool {
        match self.standing {
            Standing::Held => now >= self.effective_expiry(grace),
            Standing::Expired { .. } => true,
            Standing::EndedByHolder(_) | Standing::EndedByOther => false,
        }
    }

    /// True if a person revoked it and nothing has been decided about the saga since. A revoked lease is stored as
    /// expired before its `expire_time`, which an expired one never is.
    pub fn is_revoked(&self) -> bool {
        match self.standing {
            Standing::Expired { at, .. } => at < self.expire_time,
            Standing::Held | Standing::EndedByHolder(_) | Standing::EndedByOther => false,
        }
    }

    /// When an expired lease ended, and why. (When it ran out, not when it counted as expired because of the grace.)
    pub fn end(&self) -> (Timestamp, StaleCause) {
        match self.standing {
            Standing::Expired { at, .. } if self.is_revoked() => (at, StaleCause::Revoked),
            Standing::Expired { .. } | Standing::Held | Standing::EndedByHolder(_) | Standing::EndedByOther => {
                (self.expire_time, self.limit)
            }
        }
    }

    /// How often to heartbeat: a third of the length.
    pub fn heartbeat_interval(&self) -> Span {
        self.ttl.third()
    }
}
