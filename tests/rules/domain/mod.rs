//! The rules of the contract, tested through the domain's public face: no store, no network, time is an argument.

mod admission;
mod compensations;
mod deadlines;
mod events;
mod heartbeats;
mod late;
mod order;
mod persons;
mod policies;
mod random;
mod repeats;
mod retries;
mod situations;
mod table_by_holder;
mod table_unleased;
mod verbs;
mod world;
