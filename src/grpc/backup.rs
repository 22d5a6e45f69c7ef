//! `Backup`: a copy is made beside the store, then streamed, then removed.
//!
//! One task makes the copy and sends it. It holds the seat and the copy's directory until it is done, whatever the
//! client does meanwhile: so there is one copy on the disk at a time.

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
    caller::Visitor,
    desk::Desk,
    status::Problem,
    streams::{Answers, End, Seat},
};

/// Bytes of a piece: far below what clients accept, large enough to be read at the disk's pace.
const CHUNK_BYTES: usize = 1024 * 1024;
/// Pieces read ahead of the client.
const CHUNKS_AHEAD: usize = 2;
/// How long a client may leave a piece unread: the copy holds room on the disk, and the only seat.
const STALLED_AFTER: Duration = Duration::from_secs(60);
/// How the directories of copies begin, by which those that a crash left behind are found.
const DIRECTORY_PREFIX: &str = "backup-in-progress-";
/// When to try again after that.
const STALLED_RETRY: Span = Span::from_secs(1);
/// When to try again after the disk was full.
const FULL_RETRY: Span = Span::from_secs(60);

/// Makes and sends a copy to a caller.
pub(super) fn stream(
    (desk, caller): (Desk, Visitor),
    store: Store,
    directory: PathBuf,
    seat: Seat,
    early: End,
) -> Answers<proto::BackupResponse> {
    let (pieces, answers) = mpsc::channel(CHUNKS_AHEAD);
    // How it ended has its own way to the client, so that no full channel can make a broken copy look whole.
    let (end, ended) = oneshot::channel();
    let cut = early.clone();
    tokio::spawn(async move {
        let outcome = tokio::select! {
            outcome = make_and_send(store, directory, pieces) => outcome,
            () = early.clone().comes() => Err(early.why().unwrap_or_else(|| StoreError::ShuttingDown.into())),
        };
        if let Err(problem) = &outcome {
            desk.refused(&caller, "Backup", "", problem);
        }
        // A client that is gone needs no reason.
        let _ = end.send(outcome);
        drop(seat);
    });
    let pieces = cut.cuts(ReceiverStream::new(answers));
    let last = ended.map(move |outcome| match outcome {
        // All was sent, but what was not read by then is cut off.
        Ok(Ok(())) => cut.why().map(|why| Err(why.into())),
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

/// A new directory for a copy; what a crash left of earlier ones is removed. There is one backup at a time, and one
/// coordinator on a data directory, so nobody else's is.
fn make_directory(parent: &Path) -> io::Result<TempDir> {
    for entry in std::fs::read_dir(parent)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(DIRECTORY_PREFIX) {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    private_files::temporary_directory(parent, DIRECTORY_PREFIX)
}

/// Reads a whole piece, or what is left.
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
    fn what_a_crash_left_behind_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let left = parent.path().join(format!("{DIRECTORY_PREFIX}x"));
        std::fs::create_dir(&left).unwrap();
        std::fs::write(left.join("copy"), b"half").unwrap();
        std::fs::write(parent.path().join("sagad.db"), b"store").unwrap();
        let made = make_directory(parent.path()).unwrap();
        assert!(!left.exists() && made.path().exists() && parent.path().join("sagad.db").exists());
    }

    #[tokio::test]
    async fn a_file_is_read_in_whole_pieces() {
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
    fn a_full_disk_is_named() {
        assert_eq!(broken(io::ErrorKind::StorageFull.into()).reason, "STORE_FULL");
        assert_eq!(broken(io::ErrorKind::NotFound.into()).reason, "STORE_UNAVAILABLE");
    }
}
