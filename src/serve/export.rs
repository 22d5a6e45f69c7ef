//! Where purged sagas are written first: a file for each day, synced before anything is purged.
//!
//! A line is there whole or not at all: what a failure or a crash left of one is cut off before the next is written, and
//! the sagas of a line that was cut off have not been purged.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crate::domain::time::Timestamp;

/// From how many bytes on a day has another file: 256 MiB, so that each can be looked through with what is at hand.
const FILE_BYTES: u64 = 256 << 20;
/// How much of a file's end is looked at at a time for the end of its last whole line.
const LOOK_BYTES: u64 = 64 << 10;

/// A directory of exported sagas.
pub(super) struct Export {
    directory: PathBuf,
    file_bytes: u64,
}

impl Export {
    pub(super) fn into(directory: &Path) -> Self {
        Export { directory: directory.to_owned(), file_bytes: FILE_BYTES }
    }

    /// Appends lines to the file of the day that `now` lies in, and syncs it. Blocks.
    ///
    /// # Errors
    /// Nothing of these lines counts as written. The directory is not made: where it is missing, another file system may
    /// be meant to be there.
    pub(super) fn append(&self, lines: &str, now: Timestamp) -> io::Result<()> {
        let mut file = self.open(now)?;
        let end = whole_lines(&mut file)?;
        file.set_len(end)?;
        file.seek(SeekFrom::Start(end))?;
        let written = file.write_all(lines.as_bytes()).and_then(|()| file.sync_all());
        if let Err(error) = written {
            // If that fails, too, the next look for whole lines does it.
            let _ = file.set_len(end);
            return Err(error);
        }
        // Each time: an earlier one may have made the file and failed before it came to this.
        File::open(&self.directory)?.sync_all()
    }

    /// The day's newest file, or the next if that is full.
    fn open(&self, now: Timestamp) -> io::Result<File> {
        let day = now.to_string().chars().take_while(|c| *c != 'T').collect::<String>();
        for number in 1.. {
            let path = self.directory.join(match number {
                1 => format!("sagad-{day}.jsonl"),
                more => format!("sagad-{day}.{more}.jsonl"),
            });
            let size = match path.symlink_metadata() {
                Ok(found) if found.is_file() => Some(found.len()),
                Ok(_) => return Err(io::Error::other(format!("{} is not a file", path.display()))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
            if size.is_none_or(|size| size < self.file_bytes) {
                let mut options = OpenOptions::new();
                options.read(true).write(true).create(true).truncate(false).mode(0o600);
                return options.open(&path);
            }
        }
        Err(io::Error::other("there are too many files"))
    }
}

/// How many bytes of a file are whole lines.
fn whole_lines(file: &mut File) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    while end > 0 {
        let begin = end.saturating_sub(LOOK_BYTES);
        let mut bytes = vec![0; (end - begin) as usize];
        file.seek(SeekFrom::Start(begin))?;
        file.read_exact(&mut bytes)?;
        if let Some(at) = bytes.iter().rposition(|byte| *byte == b'\n') {
            return Ok(begin + at as u64 + 1);
        }
        end = begin;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const DAY: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

    #[test]
    fn lines_are_whole_and_files_bounded_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let export = Export { file_bytes: 10, ..Export::into(dir.path()) };
        let first = dir.path().join("sagad-2027-01-15.jsonl");
        let text = |path: &Path| std::fs::read_to_string(path).unwrap();
        export.append("one\n", DAY).unwrap();
        assert_eq!(first.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        // What a crash leaves.
        OpenOptions::new().append(true).open(&first).unwrap().write_all(b"tw").unwrap();
        export.append("three\n", DAY).unwrap();
        assert_eq!(text(&first), "one\nthree\n");
        export.append("four\n", DAY).unwrap();
        assert_eq!(text(&first), "one\nthree\n");
        assert_eq!(text(&dir.path().join("sagad-2027-01-15.2.jsonl")), "four\n");
        std::fs::remove_dir_all(dir.path()).unwrap();
        assert!(export.append("five\n", DAY).is_err() && !dir.path().exists(), "it is not made");
    }

    #[test]
    fn the_end_of_a_long_last_line_is_found() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"one\n").unwrap();
        file.write_all(&vec![b'x'; 3 * LOOK_BYTES as usize]).unwrap();
        assert_eq!(whole_lines(&mut file).unwrap(), 4);
        file.set_len(3).unwrap();
        assert_eq!(whole_lines(&mut file).unwrap(), 0);
    }
}
