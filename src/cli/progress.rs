//! The file by which a command of `sagad work` says how far it is: looked at now and then, and sent with heartbeats and with the
//! report when its content has changed.

use std::{convert::Infallible, path::PathBuf, time::Duration};

use bytes::Bytes;
use tokio::{fs::File, io::AsyncReadExt};

use super::{output::notice, text::printable};
use crate::{client::LeaseKeeper, domain::bounds::BLOB_BYTES};

/// How often the file is looked at: twice in a heartbeat's interval, so that each heartbeat has what is new, but within these.
const LOOK_MIN: Duration = Duration::from_millis(50);
const LOOK_MAX: Duration = Duration::from_secs(1);

/// A look takes no longer: a file system that hangs must not hold up a report.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

/// A command's file.
#[derive(Debug)]
pub struct ProgressFile {
    path: PathBuf,
    /// What it held when it was looked at last.
    known: Bytes,
    /// The size that was too large, and that people have been told of.
    refused: Option<u64>,
}

impl ProgressFile {
    /// The file at `path`, which holds `known` now.
    pub fn new(path: PathBuf, known: Bytes) -> Self {
        ProgressFile { path, known, refused: None }
    }

    /// Checks the file repeatedly; never returns.
    pub async fn follow(&mut self, lease: &LeaseKeeper, interval: Duration) -> Infallible {
        loop {
            tokio::time::sleep((interval / 2).clamp(LOOK_MIN, LOOK_MAX)).await;
            self.check(lease).await;
        }
    }

    /// Checks the file once, and hands new content to the lease.
    pub async fn check(&mut self, lease: &LeaseKeeper) {
        // A file that can't be read says nothing new.
        let Ok(Ok(content)) = tokio::time::timeout(LOOK_TIMEOUT, read(&self.path)).await else { return };
        match content {
            Content::Fits(content) if content != self.known => {
                self.known = content.clone();
                self.refused = None;
                lease.set_progress(content);
            }
            Content::Fits(_) => self.refused = None,
            Content::TooLarge(size) if self.refused != Some(size) => {
                self.refused = Some(size);
                let task_id = printable(&lease.key().task_id);
                notice(&format!(
                    "the progress of {task_id} was not sent: it has {size} bytes, and {BLOB_BYTES} are allowed"
                ));
            }
            Content::TooLarge(_) => {}
        }
    }
}

enum Content {
    Fits(Bytes),
    TooLarge(u64),
}

async fn read(path: &PathBuf) -> std::io::Result<Content> {
    // To open a pipe that somebody has put there would wait for its writer.
    let found = tokio::fs::metadata(path).await?;
    if !found.is_file() {
        return Err(std::io::Error::other("no file"));
    }
    let limit = u64::try_from(BLOB_BYTES).unwrap_or(u64::MAX);
    let mut content = Vec::new();
    // It may grow between the two.
    File::open(path).await?.take(limit + 1).read_to_end(&mut content).await?;
    if content.len() > BLOB_BYTES {
        Ok(Content::TooLarge(found.len().max(limit + 1)))
    } else {
        Ok(Content::Fits(content.into()))
    }
}
