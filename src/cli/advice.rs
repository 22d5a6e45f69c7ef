//! What to do when a coordinator can't be reached, or doesn't know the caller. This depends on the options of the call (scheme,
//! CA, token) and on what listens there (TLS or not), so both are checked.

use std::{
    io::{Read, Write},
    net::{TcpStream, ToSocketAddrs},
    path::Path,
    time::Duration,
};

use http::Uri;
use tonic::Code;

use super::text;
use crate::client::{ClientOptions, StatusDetails};

/// The advice if no coordinator listens.
pub const NOT_THERE: &str = "start it with `sagad serve`, or choose another with --server or SAGAD_SERVER";
/// The advice for a call without credentials.
pub const NO_CREDENTIALS: &str =
    "name a file with a token by --token-file or SAGAD_TOKEN_FILE, or a certificate by --cert and --key";

/// An HTTP/2 client's first words: its preface and empty settings.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// How long each step of this check may take: a person waits for the message.
const STEP: Duration = Duration::from_secs(1);

/// What listens at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listener {
    /// HTTP/2 without TLS.
    Plain,
    /// TLS.
    Tls,
    /// Something else, or something that doesn't answer.
    Other,
    /// Nothing.
    Nothing,
}

/// What to do about an error; none for other errors. May connect to the server to see what it speaks.
pub fn advice_for(refusal: &StatusDetails, options: &ClientOptions) -> Option<String> {
    if refusal.code == Code::Unauthenticated {
        return Some(for_unknown_caller(options));
    }
    if !refusal.unreachable || refusal.judged {
        return None;
    }
    for_certificate(&refusal.message, options).or_else(|| for_scheme(refusal, options))
}

/// The coordinator does not know the caller.
fn for_unknown_caller(options: &ClientOptions) -> String {
    match (&options.token_file, &options.cert) {
        (Some(file), _) => format!(
            "the coordinator does not know the token in {}, or no longer: ask its operator for a new one",
            shown(file)
        ),
        (None, Some(file)) => format!(
            "the coordinator does not know the certificate in {}: name a file with a token by --token-file or \
             SAGAD_TOKEN_FILE, or ask its operator for an entry in its file of principals",
            shown(file)
        ),
        (None, None) => NO_CREDENTIALS.to_owned(),
    }
}

/// A certificate was not accepted, by one side or the other. By the words of the TLS library.
fn for_certificate(message: &str, options: &ClientOptions) -> Option<String> {
    let is = |words: &[&str]| words.iter().any(|word| message.contains(word));
    Some(if is(&["UnknownIssuer", "BadSignature", "unknown issuer"]) {
        match &options.ca {
            Some(file) => format!(
                "the coordinator's certificate is not signed by the CA in {}: name the right file with --ca or SAGAD_CA",
                shown(file)
            ),
            None => {
                "the coordinator's certificate is signed by no CA that this machine trusts: name the file with its \
                     CA with --ca or SAGAD_CA"
                    .to_owned()
            }
        }
    } else if is(&["certificate not valid for name", "NotValidForName"]) {
        "the coordinator's certificate does not name the host in --server or SAGAD_SERVER: use a name that it has"
            .to_owned()
    } else if is(&["certificate expired", "Expired"]) {
        "the coordinator's certificate has expired: its operator has to renew it".to_owned()
    } else if is(&["CertificateRequired"]) {
        "the coordinator asks for a certificate: name yours with --cert and --key".to_owned()
    } else if is(&["UnknownCA", "DecryptError", "BadCertificate", "CertificateUnknown", "CertificateExpired"])
        && options.cert.is_some()
    {
        format!(
            "the coordinator does not accept the certificate in {}: ask its operator for another",
            options.cert.as_deref().map(shown).unwrap_or_default()
        )
    } else {
        return None;
    })
}

/// The scheme is not the server's.
fn for_scheme(refusal: &StatusDetails, options: &ClientOptions) -> Option<String> {
    if options.server.starts_with("unix:") {
        return refusal.unsent.then(|| NOT_THERE.to_owned());
    }
    let server: Uri = options.server.parse().ok()?;
    let secure = server.scheme_str() == Some("https");
    let address = server.authority()?.to_string();
    let address = text::printable(&address);
    match (secure, detect_listener(&server)) {
        (true, Listener::Plain) => Some(format!("{address} serves without TLS: name it as http://{address}")),
        (false, Listener::Tls) => Some(format!(
            "{address} serves with TLS: name it as https://{address}, and the file with its CA with --ca or SAGAD_CA, \
             unless this machine trusts it anyway"
        )),
        (_, Listener::Other) => Some(format!(
            "something listens at {address}, but it does not answer as a coordinator does: name another with --server or \
             SAGAD_SERVER"
        )),
        // With TLS 1.3 a server that misses a certificate closes a connection that the client takes for made, and its
        // reason may be lost on the way.
        (true, Listener::Tls) if !refusal.unsent && was_closed(&refusal.message) => Some(match &options.cert {
            None => format!(
                "{address} closed the TLS connection: if the coordinator asks for a certificate, name yours with --cert and \
                     --key"
            ),
            Some(file) => format!(
                "{address} closed the TLS connection: the coordinator may not accept the certificate in {}",
                shown(file)
            ),
        }),
        (true, Listener::Tls) | (false, Listener::Plain) | (_, Listener::Nothing) => {
            refusal.unsent.then(|| NOT_THERE.to_owned())
        }
    }
}

/// Sends the first bytes of HTTP/2 without TLS, and judges by the first bytes of the answer.
fn detect_listener(server: &Uri) -> Listener {
    let host = server.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let port = server.port_u16().unwrap_or(if server.scheme_str() == Some("https") { 443 } else { 80 });
    let addresses = (host, port).to_socket_addrs().into_iter().flatten();
    // The first few: each may take a second.
    let Some(mut stream) = addresses.take(3).find_map(|address| TcpStream::connect_timeout(&address, STEP).ok()) else {
        return Listener::Nothing;
    };
    let mut answer = [0; 9];
    let asked = stream
        .set_read_timeout(Some(STEP))
        .and_then(|()| stream.set_write_timeout(Some(STEP)))
        .and_then(|()| stream.write_all(HELLO))
        .and_then(|()| stream.read(&mut answer));
    match (asked, answer) {
        // A TLS record: an alert, or a handshake.
        (Ok(1..), [0x15 | 0x16, 3, ..]) => Listener::Tls,
        // A frame with settings, the first thing that an HTTP/2 server says.
        (Ok(9..), [_, _, _, 4, ..]) => Listener::Plain,
        (Ok(_) | Err(_), _) => Listener::Other,
    }
}

/// Whether the other side ended the connection, by the words of the libraries.
fn was_closed(message: &str) -> bool {
    ["connection closed", "broken pipe", "connection reset", "Connection reset", "Broken pipe"]
        .iter()
        .any(|words| message.contains(words))
}

fn shown(file: &Path) -> String {
    text::printable(&file.display().to_string())
}
