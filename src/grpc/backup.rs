//! `Backup`: makes a copy of the store on disk, streams it, and removes it.
//!
//! One task makes and sends the copy. It holds the permit and the copy's directory until it ends, even if the client
//! disconnects, so there is at most one copy on the disk.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::{FutureExt, StreamExt, future};
use tempfile::TempDir;
use tokio::{
    fs::File,
    io::AsyncReadExt,
    sync::{
        mpsc::{self, error::SendTimeoutError},
        oneshot,
    },
};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    domain::time::Span,
    private_files, proto,
    store::{Store, StoreError},
};

use super::{
    caller::AuthenticatedCaller,
    handler_context::HandlerContext,
    problem::Problem,
    streams::{ResponseStream, StreamEnd, StreamPermit},
};

/// Size of a chunk: far below clients' message limits, and large enough to read at the disk's speed.
const CHUNK_BYTES: usize = 1024 * 1024;
/// Chunks read ahead of the client.
const CHUNKS_AHEAD: usize = 2;
/// How long a client may leave a chunk unread. The copy takes disk space, and the only permit.
const STALLED_AFTER: Duration = Duration::from_secs(60);
/// Prefix of the copies' directories; those that a crash left behind are found by it.
const DIRECTORY_PREFIX: &str = "backup-in-progress-";
/// When a client should retry after that.
const STALLED_RETRY: Span = Span::from_secs(1);
/// When a client should retry after the disk was full.
const FULL_RETRY: Span = Span::from_secs(60);

/// Makes a copy and sends it to a caller.
pub(super) fn stream(
    (context, caller): (HandlerContext, AuthenticatedCaller),
    store: Store,
    directory: PathBuf,
    permit: StreamPermit,
    early: StreamEnd,
) -> ResponseStream<proto::BackupResponse> {
    let (pieces, answers) = mpsc::channel(CHUNKS_AHEAD);
    // The result has its own channel, so that a full channel of chunks can't make a broken copy look complete.
    let (end, ended) = oneshot::channel();
    let cut = early.clone();
    tokio::spawn(async move {
        let outcome = tokio::select! {
            outcome = make_and_send(store, directory, pieces) => outcome,
            () = early.clone().wait() => Err(early.reason().unwrap_or_else(|| StoreError::ShuttingDown.into())),
        };
        if let Err(problem) = &outcome {
            context.log_refused(&caller, "Backup", "", problem);
        }
        // A client that has disconnected needs no reason.
        let _ = end.send(outcome);
        drop(permit);
    });
    let pieces = cut.until_end(ReceiverStream::new(answers));
    let last = ended.map(move |outcome| match outcome {
        // Everything was sent, but a client that had not read it all lost the rest when the stream was ended early.
        Ok(Ok(())) => cut.reason().map(|why| Err(why.into())),
        Ok(Err(problem)) => Some(Err(problem.into())),
        Err(_) => Some(Err(Problem::from(StoreError::Unavailable("the backup ended early".into())).into())),
    });
    Box::pin(pieces.map(Ok).chain(last.into_stream().filter_map(future::ready)))
}

async fn make_and_send(
    store: Store,
    directory: PathBuf,
    pieces: mpsc::Sender<proto::BackupResponse>,
) -> Result<(), Problem> {
    let directory = in_background(move || make_directory(&directory)).await?;
    let path = directory.path().join("copy");
    let revision = store.backup(path.clone()).await?;
    let mut copy = File::open(&path).await.map_err(broken)?;
    let total = copy.metadata().await.map_err(broken)?.len();
    let mut sent = 0;
    while sent < total {
        let chunk = read_chunk(&mut copy).await.map_err(broken)?;
        if chunk.is_empty() {
            return Err(broken(io::ErrorKind::UnexpectedEof.into()));
        }
        sent += chunk.len() as u64;
        let piece =
            proto::BackupResponse { chunk, total_bytes: total.try_into().unwrap_or(i64::MAX), revision: revision.0 };
        match pieces.send_timeout(piece, STALLED_AFTER).await {
            Ok(()) => {}
            Err(SendTimeoutError::Timeout(_)) => {
                return Err(Problem::overloaded("the copy was not read for too long: begin again", STALLED_RETRY));
            }
            Err(SendTimeoutError::Closed(_)) => break,
        }
    }
    drop(copy);
    in_background(move || directory.close()).await
}

/// Creates a directory for a copy, and removes those that a crash left behind. There is one backup at a time and one
/// coordinator per data directory, so they belong to nobody else.
fn make_directory(parent: &Path) -> io::Result<TempDir> {
    for entry in std::fs::read_dir(parent)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(DIRECTORY_PREFIX) {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    private_files::temporary_directory(parent, DIRECTORY_PREFIX)
}

/// Reads a full chunk, or what is left.
async fn read_chunk(copy: &mut File) -> io::Result<Bytes> {
    let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
    while chunk.len() < CHUNK_BYTES {
        let room = CHUNK_BYTES - chunk.len();
        if (&mut *copy).take(room as u64).read_buf(&mut chunk).await? == 0 {
            break;
        }
    }
    Ok(chunk.freeze())
}

async fn in_background<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(broken),
        Err(gone) => Err(broken(io::Error::other(gone))),
    }
}

fn broken(error: io::Error) -> Problem {
    if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        return StoreError::Full { retry_after: FULL_RETRY }.into();
    }
    StoreError::Unavailable(format!("the copy could not be made: {error}")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_left_by_a_crash_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let left = parent.path().join(format!("{DIRECTORY_PREFIX}x"));
        std::fs::create_dir(&left).unwrap();
        std::fs::write(left.join("copy"), b"half").unwrap();
        std::fs::write(parent.path().join("sagad.db"), b"store").unwrap();
        let made = make_directory(parent.path()).unwrap();
        assert!(!left.exists() && made.path().exists() && parent.path().join("sagad.db").exists());
    }

    #[tokio::test]
    async fn a_file_is_read_in_full_chunks() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("copy");
        std::fs::write(&path, vec![7; CHUNK_BYTES + 5]).unwrap();
        let mut copy = File::open(&path).await.unwrap();
        let mut lengths = Vec::new();
        for _ in 0..3 {
            lengths.push(read_chunk(&mut copy).await.unwrap().len());
        }
        assert_eq!(lengths, [CHUNK_BYTES, 5, 0]);
    }

    #[test]
    fn a_full_disk_is_reported_as_such() {
        assert_eq!(broken(io::ErrorKind::StorageFull.into()).reason, "STORE_FULL");
        assert_eq!(broken(io::ErrorKind::NotFound.into()).reason, "STORE_UNAVAILABLE");
    }
}
