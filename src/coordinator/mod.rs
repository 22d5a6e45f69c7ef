//! Executes commands in turns. Pure: no I/O, no clock, no threads.
//!
//! A *turn* is a batch of calls that are executed together and committed in one transaction, or not at all.
//!
//! ```text
//! calls ──► Turn: the rules, each at its time ──► ChangeSet ──► Backend::commit ──► answers, events
//!             │ what memory lacks                  net rows,      one transaction,
//!             └──────────► Backend                 events,        durable when it
//!                                                  answers        returns
//! ```
//!
//! [`Coordinator`] is the state in memory between two turns: what is due when, what is ready, which calls are held,
//! which sagas were used recently. A [`Turn`] borrows it exclusively and reads the rest from a [`Backend`]. Its
//! changes apply only once the backend has committed them: a turn that is dropped has not happened. Everything that
//! executes commands uses this code: the writer thread, the simulation, the tests that compare backends, and the
//! benches.

mod backend;
mod cache;
mod call;
mod change_set;
mod claim;
mod due_index;
mod encoded_size;
mod error;
mod execute;
mod held_claims;
mod load_ahead;
mod ready_index;
mod ready_windows;
mod replay;
mod row_id;
mod scope;
mod serve_held_claims;
mod state;
mod stored_fields;
mod sweep;
mod sweep_budget;
mod turn;
mod working_set;

pub use backend::{
    Backend, BackendError, ContentBytes, InitialState, LoadKey, LoadResult, MaintenanceBudget, ReadyScan,
    RemovalCounts, without_contents,
};
pub use call::{Call, CallOutcome, Caller, CallerKey};
pub use change_set::{AppendedEvent, ChangeSet, SagaChange};
pub use due_index::{DueEntry, DueIndex};
pub use encoded_size::encoded_size;
pub use error::StoreError;
pub use held_claims::{Claimable, FAIR_HELD_CLAIMS, HeldClaim, HeldClaimSummary, HeldClaims, HeldUntil};
pub use ready_index::{Eligibility, KindSet, ReadyEntry, ReadyIndex};
pub use row_id::{RowId, RowIdBuildHasher, RowIdHasher};
pub use scope::out_of_scope;
pub use state::Coordinator;
pub use stored_fields::{DerivedFields, ReadyPosition, StoredAnswer};
pub use sweep_budget::SweepBudget;
pub use turn::{CommittedTurn, FailedTurn, Turn, TurnLimits, TurnObserver, TurnStep};
