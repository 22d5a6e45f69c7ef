//! The work: a report, written line by line into a directory of its own. Nothing in here knows of a coordinator but for
//! the question, before each effect, whether it may still be done.

use std::{
    fs,
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use sha2::{Digest, Sha256};

/// The compensation that removes the directory.
pub const REMOVE_DIR: &str = "remove-dir";

/// The file in the directory that holds the `task_id` of the saga whose directory it is.
const MARK: &str = ".sagad";

/// What the payload asks for.
pub struct Order {
    /// The directory to be made.
    pub directory: PathBuf,
    /// The lines.
    pub lines: Vec<String>,
    /// The pause before each.
    pub pause: Duration,
}

impl Order {
    /// Reads a payload, or says what is wrong with it.
    pub fn parse(payload: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(payload).map_err(|error| format!("bad payload: {error}"))?;
        let wrong = |what: &str| format!("bad payload: {what}");
        let directory = value["dir"].as_str().map(PathBuf::from).filter(|path| path.is_absolute());
        let lines = value["lines"].as_array().ok_or_else(|| wrong("lines is not a list"))?;
        let lines = lines.iter().map(|line| line.as_str().map(str::to_owned)).collect::<Option<_>>();
        let pause_ms = match &value["pause_ms"] {
            Value::Null => Some(0),
            number => number.as_u64(),
        };
        Ok(Order {
            directory: directory.ok_or_else(|| wrong("dir is not an absolute path"))?,
            lines: lines.ok_or_else(|| wrong("lines holds what is no text"))?,
            pause: pause_ms.map(Duration::from_millis).ok_or_else(|| wrong("pause_ms is not a length"))?,
        })
    }
}

/// A report being written.
pub struct Report {
    file: fs::File,
    digest: Sha256,
    written: usize,
}

impl Report {
    /// Makes the directory, or goes on in the one that this task has made before, and begins the report anew.
    pub fn begin(directory: &Path, task_id: &str) -> Result<Self, String> {
        let told = |error: io::Error| format!("{}: {error}", directory.display());
        match fs::create_dir(directory) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && is_own(directory, task_id) => {}
            Err(error) => return Err(told(error)),
            Ok(()) => fs::write(directory.join(MARK), task_id).map_err(told)?,
        }
        let file = fs::File::create(directory.join("report.txt")).map_err(told)?;
        Ok(Report { file, digest: Sha256::new(), written: 0 })
    }

    /// Writes one line; returns its number.
    pub fn write(&mut self, line: &str) -> io::Result<usize> {
        let text = line.to_uppercase();
        let whole = format!("{} {} {text}\n", self.written + 1, hex(Sha256::digest(&text).as_slice()));
        self.file.write_all(whole.as_bytes())?;
        self.digest.update(&whole);
        self.written += 1;
        Ok(self.written)
    }

    /// The digest of all that was written.
    pub fn digest(self) -> String {
        hex(self.digest.finalize().as_slice())
    }
}

/// Undoes the work: removes the directory, if it is there and this task's.
pub fn remove(directory: &Path, task_id: &str) -> Result<(), String> {
    let told = |error: io::Error| format!("{}: {error}", directory.display());
    if !directory.exists() {
        return Ok(());
    }
    if !is_own(directory, task_id) {
        return Err(format!("{} is not this task's", directory.display()));
    }
    // The mark goes last: an undo that is broken off can be taken up again.
    for entry in fs::read_dir(directory).map_err(told)? {
        let entry = entry.map_err(told)?;
        if entry.file_name() == MARK {
            continue;
        }
        let is_dir = entry.file_type().map_err(told)?.is_dir();
        let removed = if is_dir { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) };
        removed.map_err(told)?;
    }
    fs::remove_file(directory.join(MARK)).and_then(|()| fs::remove_dir(directory)).map_err(told)
}

fn is_own(directory: &Path, task_id: &str) -> bool {
    fs::read_to_string(directory.join(MARK)).is_ok_and(|owner| owner == task_id)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
