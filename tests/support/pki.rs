//! Certificates of a CA that is made for one test.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    RevokedCertParams, SanType, SerialNumber,
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

/// A CA.
pub struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM.
pub struct CertAndKey {
    pub cert: String,
    pub key: String,
    /// The certificate's number.
    pub serial: u64,
}

impl Ca {
    pub fn new() -> Self {
        Ca::named("a CA of a test")
    }

    pub fn named(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        Ca { pem, issuer: Issuer::new(params, key) }
    }

    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// For 127.0.0.1.
    pub fn server(&self) -> CertAndKey {
        self.sign(CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap())
    }

    /// For 127.0.0.1, until the first day of a year.
    pub fn server_until(&self, year: i32) -> CertAndKey {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(year - 1, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        self.sign(params)
    }

    /// For 127.0.0.1, valid for so many days.
    #[allow(clippy::disallowed_methods, reason = "a certificate that is about to run out begins now")]
    pub fn server_for_days(&self, days: u64) -> CertAndKey {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.not_after = (std::time::SystemTime::now() + std::time::Duration::from_secs(days * 24 * 3600)).into();
        self.sign(params)
    }

    /// For a client with this common name and, if not empty, this URI.
    pub fn client(&self, name: &str, uri: &str) -> CertAndKey {
        self.sign(client(name, &[], uri))
    }

    /// For a client with this common name, these hosts and, if not empty, this URI.
    pub fn client_with(&self, name: &str, hosts: &[&str], uri: &str) -> CertAndKey {
        self.sign(client(name, hosts, uri))
    }

    /// For a CA with this name, made larger by so many bytes.
    #[allow(dead_code, reason = "for clients that show too many")]
    pub fn intermediate(&self, name: &str, larger_by: usize) -> String {
        let mut params = client(name, &[], "");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        if larger_by > 0 {
            let unknown = rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![0; larger_by]);
            params.custom_extensions.push(unknown);
        }
        self.sign(params).cert
    }

    /// For a client with this common name, valid for this time.
    #[allow(clippy::disallowed_methods, reason = "a certificate that is about to run out begins now")]
    pub fn client_for(&self, name: &str, time: std::time::Duration) -> CertAndKey {
        let mut params = client(name, &[], "");
        params.not_after = (std::time::SystemTime::now() + time).into();
        self.sign(params)
    }

    /// Its certificate revocation list, as PEM, valid until the first day of a year.
    pub fn revokes(&self, revoked: &[&CertAndKey], until_year: i32) -> String {
        self.numbered_list(1, revoked, until_year)
    }

    /// The same with this CRL number: the list with the higher one is newer.
    pub fn numbered_list(&self, number: u64, revoked: &[&CertAndKey], until_year: i32) -> String {
        let revoked_certs = revoked.iter().map(|pair| RevokedCertParams {
            serial_number: SerialNumber::from(pair.serial),
            revocation_time: rcgen::date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2024, 1, 1),
            next_update: rcgen::date_time_ymd(until_year, 1, 1),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    fn sign(&self, mut params: CertificateParams) -> CertAndKey {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let serial = NEXT.fetch_add(1, Ordering::Relaxed);
        params.serial_number = Some(SerialNumber::from(serial));
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap().pem();
        CertAndKey { cert, key: key.serialize_pem(), serial }
    }
}

fn client(name: &str, hosts: &[&str], uri: &str) -> CertificateParams {
    let mut params = CertificateParams::new(hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    if !uri.is_empty() {
        params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
    }
    params
}

impl CertAndKey {
    /// Writes it as `NAME.crt` and `NAME.key`.
    pub fn write(&self, directory: &Path, name: &str) {
        fs::write(directory.join(format!("{name}.crt")), &self.cert).unwrap();
        let key = directory.join(format!("{name}.key"));
        fs::write(&key, &self.key).unwrap();
        fs::set_permissions(key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
}

/// An endpoint over TLS that trusts this CA, with or without a client certificate.
pub fn endpoint(address: SocketAddr, ca: &Ca, own: Option<&CertAndKey>) -> Endpoint {
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca.pem()));
    if let Some(own) = own {
        tls = tls.identity(Identity::from_pem(&own.cert, &own.key));
    }
    Endpoint::from_shared(format!("https://{address}")).unwrap().tls_config(tls).unwrap()
}

/// A connection over TLS that trusts this CA, with or without a client certificate.
pub async fn connect(
    address: SocketAddr,
    ca: &Ca,
    own: Option<&CertAndKey>,
) -> Result<Channel, tonic::transport::Error> {
    endpoint(address, ca, own).connect().await
}
