//! Every reason of the contract's error table, produced on a real daemon.

mod leases;
mod requests;
mod store;

use std::{collections::BTreeSet, fs, path::Path};

use tonic::{Status, Streaming};

use crate::support::{errors::TABLE, *};

/// Reasons of daemons with principals: `tests/contract/security` produces them.
const OF_CALLERS: [&str; 2] = ["UNAUTHENTICATED", "PERMISSION_DENIED"];

/// A test for each reason; the function of its name produces the error and checks its metadata.
macro_rules! produced {
    ($($reason:ident: $module:ident::$function:ident,)*) => {
        const COVERED: &[&str] = &[$(stringify!($reason)),*];

        $(
            #[tokio::test]
            async fn $function() {
                let Some(problem) = Into::<Option<Problem>>::into($module::$function().await) else { return };
                assert_eq!(problem.reason, stringify!($reason), "{problem:?}");
            }
        )*
    };
}

produced! {
    INVALID_ARGUMENT: requests::invalid_argument,
    SAGA_NOT_FOUND: requests::saga_not_found,
    COMPENSATION_NOT_FOUND: requests::compensation_not_found,
    QUEUE_NOT_FOUND: requests::queue_not_found,
    SAGA_EXISTS: requests::saga_exists,
    REQUEST_ID_REUSED: requests::request_id_reused,
    SAGA_TERMINAL: requests::saga_terminal,
    LEASE_HELD: leases::lease_held,
    DISPATCHED_ELSEWHERE: requests::dispatched_elsewhere,
    NOT_READY: requests::not_ready,
    SETTLING: requests::settling,
    WRONG_STATE: requests::wrong_state,
    NOT_STALE: requests::not_stale,
    COMPENSATION_REQUIRED: requests::compensation_required,
    COMPENSATION_PENDING: requests::compensation_pending,
    COMPENSATION_ORDER: requests::compensation_order,
    COMPENSATION_LIMIT: requests::compensation_limit,
    LEASE_NOT_EXTENDED: leases::lease_not_extended,
    EXECUTION_TIMEOUT: leases::execution_timeout,
    PROGRESS_TIMEOUT: leases::progress_timeout,
    LEASE_EXPIRED: leases::lease_expired,
    LEASE_SUPERSEDED: leases::lease_superseded,
    NOT_OWNER: leases::not_owner,
    NO_LEASE: leases::no_lease,
    REVISION_COMPACTED: store::revision_compacted,
    REVISION_UNKNOWN: store::revision_unknown,
    OVERLOADED: store::overloaded,
    STORE_FULL: store::store_full,
    SHUTTING_DOWN: store::shutting_down,
    STORE_UNAVAILABLE: store::store_unavailable,
    OUTCOME_UNKNOWN: store::outcome_unknown,
    CORRUPT: store::corrupt,
}

/// The error that ends a stream before its first item.
async fn first_error<T>(opened: Result<Streaming<T>, Status>) -> Problem {
    let status = match opened {
        Err(status) => status,
        Ok(mut stream) => match stream.message().await {
            Err(status) => status,
            Ok(_) => panic!("it was accepted"),
        },
    };
    Problem::of(&status)
}

#[test]
fn every_reason_of_the_error_table_has_a_test() {
    let table: BTreeSet<_> = TABLE.iter().map(|(reason, ..)| *reason).collect();
    let covered: BTreeSet<_> = COVERED.iter().chain(&OF_CALLERS).copied().collect();
    assert_eq!(covered, table);
    assert_eq!(table.len(), TABLE.len());
    assert_eq!(covered.len(), COVERED.len() + OF_CALLERS.len());
}

/// Searches the sources for strings that look like reasons.
#[test]
fn every_reason_in_the_sources_is_in_the_error_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut made = BTreeSet::new();
    for file in
        ["src/grpc/error_table.rs", "src/grpc/parse/violations.rs", "src/grpc/problem.rs", "src/grpc/permissions.rs"]
    {
        let source = fs::read_to_string(root.join(file)).unwrap();
        made.extend(source.split('"').skip(1).step_by(2).filter(|text| is_reason(text)).map(str::to_owned));
    }
    // Names of directives are no reasons.
    for directive in ["CONTINUE", "CANCEL"] {
        made.remove(directive);
    }
    let expected: BTreeSet<_> = COVERED.iter().chain(&OF_CALLERS).map(|reason| (*reason).to_owned()).collect();
    assert_eq!(made, expected);
}

fn is_reason(text: &str) -> bool {
    text.len() > 5 && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
}
