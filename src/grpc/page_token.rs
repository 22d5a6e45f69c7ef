//! Page tokens: opaque to clients, bound to the filter they were made for, and never trusted.
//!
//! A token is the URL-safe base64 of a version byte, a digest of the request that it continues, and a position. It is not
//! secret and gives no rights: a forged token leads to another position in what its sender may read anyway.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use prost::Message;
use sha2::{Digest, Sha256};

use crate::domain::{
    bounds::QUEUE_BYTES,
    ids::{Malformed, QueueName},
};

const VERSION: u8 = 1;
const DIGEST_BYTES: usize = 8;
/// Version and digest, before the position.
const HEAD_BYTES: usize = 1 + DIGEST_BYTES;

/// What a token is bound to: the rpc and its filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterDigest([u8; DIGEST_BYTES]);

impl FilterDigest {
    /// The digest of a request in which page size and token have been cleared.
    pub fn of(rpc: &str, filter: &impl Message) -> Self {
        let whole = Sha256::new().chain_update(rpc).chain_update([0]).chain_update(filter.encode_to_vec()).finalize();
        let mut digest = [0; DIGEST_BYTES];
        digest.copy_from_slice(&whole[..DIGEST_BYTES]);
        FilterDigest(digest)
    }
}

/// The token that continues after a position.
pub fn write(filter: FilterDigest, place: i64) -> String {
    encode(filter, &place.to_be_bytes())
}

/// The position after which a token continues; none for an empty token.
pub fn read(filter: FilterDigest, token: &str) -> Result<Option<i64>, Malformed> {
    decode(filter, token, size_of::<i64>(), |place| place.try_into().ok().map(i64::from_be_bytes))
}

/// The token that continues after a queue, in order of name.
pub fn write_queue(filter: FilterDigest, queue: &QueueName) -> String {
    encode(filter, queue.as_str().as_bytes())
}

/// The queue after which a token continues; none for an empty token.
pub fn read_queue(filter: FilterDigest, token: &str) -> Result<Option<QueueName>, Malformed> {
    decode(filter, token, QUEUE_BYTES, |name| QueueName::parse(std::str::from_utf8(name).ok()?).ok())
}

fn encode(filter: FilterDigest, place: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode([&[VERSION][..], &filter.0, place].concat())
}

/// Decodes a token whose position has at most `longest` bytes.
fn decode<T>(
    filter: FilterDigest,
    token: &str,
    longest: usize,
    place: impl FnOnce(&[u8]) -> Option<T>,
) -> Result<Option<T>, Malformed> {
    if token.is_empty() {
        return Ok(None);
    }
    let foreign = || Malformed("is not a next_page_token of this server: begin again without it".into());
    // A token that is too long is not even decoded.
    let decoded = if token.len() > 2 * (HEAD_BYTES + longest) { None } else { URL_SAFE_NO_PAD.decode(token).ok() };
    let bytes = decoded.filter(|bytes| bytes.len() > HEAD_BYTES && bytes[0] == VERSION).ok_or_else(foreign)?;
    let (head, rest) = bytes.split_at(HEAD_BYTES);
    let place = place(rest).ok_or_else(foreign)?;
    if head[1..] != filter.0 {
        return Err(Malformed("belongs to a listing with other filters: begin again without it".into()));
    }
    Ok(Some(place))
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

    #[test]
    fn a_token_of_a_queue_continues_after_that_queue() {
        let longest = QueueName::parse(&"q".repeat(QUEUE_BYTES)).unwrap();
        for queue in [QueueName::parse("q").unwrap(), longest] {
            let token = write_queue(filter("a"), &queue);
            assert_eq!(read_queue(filter("a"), &token), Ok(Some(queue)));
            assert!(read_queue(filter("b"), &token).is_err(), "bound to its filter");
        }
        assert_eq!(read_queue(filter("a"), ""), Ok(None));
        for name in ["", "..", "-q", "q q", &"q".repeat(QUEUE_BYTES + 1)] {
            assert!(read_queue(filter("a"), &encode(filter("a"), name.as_bytes())).is_err(), "{name:?}");
        }
        assert!(read_queue(filter("a"), &encode(filter("a"), &[0xff, 0xfe])).is_err());
    }

    proptest! {
        #[test]
        fn an_encoded_token_is_decoded_again(task_id in ".*", place: i64) {
            let filter = filter(&task_id);
            prop_assert_eq!(read(filter, &write(filter, place)), Ok(Some(place)));
        }

        #[test]
        fn an_invalid_token_is_refused(token in ".{1,60}") {
            prop_assert!(read(filter("a"), &token).is_err());
        }

        #[test]
        fn random_bytes_of_the_right_length_are_refused(bytes in prop::collection::vec(any::<u8>(), HEAD_BYTES + 8)) {
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
