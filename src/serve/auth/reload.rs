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
    Loaded, Security, SecurityError, Seen, entries,
    guard::Guard,
    read, read_principals,
    tls::{self, Pems},
};
use crate::{
    clock::Clock,
    listen::{ClientCertificate, ConnectionState, Connections, Tls},
};

/// How often the files are checked.
const LOOK: Duration = Duration::from_secs(2);
/// Checks between two log lines for a file that is still broken: ten minutes.
const LOOKS_PER_REMINDER: u32 = 300;

impl Loaded {
    /// Reloads the files whenever they change, and invalidates certificates of `connections` that are no longer accepted.
    /// The future never ends.
    pub(in crate::serve) fn keep_fresh(&self, connections: Connections) -> impl Future<Output = ()> + Send + use<> {
        let keeper = Keeper {
            files: self.files.clone(),
            seen: self.seen.clone(),
            told: BTreeMap::new(),
            guard: self.guard.clone(),
            tls: self.tls.clone(),
            clock: self.clock.clone(),
            connections,
        };
        keeper.run(self.again.clone())
    }
}

struct Keeper {
    files: Security,
    seen: Seen,
    /// Broken files, by setting: the error that was logged, and how many checks ago.
    told: BTreeMap<&'static str, (String, u32)>,
    guard: Option<Arc<Guard>>,
    tls: Option<Tls>,
    clock: Arc<dyn Clock>,
    connections: Connections,
}

impl Keeper {
    async fn run(mut self, again: Arc<Notify>) {
        if self.guard.is_none() && self.tls.is_none() {
            loop {
                again.notified().await;
                info!("SIGHUP: there is nothing to read anew");
            }
        }
        loop {
            let asked = timeout(LOOK, again.notified()).await.is_ok();
            // On a blocking thread: a file system that hangs must not hold up the accept loop.
            match task::spawn_blocking(move || {
                self.look(asked);
                self
            })
            .await
            {
                Ok(keeper) => self = keeper,
                Err(error) => return error!(%error, "certificates and principals are not read anew any more"),
            }
        }
    }

    fn look(&mut self, asked: bool) {
        if asked {
            info!("SIGHUP: reading certificates and principals");
            self.told.clear();
        }
        self.cut_those_that_ended();
        let mut broken = self.look_at_certificates();
        broken.extend(self.look_at_principals().err());
        self.tell(&broken);
        if let Some(guard) = &self.guard {
            guard.expire();
        }
        self.look_at_connections(|_| None);
    }

    /// Cuts connections whose certificate was invalid at the last check. By now their streams have ended with an error, and
    /// their clients can connect again with a new certificate.
    fn cut_those_that_ended(&self) {
        let has_ended = |connection: &ConnectionState| {
            connection.certificate().is_some_and(|shown| shown.invalidated().is_cancelled())
        };
        self.connections
            .live()
            .iter()
            .filter(|connection| has_ended(connection))
            .for_each(|connection| connection.cut());
    }

    /// Invalidates certificates that have expired or that `reject_reason` names a reason against: calls are refused,
    /// streams end.
    fn look_at_connections(&self, refused: impl Fn(&ClientCertificate) -> Option<String>) {
        let now = self.clock.utc().micros() / 1_000_000;
        for connection in self.connections.live() {
            let Some(shown) = connection.certificate() else { continue };
            let why = || {
                if shown.is_expired_at(now) { Some("it has run out".to_owned()) } else { refused(shown.certificate()) }
            };
            if !shown.invalidated().is_cancelled()
                && let Some(why) = why()
            {
                info!(peer = %connection.peer(), why, "the certificate of a connection holds no more");
                shown.invalidate();
            }
        }
    }

    /// Loads the certificate with its key, the client CAs, and their revocation lists; each also without the others if one
    /// is broken. Returns the errors.
    fn look_at_certificates(&mut self) -> Vec<SecurityError> {
        let (Some(tls), Some(files), Some(before)) = (&self.tls, &self.files.tls, &self.seen.pems) else {
            return Vec::new();
        };
        let now = self.clock.utc();
        let mut broken = Vec::new();
        let mut bytes = |key, file: &Path| read(key, file).map_err(|problem| broken.push(problem)).ok();
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
            let with_pair = Pems { cert, key, ..before.clone() };
            match tls::make(files, &with_pair, now) {
                Ok(_) => next = with_pair,
                Err(problem) => broken.push(problem),
            }
        }
        // A new revocation list may need the new CAs and vice versa, so both are tried together first. An error is reported
        // for a file only if its own content causes it: the list in force may not fit the CAs of a correct new file.
        let both = Pems { client_ca: client_ca.clone(), client_crl: client_crl.clone(), ..next.clone() };
        let trials = [
            (both, ["tls_client_ca", "tls_client_crl"].as_slice()),
            (Pems { client_crl, ..next.clone() }, &["tls_client_crl"]),
            (Pems { client_ca, ..next.clone() }, &["tls_client_ca"]),
        ];
        for (trial, named) in trials {
            if trial == next {
                continue;
            }
            match tls::make(files, &trial, now) {
                Ok(_) => {
                    next = trial;
                    break;
                }
                Err(problem) => {
                    if named.contains(&problem.key) && broken.iter().all(|other| other.key != problem.key) {
                        broken.push(problem);
                    }
                }
            }
        }
        if next == *before {
            return broken;
        }
        let made = match tls::make(files, &next, now) {
            Ok(made) => made,
            Err(problem) => {
                broken.push(problem);
                return broken;
            }
        };
        tls.replace(made.config);
        info!(cert = %files.cert.display(), "new connections get the new certificates");
        super::open_files(&self.files).iter().chain(&made.warnings).for_each(|warning| warn!("{warning}"));
        let of_clients = |pems: &Pems| (pems.client_ca.clone(), pems.client_crl.clone());
        if let Some(verifier) = made.verifier.filter(|_| of_clients(&next) != of_clients(before)) {
            // Each open connection's certificate is verified as for a new connection: against the CAs and the revocation
            // lists.
            self.look_at_connections(|certificate| Some(verifier.refuses(&certificate.chain, now)?.to_string()));
        }
        self.seen.pems = Some(next);
        broken
    }

    fn look_at_principals(&mut self) -> Result<(), SecurityError> {
        let (Some(guard), Some(file)) = (&self.guard, &self.files.principals) else { return Ok(()) };
        let bytes = read_principals(&self.files)?;
        if bytes == self.seen.principals {
            return Ok(());
        }
        let Some(new) = &bytes else { return Ok(()) };
        let principals = guard.replace(entries(file, new)?);
        info!(principals, file = %file.display(), "the new principals are in force");
        self.seen.principals = bytes;
        Ok(())
    }

    /// Logs new errors, repeats old ones every ten minutes, and logs once when a file can be used again.
    fn tell(&mut self, broken: &[SecurityError]) {
        self.told.retain(|key, _| {
            let stays = broken.iter().any(|problem| problem.key == *key);
            if !stays {
                info!("{key}: it can be used again");
            }
            stays
        });
        for problem in broken {
            let text = problem.to_string();
            let told = self.told.entry(problem.key).or_default();
            told.1 += 1;
            if told.0 != text || told.1 > LOOKS_PER_REMINDER {
                error!("{text}; what was read before stays in force");
                *told = (text, 0);
            }
        }
    }
}
