//! Reading the files anew. Their content is compared, not their times: Kubernetes swaps a directory of links, and editors
//! replace files. A broken one is told once for each content, and what was in force stays.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Notify, task, time::timeout};
use tracing::{error, info, warn};

use super::{
    Loaded, Security, SecurityError, Seen, entries, guard::Guard, read_pems, read_principals, table::Table, tls,
};
use crate::listen::Tls;

/// How often they are looked at.
const LOOK: Duration = Duration::from_secs(2);

impl Loaded {
    /// Keeps what was loaded as it is in the files, for ever.
    pub(in crate::serve) fn keep_fresh(&self) -> impl Future<Output = ()> + Send + use<> {
        let keeper = Keeper {
            files: self.files.clone(),
            seen: self.seen.clone(),
            told: (String::new(), String::new()),
            guard: self.guard.clone(),
            tls: self.tls.clone(),
        };
        keeper.run(self.again.clone())
    }
}

struct Keeper {
    files: Security,
    seen: Seen,
    /// The last error of the certificates and of the principals.
    told: (String, String),
    guard: Option<Arc<Guard>>,
    tls: Option<Tls>,
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
            // A file system that does not answer must not hold up the accept loop.
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
            self.told = (String::new(), String::new());
        }
        let certificates = self.look_at_certificates();
        tell(certificates, &mut self.told.0);
        let principals = self.look_at_principals();
        tell(principals, &mut self.told.1);
        if let Some(guard) = &self.guard {
            guard.expire();
        }
    }

    fn look_at_certificates(&mut self) -> Result<(), SecurityError> {
        let (Some(tls), Some(files)) = (&self.tls, &self.files.tls) else { return Ok(()) };
        let pems = read_pems(&self.files)?;
        if pems == self.seen.pems {
            return Ok(());
        }
        let Some(new) = &pems else { return Ok(()) };
        tls.replace(tls::make(files, new)?.config);
        self.seen.pems = pems;
        info!(cert = %files.cert.display(), "new connections get the new certificates");
        super::open_files(&self.files).iter().for_each(|warning| warn!("{warning}"));
        Ok(())
    }

    fn look_at_principals(&mut self) -> Result<(), SecurityError> {
        let (Some(guard), Some(file)) = (&self.guard, &self.files.principals) else { return Ok(()) };
        let bytes = read_principals(&self.files)?;
        if bytes == self.seen.principals {
            return Ok(());
        }
        let Some(new) = &bytes else { return Ok(()) };
        let table = Table::succeeding(&guard.table(), entries(file, new)?);
        info!(principals = table.len(), file = %file.display(), "the new principals are in force");
        guard.replace(table);
        self.seen.principals = bytes;
        Ok(())
    }
}

/// Tells an error, unless it was the last one as well.
fn tell(outcome: Result<(), SecurityError>, told: &mut String) {
    match outcome {
        Ok(()) => told.clear(),
        Err(problem) => {
            let problem = problem.to_string();
            if *told != problem {
                error!("{problem}; what was read before stays in force");
                *told = problem;
            }
        }
    }
}
