//! The paths of the files that decide who may connect and call. The files are read where they are used.

use std::path::PathBuf;

use super::{ConfigError, setting, source::Sources, value};

/// Who may connect and call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Security {
    /// The TLS files; `None`: plain HTTP/2.
    pub tls: Option<TlsFiles>,
    /// The file of principals; `None`: every client may make every call.
    pub principals: Option<PathBuf>,
    /// Whether gRPC reflection is served.
    pub reflection: bool,
}

/// PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, followed by the intermediate ones.
    pub cert: PathBuf,
    /// The private key of that certificate.
    pub key: PathBuf,
    /// The CAs of client certificates; if set, every client needs a certificate.
    pub client_ca: Option<PathBuf>,
    /// The revocation lists (CRLs) of those CAs.
    pub client_crl: Option<PathBuf>,
}

impl Default for Security {
    fn default() -> Self {
        Security { tls: None, principals: None, reflection: true }
    }
}

impl Security {
    pub(super) fn read(sources: &Sources<'_>) -> Result<Self, ConfigError> {
        let file = |key| sources.read(key, None, value::file, setting::file);
        let (cert, key, client_ca) = (file("tls_cert")?, file("tls_key")?, file("tls_client_ca")?);
        let client_crl = file("tls_client_crl")?;
        let needs = |given: &str, missing| match sources.origin(given) {
            Some(origin) => Err(ConfigError::Incomplete { origin, missing }),
            None => Ok(None::<TlsFiles>),
        };
        if client_ca.is_none() && client_crl.is_some() {
            needs("tls_client_crl", "tls_client_ca")?;
        }
        let tls = match (cert, key, client_ca) {
            (Some(cert), Some(key), client_ca) => Some(TlsFiles { cert, key, client_ca, client_crl }),
            (Some(_), None, _) => needs("tls_cert", "tls_key")?,
            (None, Some(_), _) => needs("tls_key", "tls_cert")?,
            (None, None, Some(_)) => needs("tls_client_ca", "tls_cert")?,
            (None, None, None) => None,
        };
        let principals = file("principals")?;
        let reflection = sources.read("reflection", true, value::flag, setting::flag)?;
        Ok(Security { tls, principals, reflection })
    }

    /// Describes which protection is missing for a port that other machines can reach, and the consequence.
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
