//! Page tokens: opaque to clients, bound to the filter they were made for, and never trusted.
//!
//! A token is the URL-safe base64 of a version byte, a digest of the request that it continues, and a place. It is no
//! secret and carries no rights: a forged one leads to another place in what its sender may read anyway.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use prost::Message;
use sha2::{Digest, Sha256};

use crate::domain::ids::Malformed;

const VERSION: u8 = 1;
const DIGEST_BYTES: usize = 8;
const TOKEN_BYTES: usize = 1 + DIGEST_BYTES + size_of::<i64>();

/// What a token is bound to: the rpc and its filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterDigest([u8; DIGEST_BYTES]);

impl FilterDigest {
    /// The digest of a request, from which the caller has cleared page size and token.
    pub fn of(rpc: &str, filter: &impl Message) -> Self {
        let whole = Sha256::new().chain_update(rpc).chain_update([0]).chain_update(filter.encode_to_vec()).finalize();
        let mut digest = [0; DIGEST_BYTES];
        digest.copy_from_slice(&whole[..DIGEST_BYTES]);
        FilterDigest(digest)
    }
}

/// The token that continues behind a place.
pub fn write(filter: FilterDigest, place: i64) -> String {
    let mut bytes = Vec::with_capacity(TOKEN_BYTES);
    bytes.push(VERSION);
    bytes.extend_from_slice(&filter.0);
    bytes.extend_from_slice(&place.to_be_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The place behind which a token continues; none for an empty token.
pub fn read(filter: FilterDigest, token: &str) -> Result<Option<i64>, Malformed> {
    if token.is_empty() {
        return Ok(None);
    }
    // Its length is known, so that a long one isn't decoded.
    let decoded = if token.len() > 2 * TOKEN_BYTES { None } else { URL_SAFE_NO_PAD.decode(token).ok() };
    let Some(bytes) = decoded.filter(|bytes| bytes.len() == TOKEN_BYTES && bytes[0] == VERSION) else {
        return Err(Malformed("is not a next_page_token of this server: begin again without it".into()));
    };
    if bytes[1..=DIGEST_BYTES] != filter.0 {
        return Err(Malformed("belongs to a listing with other filters: begin again without it".into()));
    }
    let mut place = [0; size_of::<i64>()];
    place.copy_from_slice(&bytes[1 + DIGEST_BYTES..]);
    Ok(Some(i64::from_be_bytes(place)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::ListEventsRequest;

    fn filter(task_id: &str) -> FilterDigest {
        let request = ListEventsRequest { task_id: task_id.into(), ..Default::default() };
        FilterDigest::of("ListEvents", &request)
    }

    #[test]
    fn a_token_is_bound_to_its_filter() {
        let token = write(filter("a"), 7);
        assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{token}");
        assert_eq!(read(filter("a"), &token), Ok(Some(7)));
        assert!(read(filter("b"), &token).unwrap_err().0.contains("other filters"));
        assert_eq!(read(filter("a"), ""), Ok(None));
        let request = ListEventsRequest { task_id: "a".into(), ..Default::default() };
        assert!(read(FilterDigest::of("ListSagas", &request), &token).is_err(), "of another rpc");
    }

    proptest! {
        #[test]
        fn what_is_written_can_be_read(task_id in ".*", place: i64) {
            let filter = filter(&task_id);
            prop_assert_eq!(read(filter, &write(filter, place)), Ok(Some(place)));
        }

        #[test]
        fn garbage_is_refused(token in ".{1,60}") {
            prop_assert!(read(filter("a"), &token).is_err());
        }

        #[test]
        fn garbage_of_the_right_length_is_refused(bytes in prop::collection::vec(any::<u8>(), TOKEN_BYTES)) {
            prop_assert!(read(filter("a"), &URL_SAFE_NO_PAD.encode(bytes)).is_err());
        }

        #[test]
        fn a_changed_token_never_panics(place: i64, at in 0_usize..22, with in any::<char>()) {
            let mut token: Vec<char> = write(filter("a"), place).chars().collect();
            token[at] = with;
            let _ = read(filter("a"), &token.into_iter().collect::<String>());
        }
    }
}
