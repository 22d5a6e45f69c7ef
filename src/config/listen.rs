//! The address to listen on, as it is written in the configuration.

use std::{fmt, net::SocketAddr, path::PathBuf};

/// The longest path of a socket that the kernel accepts, without the terminating byte (`sun_path`).
const SOCKET_PATH_BYTES: usize = 107;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// An IP address with a port; port 0 is any free one.
    Address(SocketAddr),
    /// A host name and a port: all addresses that the name resolves to when the daemon starts.
    Name {
        /// The name.
        host: String,
        /// The port; 0: any that is free on all of the addresses.
        port: u16,
    },
    /// A Unix socket, for this machine only.
    Unix(PathBuf),
}

impl Listen {
    /// Whether other machines may reach it. A name is resolved only when the daemon starts, so its addresses are not
    /// known yet; `localhost` is this machine by definition (RFC 6761), and the start fails if it resolves to anything
    /// else.
    pub fn is_exposed(&self) -> bool {
        match self {
            // An IPv4-mapped IPv6 address is the same address.
            Listen::Address(address) => !address.ip().to_canonical().is_loopback(),
            Listen::Name { host, .. } => {
                let host = host.trim_end_matches('.').to_ascii_lowercase();
                host != "localhost" && !host.ends_with(".localhost")
            }
            Listen::Unix(_) => false,
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Address(address) => write!(f, "{address}"),
            Listen::Name { host, port } => write!(f, "{host}:{port}"),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Parses an address or a name with a port, or `unix:` with a path.
pub(super) fn parse(text: &str) -> Result<Listen, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return match path.len() {
            0 => Err("names no file: unix:/run/sagad/sagad.sock, for example".to_owned()),
            1..=SOCKET_PATH_BYTES => Ok(Listen::Unix(path.into())),
            _ => Err(format!("is too long for a socket: its path may have {SOCKET_PATH_BYTES} bytes")),
        };
    }
    if let Ok(address) = text.parse() {
        return Ok(Listen::Address(address));
    }
    let named = text.rsplit_once(':').filter(|(host, _)| is_name(host));
    let port = named.and_then(|(host, port)| Some((host, port.parse().ok()?)));
    port.map(|(host, port)| Listen::Name { host: host.to_owned(), port }).ok_or_else(|| {
        "is neither an address with a port, such as 127.0.0.1:7420 or [::1]:7420, nor a name with one, such as \
         localhost:7420, nor a socket, such as unix:/run/sagad/sagad.sock"
            .to_owned()
    })
}

/// Whether a text can be a host name: labels of letters, digits and hyphens, the last of which is not a number, as it
/// would then be a mistyped address.
fn is_name(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let last = host.rsplit('.').next().unwrap_or_default();
    host.len() <= 253 && host.split('.').all(is_label) && !last.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_addresses_print_as_their_text_and_know_whether_they_are_public() {
        for (text, exposed) in [
            ("127.0.0.1:7420", false),
            ("[::1]:0", false),
            ("[::ffff:127.0.0.1]:1", false),
            ("0.0.0.0:7420", true),
            ("localhost:7420", false),
            ("LocalHost.:7420", false),
            ("a.localhost:7420", false),
            ("notlocalhost:7420", true),
            ("coordinator.example:7420", true),
            ("unix:/run/sagad.sock", false),
            ("unix:sagad.sock", false),
        ] {
            let listen = parse(text).unwrap();
            assert_eq!((listen.to_string().as_str(), listen.is_exposed()), (text, exposed));
        }
        let long = format!("unix:/{}", "x".repeat(SOCKET_PATH_BYTES));
        for text in
            ["", "7420", ":7420", "localhost", "localhost:x", "127.0.0.1.1:7420", "a b:1", "a..b:1", "unix:", &long]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
