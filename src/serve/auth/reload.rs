//! Reads the security files again when they change. Contents are compared, not times: Kubernetes swaps a directory of
//! links, and editors replace files. If a file is broken, what was read before stays in force; the error is logged once for
//! each content, and again every ten minutes until the file is mended. The other files are reloaded all the same: a broken
//! key must not keep a new revocation list out.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Notify, task, time::timeout};
use tracing::{error, info, warn};

use super::{
    authenticator::Authenticator,
    loaded_security::{FileContents, LoadedSecurity, entries, permission_warnings, read, read_principals},
    security_error::SecurityError,
    tls_config::{self, PemFiles},
};
use crate::{
    clock::Clock,
    config::Security,
    listen::{ClientCertificate, ConnectionState, Connections, Tls},
};

/// How often the files are checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Checks between two log lines for a file that is still broken: ten minutes.
const CHECKS_PER_REMINDER: u32 = 300;

/// Reloads the files whenever they change, and invalidates certificates of `connections` that are no longer accepted.
/// The future never ends.
pub(in crate::serve) fn reload_on_change(
    security: &LoadedSecurity,
    connections: Connections,
) -> impl Future<Output = ()> + Send + use<> {
    let reloader = Reloader {
        files: security.files.clone(),
        contents: security.contents.clone(),
        reported: BTreeMap::new(),
        authenticator: security.authenticator.clone(),
        tls: security.tls.clone(),
        clock: security.clock.clone(),
        connections,
    };
    reloader.run(security.reload.clone())
}

struct Reloader {
    files: Security,
    contents: FileContents,
    /// Broken files, by setting: the error that was logged, and how many checks ago.
    reported: BTreeMap<&'static str, (String, u32)>,
    authenticator: Option<Arc<Authenticator>>,
    tls: Option<Tls>,
    clock: Arc<dyn Clock>,
    connections: Connections,
}

impl Reloader {
    async fn run(mut self, reload: Arc<Notify>) {
        if self.authenticator.is_none() && self.tls.is_none() {
            loop {
                reload.notified().await;
                info!("SIGHUP: there is nothing to read anew");
            }
        }
        loop {
            let asked = timeout(CHECK_INTERVAL, reload.notified()).await.is_ok();
            // On a blocking thread: a file system that hangs must not hold up the accept loop.
            match task::spawn_blocking(move || {
                self.check_files(asked);
                self
            })
            .await
            {
                Ok(reloader) => self = reloader,
                Err(error) => return error!(%error, "certificates and principals are no longer reloaded"),
            }
        }
    }

    fn check_files(&mut self, asked: bool) {
        if asked {
            info!("SIGHUP: reading certificates and principals");
            self.reported.clear();
        }
        self.cut_invalidated();
        let mut errors = self.reload_certificates();
        errors.extend(self.reload_principals().err());
        self.report(&errors);
        if let Some(authenticator) = &self.authenticator {
            authenticator.revoke_expired();
        }
        self.invalidate_certificates(|_| None);
    }

    /// Cuts connections whose certificate was invalid at the last check. By now their streams have ended with an error, and
    /// their clients can connect again with a new certificate.
    fn cut_invalidated(&self) {
        let is_invalid = |connection: &ConnectionState| {
            connection.certificate().is_some_and(|shown| shown.invalidated().is_cancelled())
        };
        self.connections
            .live()
            .iter()
            .filter(|connection| is_invalid(connection))
            .for_each(|connection| connection.cut());
    }

    /// Invalidates certificates that have expired or that `reject_reason` names a reason against: calls are refused,
    /// streams end.
    fn invalidate_certificates(&self, reject_reason: impl Fn(&ClientCertificate) -> Option<String>) {
        let now = self.clock.utc().micros() / 1_000_000;
        for connection in self.connections.live() {
            let Some(shown) = connection.certificate() else { continue };
            let why = || {
                if shown.is_expired_at(now) {
                    Some("it has run out".to_owned())
                } else {
                    reject_reason(shown.certificate())
                }
            };
            if !shown.invalidated().is_cancelled()
                && let Some(why) = why()
            {
                info!(peer = %connection.peer(), why, "the certificate of a connection is no longer valid");
                shown.invalidate();
            }
        }
    }

    /// Loads the certificate with its key, the client CAs, and their revocation lists; each also without the others if one
    /// is broken. Returns the errors.
    fn reload_certificates(&mut self) -> Vec<SecurityError> {
        let (Some(tls), Some(files), Some(before)) = (&self.tls, &self.files.tls, &self.contents.pems) else {
            return Vec::new();
        };
        let now = self.clock.utc();
        let mut errors = Vec::new();
        let mut bytes = |key, file: &Path| read(key, file).map_err(|problem| errors.push(problem)).ok();
        let (cert, key) = (bytes("tls_cert", &files.cert), bytes("tls_key", &files.key));
        let mut bytes_or = |key, file: &Option<PathBuf>, before: &Option<Vec<u8>>| {
            file.as_ref().and_then(|file| bytes(key, file)).or_else(|| before.clone())
        };
        let client_ca = bytes_or("tls_client_ca", &files.client_ca, &before.client_ca);
        let client_crl = bytes_or("tls_client_crl", &files.client_crl, &before.client_crl);

        let mut next = before.clone();
        if let (Some(cert), Some(key)) = (cert, key)
            && (&cert, &key) != (&before.cert, &before.key)
        {
            let with_pair = PemFiles { cert, key, ..before.clone() };
            match tls_config::build(files, &with_pair, now) {
                Ok(_) => next = with_pair,
                Err(problem) => errors.push(problem),
            }
        }
        // A new revocation list may need the new CAs and vice versa, so both are tried together first. An error is reported
        // for a file only if its own content causes it: the list in force may not fit the CAs of a correct new file.
        let both = PemFiles { client_ca: client_ca.clone(), client_crl: client_crl.clone(), ..next.clone() };
        let trials = [
            (both, ["tls_client_ca", "tls_client_crl"].as_slice()),
            (PemFiles { client_crl, ..next.clone() }, &["tls_client_crl"]),
            (PemFiles { client_ca, ..next.clone() }, &["tls_client_ca"]),
        ];
        for (trial, named) in trials {
            if trial == next {
                continue;
            }
            match tls_config::build(files, &trial, now) {
                Ok(_) => {
                    next = trial;
                    break;
                }
                Err(problem) => {
                    if named.contains(&problem.key) && errors.iter().all(|other| other.key != problem.key) {
                        errors.push(problem);
                    }
                }
            }
        }
        if next == *before {
            return errors;
        }
        let built = match tls_config::build(files, &next, now) {
            Ok(built) => built,
            Err(problem) => {
                errors.push(problem);
                return errors;
            }
        };
        tls.replace(built.config);
        info!(cert = %files.cert.display(), "new connections get the new certificates");
        permission_warnings(&self.files).iter().chain(&built.warnings).for_each(|warning| warn!("{warning}"));
        let of_clients = |pems: &PemFiles| (pems.client_ca.clone(), pems.client_crl.clone());
        if let Some(verifier) = built.verifier.filter(|_| of_clients(&next) != of_clients(before)) {
            // Each open connection's certificate is verified as for a new connection: against the CAs and the revocation
            // lists.
            self.invalidate_certificates(|certificate| {
                Some(verifier.reject_reason(&certificate.chain, now)?.to_string())
            });
        }
        self.contents.pems = Some(next);
        errors
    }

    fn reload_principals(&mut self) -> Result<(), SecurityError> {
        let (Some(authenticator), Some(file)) = (&self.authenticator, &self.files.principals) else { return Ok(()) };
        let bytes = read_principals(&self.files)?;
        if bytes == self.contents.principals {
            return Ok(());
        }
        let Some(new) = &bytes else { return Ok(()) };
        let principals = authenticator.replace(entries(file, new)?);
        info!(principals, file = %file.display(), "the new principals are in force");
        self.contents.principals = bytes;
        Ok(())
    }

    /// Logs new errors, repeats old ones every ten minutes, and logs once when a file can be used again.
    fn report(&mut self, errors: &[SecurityError]) {
        self.reported.retain(|key, _| {
            let stays = errors.iter().any(|problem| problem.key == *key);
            if !stays {
                info!("{key}: it can be used again");
            }
            stays
        });
        for problem in errors {
            let text = problem.to_string();
            let reported = self.reported.entry(problem.key).or_default();
            reported.1 += 1;
            if reported.0 != text || reported.1 > CHECKS_PER_REMINDER {
                error!("{text}; what was read before stays in force");
                *reported = (text, 0);
            }
        }
    }
}
