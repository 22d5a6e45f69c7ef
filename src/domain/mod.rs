//! The rules. Pure: no clock, no randomness, no storage, no network. Time is an argument; ids and revisions are passed
//! in.
//!
//! Read in this order: [`ids`], [`time`] and [`text`] are validated values ([`characters`]: which characters texts may
//! contain); [`lease`], [`compensation`], [`policy`], [`saga`] and [`event`] are the data; [`command`] is what callers
//! can ask for; [`rejection`] is every refusal; [`due`] is what happens as time passes; [`transition`] applies an
//! operation: `lease_check` checks the lease, `holder_operations` and `compensation_rules` implement what its holder
//! can do, `unleased_operations` what anybody can.

pub mod bounds;
pub mod characters;
pub mod command;
mod command_weight;
pub mod compensation;
mod compensation_rules;
pub mod draft;
pub mod due;
mod earlier_lease;
pub mod event;
mod holder_operations;
pub mod ids;
pub mod lease;
mod lease_check;
pub mod policy;
pub mod principal;
pub mod rejection;
pub mod saga;
pub mod text;
pub mod time;
pub mod transition;
mod transition_effect;
mod unleased_operations;
