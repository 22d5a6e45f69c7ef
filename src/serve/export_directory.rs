//! [`ExportDirectory`]: where sagas are written before they are purged: JSON lines in one file per day, synced before the
//! purge.
//!
//! A line is complete or not there: what a failure or a crash left of a line is cut off before the next is written, and the
//! saga of a line that was cut off has not been purged.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use crate::{domain::time::Timestamp, private_files};

/// At this size a day's next file begins: 256 MiB, so that common tools can read each.
const FILE_BYTES: u64 = 256 << 20;
/// Bytes that are read at a time, from the end of the file backwards, to find the end of its last complete line.
const SCAN_BYTES: u64 = 64 << 10;

/// A part of a line is written to the file from this size on.
const FLUSH_BYTES: usize = 256 << 10;

/// The directory of exported sagas (setting `retention_export`).
pub(super) struct ExportDirectory {
    directory: PathBuf,
    file_bytes: u64,
}

impl ExportDirectory {
    pub(super) fn new(directory: &Path) -> Self {
        ExportDirectory { directory: directory.to_owned(), file_bytes: FILE_BYTES }
    }

    /// Begins to append lines to the file of the day of `now`. Blocks.
    ///
    /// # Errors
    /// The file can't be opened. A missing directory is not created: another file system may be meant to be mounted there.
    pub(super) fn begin(&self, now: Timestamp) -> io::Result<ExportBatch> {
        let mut file = self.open(now)?;
        let end = complete_lines_end(&mut file)?;
        file.set_len(end)?;
        file.seek(SeekFrom::Start(end))?;
        let directory = self.directory.clone();
        Ok(ExportBatch {
            file,
            directory,
            start: end,
            complete: end,
            written: end,
            buffer: Vec::new(),
            committed: false,
            peak: 0,
        })
    }

    /// Opens the day's newest file, or the next one if that is full.
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

/// Lines that are being appended. Dropping this without [`ExportBatch::commit`] removes them from the file.
pub(super) struct ExportBatch {
    file: File,
    directory: PathBuf,
    /// File offsets: where this batch starts, where its last complete line ends, and where the written part ends.
    start: u64,
    complete: u64,
    written: u64,
    /// What follows the written part.
    buffer: Vec<u8>,
    committed: bool,
    /// The largest size of the buffer; tests check it.
    peak: usize,
}

impl ExportBatch {
    /// Adds a part of a line.
    pub(super) fn push(&mut self, part: &str) {
        self.buffer.extend_from_slice(part.as_bytes());
        self.peak = self.peak.max(self.buffer.len());
    }

    /// Completes a line.
    pub(super) fn end_line(&mut self) {
        self.push("\n");
        self.complete = self.end();
    }

    /// Removes the line that is not complete. Blocks.
    pub(super) fn discard_line(&mut self) -> io::Result<()> {
        if let Some(complete) = self.complete.checked_sub(self.written) {
            self.buffer.truncate(complete as usize);
            return Ok(());
        }
        self.buffer.clear();
        self.file.set_len(self.complete)?;
        self.written = self.file.seek(SeekFrom::Start(self.complete))?;
        Ok(())
    }

    /// Bytes of this batch.
    pub(super) fn bytes(&self) -> u64 {
        self.end() - self.start
    }

    /// Whether the buffer is large enough to be written.
    pub(super) fn is_large(&self) -> bool {
        self.buffer.len() >= FLUSH_BYTES
    }

    /// Writes the buffer to the file. Blocks.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.buffer)?;
        self.written = self.end();
        self.buffer.clear();
        Ok(())
    }

    /// Writes and syncs the batch. Blocks.
    ///
    /// # Errors
    /// The batch does not count as written: none of its sagas may be purged.
    pub(super) fn commit(mut self) -> io::Result<()> {
        self.flush()?;
        self.file.sync_all()?;
        // Each time, because an earlier batch may have created the file and failed before it synced the directory.
        private_files::sync_directory(&self.directory)?;
        self.committed = true;
        Ok(())
    }

    /// The largest number of bytes that were in memory.
    #[cfg(test)]
    pub(super) fn peak(&self) -> usize {
        self.peak
    }

    fn end(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }
}

impl Drop for ExportBatch {
    fn drop(&mut self) {
        if !self.committed {
            // If this fails, these sagas are exported again: they have not been purged.
            let _ = self.file.set_len(self.start);
        }
    }
}

/// The offset at which the last complete line of a file ends.
fn complete_lines_end(file: &mut File) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    while end > 0 {
        let begin = end.saturating_sub(SCAN_BYTES);
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

    impl ExportDirectory {
        fn append(&self, lines: &str, now: Timestamp) -> io::Result<()> {
            let mut added = self.begin(now)?;
            for line in lines.lines() {
                added.push(line);
                added.end_line();
            }
            added.commit()
        }
    }

    #[test]
    fn an_abandoned_line_leaves_nothing_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let export = ExportDirectory::new(dir.path());
        let path = dir.path().join("sagad-2027-01-15.jsonl");
        let mut lines = export.begin(DAY).unwrap();
        for (line, written, cut) in
            [("one", true, false), ("two", false, true), ("three", true, true), ("four", false, false)]
        {
            lines.push(line);
            if written {
                lines.flush().unwrap();
            }
            if cut {
                lines.discard_line().unwrap();
            } else {
                lines.end_line();
            }
        }
        assert_eq!(lines.bytes(), 9);
        lines.commit().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\nfour\n");
        let mut lines = export.begin(DAY).unwrap();
        lines.push("five");
        lines.end_line();
        lines.flush().unwrap();
        drop(lines);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\nfour\n");
    }

    const DAY: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

    #[test]
    fn lines_are_complete_and_files_are_limited_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let export = ExportDirectory { file_bytes: 10, ..ExportDirectory::new(dir.path()) };
        let first = dir.path().join("sagad-2027-01-15.jsonl");
        let text = |path: &Path| std::fs::read_to_string(path).unwrap();
        export.append("one\n", DAY).unwrap();
        assert_eq!(first.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        // As a crash leaves it.
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
        file.write_all(&vec![b'x'; 3 * SCAN_BYTES as usize]).unwrap();
        assert_eq!(complete_lines_end(&mut file).unwrap(), 4);
        file.set_len(3).unwrap();
        assert_eq!(complete_lines_end(&mut file).unwrap(), 0);
    }
}
