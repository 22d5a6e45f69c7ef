//! The files that say who may connect and call: named here, read where they are used.

use std::path::PathBuf;

use super::{ConfigError, sources::EffectiveSettings};

/// Who may connect and call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Security {
    /// TLS is spoken; else plain HTTP/2.
    pub tls: Option<TlsFiles>,
    /// Who may call, and what; none: everybody, everything.
    pub principals: Option<PathBuf>,
    /// Clients may ask what rpcs there are.
    pub reflection: bool,
}

/// PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, and those between it and its CA.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The CAs of clients, each of which then needs a certificate.
    pub client_ca: Option<PathBuf>,
    /// The lists of certificates that those CAs revoked.
    pub client_crl: Option<PathBuf>,
}

impl Default for Security {
    fn default() -> Self {
        Security { tls: None, principals: None, reflection: true }
    }
}

impl Security {
    /// Reads the files' names. Adds an error for each that makes no sense without another.
    pub(super) fn read(settings: &EffectiveSettings, errors: &mut Vec<ConfigError>) -> Self {
        let file = |key| settings.get::<Option<PathBuf>>(key);
        let (cert, key) = (file("tls_cert"), file("tls_key"));
        let (client_ca, client_crl) = (file("tls_client_ca"), file("tls_client_crl"));
        let mut needs = |given: &str, missing| {
            if let Some(origin) = settings.origin(given) {
                errors.push(ConfigError::Incomplete { origin, missing });
            }
            None
        };
        if client_ca.is_none() && client_crl.is_some() {
            needs("tls_client_crl", "tls_client_ca");
        }
        let tls = match (cert, key, client_ca) {
            (Some(cert), Some(key), client_ca) => Some(TlsFiles { cert, key, client_ca, client_crl }),
            (Some(_), None, _) => needs("tls_cert", "tls_key"),
            (None, Some(_), _) => needs("tls_key", "tls_cert"),
            (None, None, Some(_)) => needs("tls_client_ca", "tls_cert"),
            (None, None, None) => None,
        };
        Security { tls, principals: file("principals"), reflection: settings.get("reflection") }
    }

    /// What other machines should not reach the port without, and what follows from that.
    pub(super) fn missing(&self) -> Option<&'static str> {
        match (&self.tls, &self.principals) {
            (Some(_), Some(_)) => None,
            (None, None) => Some(
                "both are missing (tls_cert and tls_key, principals): everyone could read, claim and cancel every saga",
            ),
            (None, Some(_)) => {
                Some("TLS is missing (tls_cert and tls_key): whoever is on the way could read the tokens, and use them")
            }
            (Some(_), None) => {
                Some("principals are missing (principals): everyone could read, claim and cancel every saga")
            }
        }
    }
}
