//! What the fuzz targets share: the requests of every rpc, what has to hold for each of them, and sagas made of random
//! bytes. See `docs/maintainers/evidence.md`, P12.

use sagad::{domain, grpc, proto};

/// What holds for requests that are let in: the same as the property tests have it.
#[path = "../../src/grpc/parse/properties/bounds.rs"]
pub mod bounds;
/// What the contract has: the same as the property tests have it.
#[path = "../../src/grpc/parse/properties/paths.rs"]
pub mod paths;
pub mod requests;
pub mod sagas;
