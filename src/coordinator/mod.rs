//! FLOOR 1: one turn of the coordinator. Pure: no I/O, no clock, no threads.
//!
//! A *turn* is a batch of calls judged together, and the unit of everything: of loading, of the transaction, of undoing.
//!
//! ```text
//! calls ──► Turn: the rules, each at its time ──► ChangeSet ──► Backend::commit ──► answers, events
//!             │ what memory lacks                  net rows,      one transaction,
//!             └──────────► Backend                 events,        durable when it
//!                                                  answers        returns
//! ```
//!
//! [`Coordinator`] is what is known between two turns: what is due when, what is ready, who waits, what was lately used. A
//! [`Turn`] borrows it alone, and asks a [`Backend`] for what is not in memory. Whatever it changes is on top of that until
//! the backend has it: a turn that is dropped has not happened. Whoever drives it, drives this and nothing else: the writer's
//! thread, the simulation, the tests that compare backends, the benches.

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
