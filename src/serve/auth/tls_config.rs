//! Builds the TLS configuration from PEM files.

use std::{cmp::Reverse, path::Path, sync::Arc, time::Duration};

use tokio_rustls::rustls::{
    self, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::ring,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::{
        NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    version::{TLS12, TLS13},
};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate, X509Error};

use super::security_error::SecurityError;
use crate::{config::TlsFiles, domain::time::Timestamp};

/// gRPC runs over HTTP/2. (RFC 7540, section 3.3)
const ALPN: &[u8] = b"h2";

/// The contents of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PemFiles {
    pub(super) cert: Vec<u8>,
    pub(super) key: Vec<u8>,
    pub(super) client_ca: Option<Vec<u8>>,
    pub(super) client_crl: Option<Vec<u8>>,
}

/// The configuration built from them.
pub(super) struct BuiltTlsConfig {
    pub(super) config: Arc<ServerConfig>,
    /// When the first certificate of each file expires, with the name of its setting.
    pub(super) expiries: Vec<(&'static str, Timestamp)>,
    /// Verifies client certificates, if they are required.
    pub(super) verifier: Option<ClientVerifier>,
    pub(super) warnings: Vec<String>,
}

/// Most CA certificates that a client may send with its own: as many as the TLS library accepts in a chain.
const INTERMEDIATES: usize = 6;
/// Most bytes of a client's chain: seven certificates with RSA keys of 4,096 bits. Each connection keeps its chain, so that
/// it can be verified again.
const CHAIN_BYTES: usize = 16 << 10;

/// Limits the size of a client's chain before any signature is verified. The verifier tries the certificates in any order,
/// up to a hundred signatures in one handshake, and any peer can cause that.
#[derive(Debug)]
struct ChainSizeCheck(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for ChainSizeCheck {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let bytes = end_entity.len() + intermediates.iter().map(|one| one.len()).sum::<usize>();
        if intermediates.len() > INTERMEDIATES || bytes > CHAIN_BYTES {
            let text = "what the client shows has too many certificates, or too large ones";
            return Err(rustls::Error::General(text.to_owned()));
        }
        self.0.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Verifies client certificates.
#[derive(Clone, Debug)]
pub(super) struct ClientVerifier(Arc<dyn ClientCertVerifier>);

impl ClientVerifier {
    /// Why a certificate that was accepted when its connection was made is no longer accepted; none if it still is.
    pub(super) fn reject_reason(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Option<rustls::Error> {
        let (first, others) = chain.split_first()?;
        let seconds = u64::try_from(now.micros() / 1_000_000).unwrap_or(0);
        let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        self.0.verify_client_cert(first, others, now).err()
    }
}

/// Builds the configuration. Errors contain nothing of the files' contents.
pub(super) fn build(files: &TlsFiles, pems: &PemFiles, now: Timestamp) -> Result<BuiltTlsConfig, SecurityError> {
    let wrong = |key, file: &Path, problem: String| SecurityError::new(key, file, problem);
    let chain = certificates(&pems.cert).map_err(|problem| wrong("tls_cert", &files.cert, problem))?;
    let key = PrivateKeyDer::from_pem_slice(&pems.key)
        .map_err(|_| wrong("tls_key", &files.key, "holds no private key in PEM that can be read".to_owned()))?;
    let mut expiries = vec![("tls_cert", expiry(&chain).map_err(|problem| wrong("tls_cert", &files.cert, problem))?)];
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| wrong("tls_cert", &files.cert, error.to_string()))?;
    let (mut verifier, mut warnings) = (None, Vec::new());
    let builder = match (&files.client_ca, &pems.client_ca) {
        (Some(file), Some(pem)) => {
            let wrong = |problem| wrong("tls_client_ca", file, problem);
            let cas = certificates(pem).map_err(wrong)?;
            expiries.push(("tls_client_ca", expiry(&cas).map_err(wrong)?));
            let crls = revocations(files, pems, &cas)?;
            warnings.extend(revocation_warnings(&cas, &crls, now));
            let mut roots = RootCertStore::empty();
            for ca in cas {
                if !may_sign_certificates(&ca) {
                    return Err(wrong("holds a certificate that is none of a CA: it may not sign others".to_owned()));
                }
                roots.add(ca).map_err(|error| wrong(format!("holds what is no certificate of a CA: {error}")))?;
            }
            // A revocation list that is overdue stays in force: refusing all clients because a list came late would stop
            // the work. Certificates whose CA has no list are refused, and so are those below a revoked CA.
            let built = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).with_crls(crls).build();
            let built = built.map_err(|error| match (error, &files.client_crl) {
                (VerifierBuilderError::InvalidCrl(error), Some(file)) => {
                    let what = "holds a list of revoked certificates that can't be used";
                    let needed = "it has to be of version 2 and to have a number";
                    SecurityError::new("tls_client_crl", file, format!("{what} ({error:?}): {needed}"))
                }
                (error, _) => wrong(error.to_string()),
            })?;
            let built = ClientVerifier(Arc::new(ChainSizeCheck(built)));
            verifier = Some(built.clone());
            builder.with_client_cert_verifier(built.0)
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
    if verifier.is_some() {
        // A resumed session skips the check of its certificate, which may have expired or been revoked since.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(BuiltTlsConfig { config: Arc::new(config), expiries, verifier, warnings })
}

/// Whether a certificate may sign others. If it may not and is used as a CA, its owner could issue client certificates.
fn may_sign_certificates(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    let may_sign = match certificate.key_usage() {
        Ok(usage) => usage.is_none_or(|usage| usage.value.key_cert_sign()),
        Err(_) => false,
    };
    may_sign && certificate.is_ca()
}

/// The revocation lists; none: no file is configured.
fn revocations(
    files: &TlsFiles,
    pems: &PemFiles,
    cas: &[CertificateDer<'_>],
) -> Result<Vec<CertificateRevocationListDer<'static>>, SecurityError> {
    let (Some(file), Some(pem)) = (&files.client_crl, &pems.client_crl) else { return Ok(Vec::new()) };
    let wrong = |problem: &str| SecurityError::new("tls_client_crl", file, problem);
    let all: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(pem).collect();
    let all = all.ok().filter(|all| !all.is_empty());
    let mut all = all.ok_or_else(|| wrong("holds no list of revoked certificates in PEM that can be read"))?;
    let cas: Vec<_> = cas.iter().filter_map(|ca| Some(X509Certificate::from_der(ca).ok()?.1)).collect();
    for one in &all {
        let (_, list) = CertificateRevocationList::from_der(one)
            .map_err(|_| wrong("holds a list of revoked certificates that can't be read"))?;
        // A forged list would have all clients of the CA refused.
        let mut signers = cas.iter().filter(|ca| ca.subject().as_raw() == list.issuer().as_raw()).peekable();
        let is_forged = |ca: &X509Certificate<'_>| {
            matches!(list.verify_signature(ca.public_key()), Err(X509Error::SignatureVerificationError))
        };
        if signers.peek().is_some() && signers.all(is_forged) {
            let name = list.issuer().to_string();
            return Err(wrong(&format!("holds a list of {} that this CA did not sign", name.escape_debug())));
        }
    }
    // If a CA has several lists the verifier uses the first, so the newest has to come first.
    all.sort_by_cached_key(|one| {
        let list = CertificateRevocationList::from_der(one).map(|(_, list)| list).ok();
        let number = list.as_ref().and_then(|list| Some(list.crl_number()?.clone()));
        Reverse((list.map(|list| list.last_update().timestamp()), number))
    });
    Ok(all)
}

/// Warnings about revocation lists that can be read but are missing or overdue.
fn revocation_warnings(
    cas: &[CertificateDer<'_>],
    crls: &[CertificateRevocationListDer<'_>],
    now: Timestamp,
) -> Vec<String> {
    let lists: Vec<_> = crls.iter().filter_map(|crl| CertificateRevocationList::from_der(crl).ok()).collect();
    if lists.is_empty() {
        return Vec::new();
    }
    let cas = cas.iter().filter_map(|ca| X509Certificate::from_der(ca).ok());
    let without = cas.filter(|(_, ca)| !lists.iter().any(|(_, list)| list.issuer().as_raw() == ca.subject().as_raw()));
    let without = without.map(|(_, ca)| {
        let name = ca.subject().to_string();
        format!("tls_client_crl: holds no list of the CA {}: its clients are refused", name.escape_debug())
    });
    let overdue = lists.iter().filter_map(|(_, list)| {
        let next = Timestamp::from_micros(list.next_update()?.timestamp().saturating_mul(1_000_000));
        let (name, when) = (list.issuer().to_string(), crate::grpc::problem::rfc3339(next));
        let text = "a newer one was due at";
        (next <= now).then(|| {
            format!(
                "tls_client_crl: the list of {} is out of date, {text} {when}; what it revokes stays revoked",
                name.escape_debug()
            )
        })
    });
    without.chain(overdue).collect()
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) | Err(_) => Err("holds no certificate in PEM that can be read".to_owned()),
    }
}

/// When the first certificate expires: in the server's file that is its own, before those of intermediate CAs.
fn expiry(chain: &[CertificateDer<'_>]) -> Result<Timestamp, String> {
    let first = chain.first().and_then(|first| X509Certificate::from_der(first).ok());
    let (_, first) = first.ok_or_else(|| "holds a certificate that can't be read".to_owned())?;
    Ok(Timestamp::from_micros(first.validity().not_after.timestamp().saturating_mul(1_000_000)))
}
