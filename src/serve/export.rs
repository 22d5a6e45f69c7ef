//! Where purged sagas are written first: a file for each day, synced before anything is purged.
//!
//! A line is there whole or not at all: what a failure or a crash left of one is cut off before the next is written, and
//! the sagas of a line that was cut off have not been purged.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use crate::{domain::time::Timestamp, private_files};

/// From how many bytes on a day has another file: 256 MiB, so that each can be looked through with what is at hand.
const FILE_BYTES: u64 = 256 << 20;
/// How much of a file's end is looked at at a time for the end of its last whole line.
const LOOK_BYTES: u64 = 64 << 10;

/// From how many bytes on a part of a line is written before the rest of it is there.
const PIECE_BYTES: usize = 256 << 10;

/// A directory of exported sagas.
pub(super) struct Export {
    directory: PathBuf,
    file_bytes: u64,
}

impl Export {
    pub(super) fn into(directory: &Path) -> Self {
        Export { directory: directory.to_owned(), file_bytes: FILE_BYTES }
    }

    /// Begins to append lines to the file of the day that `now` lies in. Blocks.
    ///
    /// # Errors
    /// The directory is not made: where it is missing, another file system may be meant to be there.
    pub(super) fn begin(&self, now: Timestamp) -> io::Result<Lines> {
        let mut file = self.open(now)?;
        let end = whole_lines(&mut file)?;
        file.set_len(end)?;
        file.seek(SeekFrom::Start(end))?;
        let directory = self.directory.clone();
        Ok(Lines { file, directory, begun: end, whole: end, written: end, buffer: Vec::new(), kept: false, peak: 0 })
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
                return private_files::open_or_create(&path);
            }
        }
        Err(io::Error::other("there are too many files"))
    }
}

/// Lines that are being appended. Until they are kept, none of them counts as written.
pub(super) struct Lines {
    file: File,
    directory: PathBuf,
    /// Where they begin in the file, up to where they are whole, and up to where they have been written.
    begun: u64,
    whole: u64,
    written: u64,
    /// What follows what has been written.
    buffer: Vec<u8>,
    kept: bool,
    /// The most that was in the buffer.
    peak: usize,
}

impl Lines {
    /// Adds a part of a line.
    pub(super) fn push(&mut self, part: &str) {
        self.buffer.extend_from_slice(part.as_bytes());
        self.peak = self.peak.max(self.buffer.len());
    }

    /// Ends a line.
    pub(super) fn end_line(&mut self) {
        self.push("\n");
        self.whole = self.end();
    }

    /// Forgets what there is of a line that is not whole. Blocks.
    pub(super) fn cut(&mut self) -> io::Result<()> {
        if let Some(whole) = self.whole.checked_sub(self.written) {
            self.buffer.truncate(whole as usize);
            return Ok(());
        }
        self.buffer.clear();
        self.file.set_len(self.whole)?;
        self.written = self.file.seek(SeekFrom::Start(self.whole))?;
        Ok(())
    }

    /// How many bytes they have.
    pub(super) fn bytes(&self) -> u64 {
        self.end() - self.begun
    }

    /// Whether so much waits to be written that it should be now.
    pub(super) fn are_many(&self) -> bool {
        self.buffer.len() >= PIECE_BYTES
    }

    /// Writes what there is so far. Blocks.
    pub(super) fn write(&mut self) -> io::Result<()> {
        self.file.write_all(&self.buffer)?;
        self.written = self.end();
        self.buffer.clear();
        Ok(())
    }

    /// Writes and syncs them. Blocks.
    ///
    /// # Errors
    /// Nothing of them counts as written.
    pub(super) fn keep(mut self) -> io::Result<()> {
        self.write()?;
        self.file.sync_all()?;
        // Each time: an earlier one may have made the file and failed before it came to this.
        private_files::sync_directory(&self.directory)?;
        self.kept = true;
        Ok(())
    }

    /// The most that they held in memory.
    #[cfg(test)]
    pub(super) fn peak(&self) -> usize {
        self.peak
    }

    fn end(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if !self.kept {
            // If that fails, the sagas of these lines are written once more: they have not been purged.
            let _ = self.file.set_len(self.begun);
        }
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
    use std::{fs::OpenOptions, os::unix::fs::PermissionsExt};

    use super::*;

    impl Export {
        fn append(&self, lines: &str, now: Timestamp) -> io::Result<()> {
            let mut added = self.begin(now)?;
            for line in lines.lines() {
                added.push(line);
                added.end_line();
            }
            added.keep()
        }
    }

    #[test]
    fn a_line_that_is_given_up_or_not_kept_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let export = Export::into(dir.path());
        let path = dir.path().join("sagad-2027-01-15.jsonl");
        let mut lines = export.begin(DAY).unwrap();
        for (line, written, cut) in
            [("one", true, false), ("two", false, true), ("three", true, true), ("four", false, false)]
        {
            lines.push(line);
            if written {
                lines.write().unwrap();
            }
            if cut {
                lines.cut().unwrap();
            } else {
                lines.end_line();
            }
        }
        assert_eq!(lines.bytes(), 9);
        lines.keep().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\nfour\n");
        let mut lines = export.begin(DAY).unwrap();
        lines.push("five");
        lines.end_line();
        lines.write().unwrap();
        drop(lines);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\nfour\n");
    }

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
