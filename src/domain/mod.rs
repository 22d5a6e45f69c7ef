//! The rules, pure: no clock, no randomness, no storage, no network. Time is an argument, ids and revisions are given.
//!
//! Read in this order: [`ids`], [`time`] and [`text`] are values that can't be invalid ([`characters`]: what texts may hold); [`lease`], [`compensation`],
//! [`policy`], [`saga`] and [`event`] are the facts; [`command`] is what can be asked; [`rejection`] is every refusal;
//! [`due`] is what happens by itself; [`transition`] is the one table of rules: `admission` says who holds a lease, `held`
//! and `undo` what the holder can do, `free` what everybody can.

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
