//! PEM files to what TLS connections are made with.

use std::{path::Path, sync::Arc};

use tokio_rustls::rustls::{
    self, RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::SecurityError;
use crate::{config::TlsFiles, domain::time::Timestamp};

/// What gRPC is spoken over. (RFC 7540, section 3.3)
const ALPN: &[u8] = b"h2";

/// The files' bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pems {
    pub(super) cert: Vec<u8>,
    pub(super) key: Vec<u8>,
    pub(super) client_ca: Option<Vec<u8>>,
}

/// What they make.
pub(super) struct Made {
    pub(super) config: Arc<ServerConfig>,
    /// When the first certificate of each file runs out, with the setting that names it.
    pub(super) ends: Vec<(&'static str, Timestamp)>,
}

/// Makes it. Nothing of a file's content is in an error.
pub(super) fn make(files: &TlsFiles, pems: &Pems) -> Result<Made, SecurityError> {
    let wrong = |key, file: &Path, problem: String| SecurityError::new(key, file, problem);
    let chain = certificates(&pems.cert).map_err(|problem| wrong("tls_cert", &files.cert, problem))?;
    let key = PrivateKeyDer::from_pem_slice(&pems.key)
        .map_err(|_| wrong("tls_key", &files.key, "holds no private key in PEM that can be read".to_owned()))?;
    let mut ends = vec![("tls_cert", end(&chain).map_err(|problem| wrong("tls_cert", &files.cert, problem))?)];
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| wrong("tls_cert", &files.cert, error.to_string()))?;
    let builder = match (&files.client_ca, &pems.client_ca) {
        (Some(file), Some(pem)) => {
            let wrong = |problem| wrong("tls_client_ca", file, problem);
            let cas = certificates(pem).map_err(wrong)?;
            ends.push(("tls_client_ca", end(&cas).map_err(wrong)?));
            let mut roots = RootCertStore::empty();
            for ca in cas {
                roots.add(ca).map_err(|error| wrong(format!("holds what is no certificate of a CA: {error}")))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| wrong(error.to_string()))?)
        }
        (None, _) | (_, None) => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            wrong("tls_key", &files.key, format!("is not the key of the certificate in {}", files.cert.display()))
        }
        error => wrong("tls_key", &files.key, format!("can't be used: {error}")),
    })?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Made { config: Arc::new(config), ends })
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) | Err(_) => Err("holds no certificate in PEM that can be read".to_owned()),
    }
}

/// When the first certificate runs out: the server's own stands before those between it and its CA.
fn end(chain: &[CertificateDer<'_>]) -> Result<Timestamp, String> {
    let first = chain.first().and_then(|first| X509Certificate::from_der(first).ok());
    let (_, first) = first.ok_or_else(|| "holds a certificate that can't be read".to_owned())?;
    Ok(Timestamp::from_micros(first.validity().not_after.timestamp().saturating_mul(1_000_000)))
}
