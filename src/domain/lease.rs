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

/// Why a lease ends: what bounds its expiry, which is its own length or a timeout of the policy; or a person who revokes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StaleCause {
    /// Its length.
    Ttl,
    /// The policy's `execution_timeout`.
    ExecutionTimeout,
    /// The policy's `progress_timeout`.
    ProgressTimeout,
    /// A person revoked what its principal held. Never a lease's `limit`.
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

    /// What a name in the history stands for.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|end| end.name() == name)
    }
}

/// Where a lease stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Neither ended nor reported as expired; it may be past its expiry.
    Held,
    /// Its expiry was reported, and nothing has ended it since: the saga is stale.
    Expired {
        /// The instant from which it counted as expired.
        at: Timestamp,
        /// Of the `lease_expired` event.
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
    /// What its expiry is bounded by.
    pub limit: StaleCause,
    /// When its progress last changed; at first, when it was claimed.
    pub progress_time: Timestamp,
    /// Where it stands.
    pub standing: Standing,
}

/// The coordinator's last absence: leases from before it get a grace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Absence {
    /// When the coordinator was back.
    pub returned_at: Timestamp,
    /// How long leases from before that stand at least from then on.
    pub grace: Span,
}

impl Absence {
    /// A deadline that was running since `since`, put off by the grace if the coordinator was away meanwhile.
    pub fn put_off(&self, deadline: Timestamp, since: Timestamp) -> Timestamp {
        if since < self.returned_at { deadline.max(self.returned_at.plus(self.grace)) } else { deadline }
    }
}

impl Lease {
    /// When the lease counts as expired: its expiry, or later if the coordinator was away since its last heartbeat.
    pub fn effective_expiry(&self, absence: &Absence) -> Timestamp {
        absence.put_off(self.expire_time, self.heartbeat_time)
    }

    /// Neither ended nor expired.
    pub fn is_live(&self, now: Timestamp, absence: &Absence) -> bool {
        match self.standing {
            Standing::Held => now < self.effective_expiry(absence),
            Standing::Expired { .. } | Standing::EndedByHolder(_) | Standing::EndedByOther => false,
        }
    }

    /// Expired, and not ended.
    pub fn is_stale(&self, now: Timestamp, absence: &Absence) -> bool {
        match self.standing {
            Standing::Held => now >= self.effective_expiry(absence),
            Standing::Expired { .. } => true,
            Standing::EndedByHolder(_) | Standing::EndedByOther => false,
        }
    }

    /// Whether a person ended it before its time, and nothing has been decided about the saga since. Such a lease counts as
    /// expired from before its `expire_time` on; one that ran out, never.
    pub fn is_revoked(&self) -> bool {
        match self.standing {
            Standing::Expired { at, .. } => at < self.expire_time,
            Standing::Held | Standing::EndedByHolder(_) | Standing::EndedByOther => false,
        }
    }

    /// Of one that is expired: when it ended, and why. (When it ran out, and not when grace made it count as expired.)
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
