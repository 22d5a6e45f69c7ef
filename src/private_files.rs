//! Every file and directory that sagad writes is made here (a test over the sources holds that). They are for their owner
//! alone, whatever the umask is; a link that somebody put in the way is never followed; and a file that is not there yet
//! gets its name only when it is whole and synced.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::{fs::OFlags, io::Errno, process::geteuid};
use tempfile::{NamedTempFile, TempDir};

/// For the owner alone.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;
/// What is meant for everyone, less the umask: manual pages.
const PUBLIC_FILE_MODE: u32 = 0o644;

/// Makes a directory and what is missing above it. One that is there stays as it is.
pub fn create_directories(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path)
}

/// Makes a directory that everybody may look into, less the umask, and what is missing above it.
pub fn create_public_directories(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).create(path)
}

/// Makes a file, to be read and written. Fails if anything has the name, even a link that leads nowhere.
pub fn create_new(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(FILE_MODE).custom_flags(OFlags::NOFOLLOW.bits() as i32);
    options.open(path)
}

/// Opens a file to be read and written, or makes it. What is in it stays.
///
/// # Errors
/// The name is that of a symbolic link or no file; the file has a second name somewhere; or it belongs to somebody other
/// than this process's user, root, and the owner of its directory, so that it was put there by a stranger.
pub fn open_or_create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
    // Opened for reading too, a FIFO does not wait for its other end, and is refused below.
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

/// Takes a file from everybody but its owner, if it is this process's to change.
pub fn make_private(file: &File) {
    let is_open = |mode: u32| mode & 0o077 != 0;
    if file.metadata().is_ok_and(|found| is_open(found.mode())) {
        // Not ours, or on a file system without modes: the warning about the directory says what to do.
        let _ = file.set_permissions(Permissions::from_mode(FILE_MODE));
    }
}

/// A new directory with a random name, removed with all that is in it when this is dropped.
pub fn temporary_directory(parent: &Path, prefix: &str) -> io::Result<TempDir> {
    let mode = Permissions::from_mode(DIRECTORY_MODE);
    tempfile::Builder::new().prefix(prefix).permissions(mode).tempdir_in(parent)
}

/// A new file without a name, which goes when it is closed.
pub fn unnamed(directory: &Path) -> io::Result<File> {
    tempfile::tempfile_in(directory)
}

/// A file under a random name beside the one that it is to have. Unless it is [placed](NewFile::place), it is removed when
/// this is dropped.
pub struct NewFile {
    file: NamedTempFile,
    path: PathBuf,
}

impl NewFile {
    /// A new file that is to be called `path`.
    pub fn beside(path: &Path) -> io::Result<Self> {
        Self::with_mode(path, FILE_MODE)
    }

    fn with_mode(path: &Path, mode: u32) -> io::Result<Self> {
        let mut prefix = OsString::from(path.file_name().unwrap_or_default());
        prefix.push(".");
        let mut named = tempfile::Builder::new();
        named.prefix(&prefix).suffix(".partial").permissions(Permissions::from_mode(mode));
        Ok(NewFile { file: named.tempfile_in(directory_of(path))?, path: path.to_owned() })
    }

    /// The name that it has for now.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The file, to be written.
    pub fn file(&mut self) -> &mut File {
        self.file.as_file_mut()
    }

    /// Syncs it, gives it its name and syncs the directory. What has the name by then is replaced (a link is, too, and what
    /// it leads to stays) or, without `replace`, stays, and this fails with `AlreadyExists`.
    pub fn place(self, replace: bool) -> io::Result<()> {
        let NewFile { file, path } = self;
        file.as_file().sync_all()?;
        if replace {
            file.persist(&path)?;
        } else {
            match file.persist_noclobber(&path) {
                Ok(_) => {}
                // Some file systems can't rename without replacing: there a look has to do.
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

/// Writes a file that everybody may read, and replaces what has the name.
pub fn write_public(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = NewFile::with_mode(path, PUBLIC_FILE_MODE)?;
    file.file().write_all(content)?;
    // Not synced: it can be made again.
    file.file.persist(path)?;
    Ok(())
}

/// Syncs a file, gives it another name in its directory, and syncs that.
pub fn rename_synced(from: &Path, to: &Path) -> io::Result<()> {
    File::open(from)?.sync_all()?;
    fs::rename(from, to)?;
    sync_directory(directory_of(to))
}

/// Makes what was made, named or removed in a directory outlast a loss of power.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The directory that a file lies in.
pub fn directory_of(file: &Path) -> &Path {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Who else may look into a directory or a file: nobody, or a description of them.
pub fn others_with_access(path: &Path) -> Option<String> {
    let found = fs::metadata(path).ok()?;
    let (mode, group) = (found.mode() & 0o777, found.gid());
    if mode & 0o007 != 0 {
        Some(format!("every user of this machine (mode {mode:04o})"))
    // A service's own group has nobody else in it, as a rule, and volumes of containers are given to their group.
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
    fn a_name_that_somebody_else_prepared_is_refused() {
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
    fn a_file_has_its_name_only_when_it_is_placed() {
        let dir = tempfile::tempdir().unwrap();
        let (victim, path) = (dir.path().join("victim"), dir.path().join("file"));
        fs::write(&victim, "mine").unwrap();
        symlink(&victim, &path).unwrap();
        let refused = NewFile::beside(&path).unwrap().place(false).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        let mut file = NewFile::beside(&path).unwrap();
        file.file().write_all(b"new").unwrap();
        assert_eq!(mode(file.path()), FILE_MODE);
        file.place(true).unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), mode(&path)), ("new", FILE_MODE));
        assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
        drop(NewFile::beside(&path).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left of what was not placed");
    }

    #[test]
    fn what_others_may_read_is_told() {
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
