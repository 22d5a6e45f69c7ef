//! [`LeaseKey`]: identifies a lease in a call.

use crate::proto::Saga;

/// Identifies a lease in a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseKey {
    /// The saga.
    pub task_id: String,
    /// Who holds it.
    pub owner_id: String,
    /// Which of its leases.
    pub fencing_token: i64,
}

impl LeaseKey {
    /// The key of a saga's lease; `None` when it never had one.
    pub fn of(saga: &Saga) -> Option<Self> {
        let lease = saga.lease.as_ref()?;
        Some(Self {
            task_id: saga.task_id.clone(),
            owner_id: lease.owner_id.clone(),
            fencing_token: lease.fencing_token,
        })
    }
}
