//! The `authorization` header, and the format of tokens.

use http::{HeaderMap, header::AUTHORIZATION};
use sha2::{Digest, Sha256};

use super::principals_file::TokenHash;

/// Longest token that is accepted, in bytes: longer than ours and than most tokens of other issuers.
const TOKEN_BYTES: usize = 1024;
/// Prefix of our tokens, so that secret scanners recognize them. The separator `~` is in no principal's name.
const PREFIX: &str = "sagad~";

/// The `authorization` header of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorizationHeader<'a> {
    /// There is no header.
    Absent,
    /// One bearer token.
    Token(&'a [u8]),
    /// Anything else, such as two headers or another scheme.
    Malformed,
}

/// Reads the `authorization` header.
pub fn read_authorization(headers: &HeaderMap) -> AuthorizationHeader<'_> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    match (values.next(), values.next()) {
        (None, _) => AuthorizationHeader::Absent,
        (Some(value), None) => {
            token(value.as_bytes()).map_or(AuthorizationHeader::Malformed, AuthorizationHeader::Token)
        }
        (Some(_), Some(_)) => AuthorizationHeader::Malformed,
    }
}

/// `Bearer TOKEN`, the first word in any case. (RFC 6750, section 2.1; RFC 9110, section 11.1)
fn token(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked("Bearer".len())?;
    if !scheme.eq_ignore_ascii_case(b"Bearer") || rest.first() != Some(&b' ') {
        return None;
    }
    let token = rest.trim_ascii();
    let plain = !token.is_empty() && token.len() <= TOKEN_BYTES && token.iter().all(u8::is_ascii_graphic);
    plain.then_some(token)
}

/// Tokens are stored only as this hash.
pub fn hash_token(token: &[u8]) -> TokenHash {
    Sha256::digest(token).into()
}

/// Makes a token: the prefix, a principal's name, and 32 random bytes as base64url.
pub fn make_token(name: &str, random: &[u8; 32]) -> String {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    format!("{PREFIX}{name}~{}", URL_SAFE_NO_PAD.encode(random))
}

/// The principal's name in one of our tokens; none if it isn't one.
pub fn principal_name(token: &str) -> Option<&str> {
    let (name, secret) = token.strip_prefix(PREFIX)?.split_once('~')?;
    (!name.is_empty() && !secret.is_empty() && !secret.contains('~')).then_some(name)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn read(values: &[&[u8]]) -> Option<Vec<u8>> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
        }
        match read_authorization(&headers) {
            AuthorizationHeader::Absent => Some(Vec::new()),
            AuthorizationHeader::Token(token) => Some(token.to_vec()),
            AuthorizationHeader::Malformed => None,
        }
    }

    #[test]
    fn one_bearer_token_is_read() {
        assert_eq!(read(&[]), Some(Vec::new()));
        for good in ["Bearer abc", "bearer abc", "BEARER   abc ", "Bearer abc\t"] {
            assert_eq!(read(&[good.as_bytes()]), Some(b"abc".to_vec()), "{good}");
        }
        for bad in ["", "abc", "Bearer", "Bearer ", "Bearerabc", "Basic abc", "Bearer a b", "Bearer\tabc", "Token abc"]
        {
            assert_eq!(read(&[bad.as_bytes()]), None, "{bad}");
        }
        assert_eq!(read(&[b"Bearer \xff"]), None);
        assert_eq!(read(&[b"Bearer a", b"Bearer a"]), None);
        let long = format!("Bearer {}", "a".repeat(TOKEN_BYTES + 1));
        assert_eq!(read(&[long.as_bytes()]), None);
    }

    #[test]
    fn a_token_contains_the_name_of_its_principal() {
        let token = make_token("ci/build@x.y:1+2_3-4", &[0xff; 32]);
        assert_eq!(token.len(), "sagad~ci/build@x.y:1+2_3-4~".len() + 43);
        assert_eq!(principal_name(&token), Some("ci/build@x.y:1+2_3-4"));
        for other in ["", "sagad~", "sagad~a", "sagad~a~", "sagad~~x", "sagad~a~b~c", "other~a~b"] {
            assert_eq!(principal_name(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn p12_no_header_makes_it_panic(value in prop::collection::vec(any::<u8>(), 0..60), scheme in "[Bb]earer ") {
            for value in [value.clone(), [scheme.into_bytes(), value].concat()] {
                // An invalid header value never gets here.
                if let Ok(value) = HeaderValue::from_bytes(&value) {
                    let mut headers = HeaderMap::new();
                    headers.insert(AUTHORIZATION, value);
                    if let AuthorizationHeader::Token(token) = read_authorization(&headers) {
                        prop_assert!(!token.is_empty() && token.iter().all(u8::is_ascii_graphic));
                    }
                }
            }
        }
    }
}
