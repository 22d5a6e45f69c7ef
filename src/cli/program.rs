//! Where the program of a command is, as `execvp` would find it: looked up before anything is claimed, so that a command that
//! can't be run costs no saga.

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use rustix::fs::{Access, access};

use crate::mutants::{self, Mutant};

/// Where programs are looked for without `PATH`: what `execvp` of glibc does.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// Finds a program: a path that contains `/` as it is, any other name in the directories of `PATH`. Or says why it can't be run.
pub fn find(program: &str) -> Result<PathBuf, String> {
    find_in(program, &env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into()))
}

fn find_in(program: &str, path: &OsStr) -> Result<PathBuf, String> {
    if program.is_empty() {
        return Err("the command is empty".to_owned());
    }
    if program.contains('/') {
        let path = PathBuf::from(program);
        return match why_not_executable(&path) {
            None => Ok(path),
            Some(why) => Err(format!("can't run {program}: {why}")),
        };
    }
    let mut reason = None;
    for directory in env::split_paths(path) {
        // An empty entry of PATH is the directory that we are in.
        let directory = if directory.as_os_str().is_empty() { PathBuf::from(".") } else { directory };
        let candidate = directory.join(program);
        match why_not_executable(&candidate) {
            None => return Ok(candidate),
            Some(why) if fs::metadata(&candidate).is_ok() => {
                reason.get_or_insert_with(|| format!("{} {why}", candidate.display()));
            }
            Some(_) => {}
        }
    }
    let reason = reason.unwrap_or_else(|| "no directory of PATH has a program of that name".to_owned());
    Err(format!("can't run {program}: {reason}"))
}

/// Why a file can't be run; `None` when it can, as far as its name and its mode tell.
fn why_not_executable(path: &Path) -> Option<String> {
    if mutants::on(Mutant::ClaimsWithoutProgram) {
        return None;
    }
    match fs::metadata(path) {
        Err(error) => Some(format!("{error}")),
        Ok(found) if found.is_dir() => Some("is a directory".to_owned()),
        Ok(_) => access(path, Access::EXEC_OK).err().map(|_| "is not executable".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn programs_are_found_by_path_or_in_the_search_path() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = |name: &str, mode| {
            let path = directory.path().join(name);
            fs::write(&path, "#!/bin/sh\n").expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("ours");
            path
        };
        let (good, bad) = (file("good", 0o755), file("bad", 0o644));
        fs::create_dir(directory.path().join("sub")).expect("made");
        let path = env::join_paths(["/nowhere".into(), directory.path().to_owned(), "/bin".into()]).expect("a path");
        let found = |program: &str| find_in(program, &path);
        assert_eq!(found("good"), Ok(good.clone()));
        assert_eq!(found(good.to_str().expect("text")), Ok(good));
        assert_eq!(found("sh"), Ok("/bin/sh".into()));
        let error = |program: &str| found(program).expect_err("it can't be run");
        assert_eq!(error("bad"), format!("can't run bad: {} is not executable", bad.display()));
        assert!(error(bad.to_str().expect("text")).ends_with("bad: is not executable"));
        assert!(error("sub").ends_with("sub is a directory"));
        assert_eq!(error("no-such"), "can't run no-such: no directory of PATH has a program of that name");
        assert_eq!(error("/no/such"), "can't run /no/such: No such file or directory (os error 2)");
        assert_eq!(error(""), "the command is empty");
    }
}
