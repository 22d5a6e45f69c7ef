//! [`LoadClient`]: one client of the measured load.

use std::sync::Arc;

use parking_lot::Mutex;
use uuid::Uuid;

use super::{args::Plan, saga_pool::SagaPool, totals::BenchTotals, window::Window};
use crate::client::{Client, ClientOptions};

/// The state shared by the threads of a run.
pub struct RunState {
    /// What to measure.
    pub plan: Plan,
    /// Where.
    pub options: ClientOptions,
    /// The sagas for the load.
    pub pool: SagaPool,
    /// When it is measured.
    pub window: Window,
}

/// One client of the load: its connection, which it may share, and its totals.
#[derive(Clone)]
pub struct LoadClient {
    /// Its number in the run.
    pub number: u32,
    /// Its connection.
    pub client: Client,
    /// The totals of its thread.
    pub totals: Arc<Mutex<BenchTotals>>,
    /// What all share.
    pub shared: Arc<RunState>,
}

impl LoadClient {
    /// Its owner id.
    pub fn owner(&self) -> String {
        format!("bench-{}", self.number)
    }

    /// The `request_id` for a change: a new one, or empty if none were asked for.
    pub fn request_id(&self) -> String {
        if self.shared.plan.args.request_ids { Uuid::new_v4().to_string() } else { String::new() }
    }
}
