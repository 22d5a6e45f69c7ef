//! Checks and copies of a store whose daemon has ended.

use std::{fs, net::SocketAddr, path::Path};

use sagad::proto::BackupRequest;
use tonic::Status;

use super::{Api, binary, daemon};

/// Runs `sagad check` on a store; it has to find nothing wrong.
pub fn check(data: &Path) {
    let output = binary::run(&["check", "--data", data.to_str().unwrap()]);
    assert!(output.status.success(), "sagad check {}: {output:?}", data.display());
}

/// Copies a data directory without its lock.
pub fn copy_data(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() && entry.file_name() != "sagad.lock" {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// Reads a whole backup.
pub async fn backup(address: SocketAddr) -> Result<Vec<u8>, Status> {
    let mut admin = Api::new(daemon::connect(address).await).admin;
    let mut pieces = admin.backup(BackupRequest {}).await?.into_inner();
    let mut copy = Vec::new();
    while let Some(piece) = pieces.message().await? {
        copy.extend_from_slice(&piece.chunk);
    }
    Ok(copy)
}
