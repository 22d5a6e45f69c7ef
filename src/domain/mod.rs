//! The rules. Pure: no clock, no randomness, no storage, no network. Time is an argument; ids and revisions are passed
//! in.
//!
//! Read in this order: [`ids`], [`time`] and [`text`] are validated values ([`characters`]: which characters texts may
//! contain); [`lease`], [`compensation`], [`policy`], [`saga`] and [`event`] are the data; [`command`] is what callers
//! can ask for; [`rejection`] is every refusal; [`due`] is what happens as time passes; [`transition`] applies an
//! operation: `lease_check` checks the lease, `holder_operations` and `compensation_rules` implement what its holder
//! can do, `unleased_operations` what anybody can.

mod accepted;
mod admission;
pub mod bounds;
pub mod characters;
pub mod command;
pub mod compensation;
pub mod draft;
pub mod due;
mod earlier_lease;
pub mod event;
mod free;
mod held;
pub mod ids;
pub mod lease;
pub mod policy;
pub mod principal;
pub mod rejection;
pub mod saga;
pub mod text;
pub mod time;
pub mod transition;
mod undo;
mod weight;
