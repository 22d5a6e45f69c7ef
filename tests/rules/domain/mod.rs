//! The rules of the contract, tested through the domain's public functions: no store, no network, time is an argument.

mod claims;
mod compensations;
mod deadlines;
mod error_order;
mod events;
mod heartbeats;
mod late_results;
mod operations;
mod operator_decisions;
mod policies;
mod random_histories;
mod repeats;
mod retries;
mod situation;
mod table_by_holder;
mod table_unleased;
mod test_saga;
