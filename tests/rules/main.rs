//! The rules of the contract, tested through the domain's public face: no store, no network, time is an argument.

mod order;
mod situations;
mod table_free;
mod table_held;
mod verbs;
mod world;
