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

mod agenda;
mod backend;
mod cache;
mod call;
mod changes;
mod claim;
mod error;
mod held;
mod judge;
mod ready_index;
mod repeat;
mod scope;
mod state;
mod sweep;
mod turn;
mod waiters;
mod weight;
mod windows;
mod working;

pub use agenda::{Agenda, NextDue};
pub use backend::{
    Backend, Candidate, ContentBytes, Derived, Fault, IdleBudget, Key, Loaded, Opening, PlaceHasher, Position,
    ReadyScan, Removed, RowHasher, RowId, StoredAnswer, StoredDue, brief,
};
pub use call::{Call, Caller, Outcome, Share};
pub use changes::{Appended, ChangeSet, SagaChange};
pub use error::StoreError;
pub use ready_index::{KindSet, ReadyEntry, ReadyIndex, Takers};
pub use scope::out_of_scope;
pub use state::Coordinator;
pub use sweep::SweepBudget;
pub use turn::{Committed, Failed, Limits, Observe, Turn, TurnStep};
pub use waiters::{FAIR_WAITING, HeldUntil, Waiter, Waiters, Waiting, Wake};
pub use weight::weight;
