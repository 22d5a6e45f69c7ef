//! [`LoadedSecurity`]: the security settings as loaded from their files.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::Notify;

use super::{
    authenticator::Authenticator,
    principal_table::PrincipalTable,
    principals_file,
    security_error::SecurityError,
    tls_config::{self, PemFiles},
};
use crate::{
    clock::Clock,
    config::{Config, Security},
    domain::time::{Span, Timestamp},
    grpc::Principals,
    listen::Tls,
};

/// Largest file of principals, in bytes: 1,000 entries with everything they may have.
const FILE_BYTES: u64 = 4 << 20;
/// How long before its expiry a certificate causes a warning.
const SOON: Span = Span::from_secs(30 * 24 * 3600);

/// The security settings as loaded from their files, and kept up to date by [`super::reload::reload_on_change`].
pub(in crate::serve) struct LoadedSecurity {
    /// None: calls need no credentials.
    pub(in crate::serve) authenticator: Option<Arc<Authenticator>>,
    /// None: connections are plain text.
    pub(in crate::serve) tls: Option<Tls>,
    /// Whether reflection is served.
    pub(in crate::serve) reflection: bool,
    /// Problems that don't keep the daemon from starting.
    pub(in crate::serve) warnings: Vec<String>,
    /// Notified when the files are to be read at once.
    pub(in crate::serve) reload: Arc<Notify>,
    /// Tells when certificates expire.
    pub(in crate::serve) clock: Arc<dyn Clock>,
    pub(super) files: Security,
    pub(super) contents: FileContents,
}

/// The contents of the files when they were last read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FileContents {
    pub(super) pems: Option<PemFiles>,
    pub(super) principals: Option<Vec<u8>>,
}

impl LoadedSecurity {
    /// Reads all files.
    ///
    /// # Errors
    /// The first file that can't be used.
    pub(in crate::serve) fn read(files: &Security, clock: &Arc<dyn Clock>) -> Result<Self, SecurityError> {
        let contents = FileContents { pems: read_pems(files)?, principals: read_principals(files)? };
        let mut warnings = permission_warnings(files);
        let tls = match (&files.tls, &contents.pems) {
            (Some(files), Some(pems)) => {
                let built = tls_config::build(files, pems, clock.utc())?;
                warnings.extend(built.warnings);
                warnings.extend(built.expiries.iter().filter_map(|(key, end)| expiry_warning(key, *end, clock.utc())));
                Some(Tls::new(built.config))
            }
            (None, _) | (_, None) => None,
        };
        let authenticator = match (&files.principals, &contents.principals) {
            (Some(file), Some(bytes)) => {
                let table = PrincipalTable::replacing(&PrincipalTable::default(), entries(file, bytes)?);
                Some(Arc::new(Authenticator::new(table, clock.clone())))
            }
            (None, _) | (_, None) => None,
        };
        let (reflection, reload) = (files.reflection, Arc::default());
        Ok(LoadedSecurity {
            authenticator,
            tls,
            reflection,
            warnings,
            reload,
            clock: clock.clone(),
            files: files.clone(),
            contents,
        })
    }

    pub(in crate::serve) fn principals(&self) -> Option<Arc<dyn Principals>> {
        self.authenticator.clone().map(|authenticator| authenticator as Arc<dyn Principals>)
    }
}

/// Reads the files that `sagad serve` would read, and returns warnings.
///
/// # Errors
/// The first file that can't be used, or whose certificate has expired: the daemon would start with such a certificate, but
/// no client would connect.
pub fn check(config: &Config, clock: &Arc<dyn Clock>) -> Result<Vec<String>, SecurityError> {
    let loaded = LoadedSecurity::read(&config.security, clock)?;
    let mut warnings = loaded.warnings;
    let now = clock.utc();
    if let (Some(files), Some(pems)) = (&config.security.tls, &loaded.contents.pems) {
        for (key, end) in tls_config::build(files, pems, now)?.expiries {
            if end <= now {
                let file = if key == "tls_cert" { Some(&files.cert) } else { files.client_ca.as_ref() };
                let problem = format!("holds a certificate that ran out at {}", crate::grpc::problem::rfc3339(end));
                return Err(SecurityError::new(key, file.unwrap_or(&files.cert), problem));
            }
        }
    }
    if let (Some(file), Some(bytes)) = (&config.security.principals, &loaded.contents.principals) {
        let over = entries(file, bytes)?.into_iter().filter(|entry| entry.not_after.is_some_and(|end| end <= now));
        warnings
            .extend(over.map(|entry| format!("principals: the not_after of `{}` has passed", entry.principal.name)));
    }
    Ok(warnings)
}

fn expiry_warning(key: &str, end: Timestamp, now: Timestamp) -> Option<String> {
    let when = crate::grpc::problem::rfc3339(end);
    if end <= now {
        Some(format!("{key}: the certificate ran out at {when}: clients refuse it"))
    } else if end < now.plus(SOON) {
        Some(format!("{key}: the certificate runs out at {when}"))
    } else {
        None
    }
}

/// Warnings about files that everyone on the machine can read or change.
pub(super) fn permission_warnings(files: &Security) -> Vec<String> {
    let mode = |file: &Path| std::fs::metadata(file).map_or(0, |about| about.permissions().mode());
    let mut warnings = Vec::new();
    let named = |key, file: &Option<PathBuf>| file.clone().map(|file| (key, file));
    let tls = files.tls.as_ref();
    if let Some(tls) = tls
        && mode(&tls.key) & 0o007 != 0
    {
        warnings.push(format!("tls_key: everyone on this machine can read {}: chmod o-rwx", tls.key.display()));
    }
    // Whoever can write one of these can give itself access, or impersonate the server.
    let all = [
        tls.map(|tls| ("tls_cert", tls.cert.clone())),
        tls.and_then(|tls| named("tls_client_ca", &tls.client_ca)),
        tls.and_then(|tls| named("tls_client_crl", &tls.client_crl)),
        named("principals", &files.principals),
    ];
    for (key, file) in all.into_iter().flatten() {
        if mode(&file) & 0o002 != 0 {
            warnings.push(format!("{key}: everyone on this machine can change {}: chmod 644", file.display()));
        }
    }
    warnings
}

pub(super) fn entries(file: &Path, bytes: &[u8]) -> Result<Vec<principals_file::PrincipalEntry>, SecurityError> {
    let wrong = |problem: String| SecurityError::new("principals", file, problem);
    let text = std::str::from_utf8(bytes).map_err(|_| wrong("is not UTF-8".to_owned()))?;
    principals_file::parse(text).map_err(|error| wrong(error.to_string()))
}

fn read_pems(files: &Security) -> Result<Option<PemFiles>, SecurityError> {
    let Some(tls) = &files.tls else { return Ok(None) };
    let client_ca = tls.client_ca.as_ref().map(|file| read("tls_client_ca", file)).transpose()?;
    let client_crl = tls.client_crl.as_ref().map(|file| read("tls_client_crl", file)).transpose()?;
    Ok(Some(PemFiles { cert: read("tls_cert", &tls.cert)?, key: read("tls_key", &tls.key)?, client_ca, client_crl }))
}

pub(super) fn read_principals(files: &Security) -> Result<Option<Vec<u8>>, SecurityError> {
    files.principals.as_ref().map(|file| read("principals", file)).transpose()
}

pub(super) fn read(key: &'static str, file: &Path) -> Result<Vec<u8>, SecurityError> {
    use std::io::Read;
    let unreadable = |error: std::io::Error| SecurityError::new(key, file, format!("can't be read: {error}"));
    let mut bytes = Vec::new();
    let open = std::fs::File::open(file).map_err(unreadable)?;
    open.take(FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES {
        return Err(SecurityError::new(key, file, format!("is over {FILE_BYTES} bytes long")));
    }
    Ok(bytes)
}
