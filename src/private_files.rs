//! Creates every file and directory that sagad writes (a test over the sources checks this). They are accessible to
//! their owner only, whatever the umask; symbolic links are never followed; and a new file gets its name only when it
//! is complete and synced.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::{fs::OFlags, io::Errno, process::geteuid};
use tempfile::{NamedTempFile, TempDir};

/// Accessible to the owner only.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;
/// For manual pages: readable by everyone, minus the umask.
const PUBLIC_FILE_MODE: u32 = 0o644;

/// Creates a directory and its missing parents. An existing one is not changed.
pub fn create_directories(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path)
}

/// Creates a directory that everybody may read, minus the umask, and its missing parents.
pub fn create_public_directories(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).create(path)
}

/// Creates a file for reading and writing. Fails if the name exists, even as a dangling link.
pub fn create_new(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(FILE_MODE).custom_flags(OFlags::NOFOLLOW.bits() as i32);
    options.open(path)
}

/// Opens or creates a file for reading and writing. Its content is kept.
///
/// # Errors
/// The name is a symbolic link or not a file; the file has another hard link; or it belongs to somebody other than
/// this process's user, root, and the owner of its directory, so that a stranger created it.
pub fn open_or_create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
    // A FIFO opened for reading too doesn't wait for its other end, and is refused below.
    options.custom_flags((OFlags::NOFOLLOW | OFlags::NOCTTY).bits() as i32);
    let refused = |what: &str| Err(io::Error::other(format!("{} {what}", path.display())));
    let file = match options.open(path) {
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            return refused("is a symbolic link, which is not followed");
        }
        opened => opened?,
    };
    let found = file.metadata()?;
    if !found.is_file() {
        return refused("is not a file");
    }
    if found.nlink() > 1 {
        return refused("is a hard link: the file has another name as well");
    }
    let directory = fs::metadata(directory_of(path))?.uid();
    if ![geteuid().as_raw(), 0, directory].contains(&found.uid()) {
        return refused(&format!("belongs to another user ({})", found.uid()));
    }
    Ok(file)
}

/// Removes all access but the owner's, if this process may.
pub fn make_private(file: &File) {
    let is_open = |mode: u32| mode & 0o077 != 0;
    if file.metadata().is_ok_and(|found| is_open(found.mode())) {
        // Fails if it is not ours, or the file system has no modes; the warning about the directory says what to do.
        let _ = file.set_permissions(Permissions::from_mode(FILE_MODE));
    }
}

/// A new directory with a random name, removed with its contents when this is dropped.
pub fn temporary_directory(parent: &Path, prefix: &str) -> io::Result<TempDir> {
    let mode = Permissions::from_mode(DIRECTORY_MODE);
    tempfile::Builder::new().prefix(prefix).permissions(mode).tempdir_in(parent)
}

/// A new file without a name, deleted when it is closed.
pub fn unnamed(directory: &Path) -> io::Result<File> {
    tempfile::tempfile_in(directory)
}

/// A file with a random name next to its final one. Unless it is [placed](NewFile::place), it is removed when this is
/// dropped.
pub struct NewFile {
    file: NamedTempFile,
    path: PathBuf,
}

impl NewFile {
    /// A new file whose final name is `path`.
    pub fn next_to(path: &Path) -> io::Result<Self> {
        Self::with_mode(path, FILE_MODE)
    }

    fn with_mode(path: &Path, mode: u32) -> io::Result<Self> {
        let mut prefix = OsString::from(path.file_name().unwrap_or_default());
        prefix.push(".");
        let mut named = tempfile::Builder::new();
        named.prefix(&prefix).suffix(".partial").permissions(Permissions::from_mode(mode));
        Ok(NewFile { file: named.tempfile_in(directory_of(path))?, path: path.to_owned() })
    }

    /// Its temporary name.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The file, to be written.
    pub fn file(&mut self) -> &mut File {
        self.file.as_file_mut()
    }

    /// Syncs the file, renames it and syncs the directory. An existing file of that name is replaced (a link is
    /// replaced, not its target) or, without `replace`, kept, and this fails with `AlreadyExists`.
    pub fn place(self, replace: bool) -> io::Result<()> {
        let NewFile { file, path } = self;
        file.as_file().sync_all()?;
        if replace {
            file.persist(&path)?;
        } else {
            match file.persist_noclobber(&path) {
                Ok(_) => {}
                // Some file systems can't rename without replacing; there a check before must do.
                Err(failed)
                    if failed.error.kind() != io::ErrorKind::AlreadyExists && path.symlink_metadata().is_err() =>
                {
                    failed.file.persist(&path)?;
                }
                Err(failed) => return Err(failed.error),
            }
        }
        sync_directory(directory_of(&path))
    }
}

/// Writes a file that everybody may read, replacing an existing one.
pub fn write_public(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = NewFile::with_mode(path, PUBLIC_FILE_MODE)?;
    file.file().write_all(content)?;
    // Not synced, since it can be generated again.
    file.file.persist(path)?;
    Ok(())
}

/// Syncs a file, renames it within its directory, and syncs the directory.
pub fn rename_synced(from: &Path, to: &Path) -> io::Result<()> {
    File::open(from)?.sync_all()?;
    fs::rename(from, to)?;
    sync_directory(directory_of(to))
}

/// Syncs a directory, so that created, renamed and removed files survive a power loss.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The directory that a file lies in.
pub fn directory_of(file: &Path) -> &Path {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Who else may access a directory or file: nobody, or a description of them.
pub fn others_with_access(path: &Path) -> Option<String> {
    let found = fs::metadata(path).ok()?;
    let (mode, group) = (found.mode() & 0o777, found.gid());
    if mode & 0o007 != 0 {
        Some(format!("every user of this machine (mode {mode:04o})"))
    // A service's own group usually has no other members, and container volumes belong to their group.
    } else if mode & 0o070 != 0 && group != rustix::process::getegid().as_raw() {
        Some(format!("the group {group} (mode {mode:04o})"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        path.symlink_metadata().unwrap().mode() & 0o777
    }

    #[test]
    fn an_existing_file_or_link_under_the_name_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (victim, path) = (dir.path().join("victim"), dir.path().join("file"));
        fs::write(&victim, "mine").unwrap();
        symlink(&victim, &path).unwrap();
        assert!(create_new(&path).is_err());
        assert!(open_or_create(&path).unwrap_err().to_string().ends_with("is a symbolic link, which is not followed"));
        fs::remove_file(&path).unwrap();
        symlink(dir.path().join("nowhere"), &path).unwrap();
        assert!(open_or_create(&path).is_err() && create_new(&path).is_err());
        fs::remove_file(&path).unwrap();
        fs::hard_link(&victim, &path).unwrap();
        assert!(open_or_create(&path).unwrap_err().to_string().contains("is a hard link"));
        fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(open_or_create(&path).unwrap_err().to_string().ends_with("is not a file"), "and it does not hang");
        fs::remove_file(&path).unwrap();
        fs::write(&path, "a stranger's").unwrap();
        // Root alone can give a file away.
        if std::os::unix::fs::chown(&path, Some(54_321), None).is_ok() {
            assert!(open_or_create(&path).unwrap_err().to_string().ends_with("belongs to another user (54321)"));
        }
        assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
        assert!(!dir.path().join("nowhere").exists());
    }

    #[test]
    fn a_file_gets_its_name_only_when_it_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let (victim, path) = (dir.path().join("victim"), dir.path().join("file"));
        fs::write(&victim, "mine").unwrap();
        symlink(&victim, &path).unwrap();
        let refused = NewFile::next_to(&path).unwrap().place(false).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        let mut file = NewFile::next_to(&path).unwrap();
        file.file().write_all(b"new").unwrap();
        assert_eq!(mode(file.path()), FILE_MODE);
        file.place(true).unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), mode(&path)), ("new", FILE_MODE));
        assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
        drop(NewFile::next_to(&path).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left of what was not placed");
    }

    #[test]
    fn a_file_that_others_may_read_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        create_directories(&path).unwrap();
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (DIRECTORY_MODE, DIRECTORY_MODE));
        assert_eq!(others_with_access(&path), None);
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        assert_eq!(others_with_access(&path).unwrap(), "every user of this machine (mode 0755)");
        fs::set_permissions(&path, Permissions::from_mode(0o750)).unwrap();
        assert_eq!(others_with_access(&path), None, "the group is this process's own");
    }
}
