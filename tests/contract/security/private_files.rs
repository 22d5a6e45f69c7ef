//! Every file is for its owner alone, whatever the umask is, and no file is written through a link.

use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    os::unix::{
        fs::{MetadataExt, PermissionsExt, symlink},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use sagad::proto::CreateSagaRequest;

use crate::support::{Launch, SAGAD, claim, create, eventually, key};

/// Runs the binary with umask 0 and the test's directory for temporary files.
fn sagad(root: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new("sh");
    command.args(["-c", "umask 000; exec \"$0\" \"$@\"", SAGAD]).args(arguments).current_dir(root);
    command.env("TMPDIR", root.join("tmp")).env_remove("SAGAD_SERVER").stdin(Stdio::null()).output().unwrap()
}

fn done(output: Output) -> Output {
    assert!(output.status.success(), "{output:?}");
    output
}

/// Reads the modes of all files in a directory again and again, and keeps those it saw.
struct ModeObserver {
    over: Arc<AtomicBool>,
    seen: JoinHandle<BTreeMap<PathBuf, u32>>,
}

impl ModeObserver {
    fn at(root: &Path) -> Self {
        let (over, root) = (Arc::new(AtomicBool::new(false)), root.to_owned());
        let until = over.clone();
        let seen = thread::spawn(move || {
            let mut seen = BTreeMap::new();
            while !until.load(Ordering::Relaxed) {
                look(&root, &mut seen);
                thread::sleep(Duration::from_millis(1));
            }
            look(&root, &mut seen);
            seen
        });
        ModeObserver { over, seen }
    }

    fn end(self) -> BTreeMap<PathBuf, u32> {
        self.over.store(true, Ordering::Relaxed);
        self.seen.join().unwrap()
    }
}

fn look(directory: &Path, seen: &mut BTreeMap<PathBuf, u32>) {
    // A file that is gone by now was a temporary one.
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(found) = entry.path().symlink_metadata() else { continue };
        if found.is_symlink() {
            continue;
        }
        *seen.entry(entry.path()).or_default() |= found.mode() & 0o777;
        if found.is_dir() {
            look(&entry.path(), seen);
        }
    }
}

fn day() -> String {
    let output = Command::new("date").args(["-u", "+%Y-%m-%d"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_every_file_is_readable_by_its_owner_alone() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    for ours in ["tmp", "export", "copies"] {
        fs::create_dir(root.join(ours)).unwrap();
        fs::set_permissions(root.join(ours), Permissions::from_mode(0o777)).unwrap();
    }
    let looker = ModeObserver::at(root);
    let path = |name: &str| root.join(name).to_str().unwrap().to_owned();
    let mut launch =
        Launch::on(&root.join("new/data")).args(&["--retain-completed", "1s", "--retention-export", &path("export")]);
    launch.wrapper = ["sh", "-c", "umask 000; exec \"$0\" \"$@\""].map(Into::into).into();
    let mut daemon = launch.start();
    let api = daemon.api().await;
    for number in 0..60 {
        let task_id = format!("t-{number}");
        let request = CreateSagaRequest { payload: vec![b'x'; 64 << 10].into(), ..create(&task_id) };
        api.create_saga(request).await.unwrap();
    }
    let lease = key(&api.claim(claim("t-0", "w", 60_000)).await.unwrap());
    api.complete(lease.complete()).await.unwrap();
    let export = root.join(format!("export/sagad-{}.jsonl", day()));
    eventually("it is exported", || async { export.exists().then_some(()) }).await;
    let server = format!("http://{}", daemon.address());
    let copy = path("copies/copy.db");
    done(sagad(root, &["backup", &copy, "--server", &server]));
    let listing = "ls -la \"$(dirname \"$SAGAD_PAYLOAD_FILE\")\" >&2; sleep 0.1";
    api.create_saga(CreateSagaRequest { queue: "one".into(), ..create("w-1") }).await.unwrap();
    done(sagad(root, &["work", "--queue", "one", "--drain", "--server", &server, "--", "sh", "-c", listing]));
    daemon.terminate().await;
    done(sagad(root, &["restore", &copy, "--data", &path("new/restored")]));
    done(sagad(root, &["check", "--data", &path("new/restored")]));
    done(sagad(root, &["vacuum", "--data", &path("new/restored")]));
    done(sagad(root, &["token", "ci", "--out", &path("ci.token")]));
    let short = "bench --mode create --duration 300ms --warmup 50ms --clients 4 --connections 2 --dir";
    let bench: Vec<&str> = short.split(' ').chain([path("tmp").leak() as &str]).collect();
    // Its result does not matter: on a busy machine it may measure nothing.
    sagad(root, &bench);

    let seen = looker.end();
    let ours = ["tmp", "export", "copies"].map(|name| root.join(name));
    let wide = seen.iter().filter(|(path, mode)| **mode & 0o077 != 0 && !ours.contains(path));
    let wide: Vec<String> = wide.map(|(path, mode)| format!("{} {mode:04o}", path.display())).collect();
    assert_eq!(wide, [""; 0]);
    // Every kind of file was observed.
    for part in [
        "new/data/sagad.lock",
        "new/data/sagad.db",
        "new/data/sagad.db-wal",
        "new/data/sagad.db-shm",
        "/backup-in-progress-",
        "/copy",
        "copies/copy.db.",
        "copies/copy.db",
        "export/sagad-",
        "tmp/sagad-",
        "/payload",
        "/progress",
        "new/restored/sagad.db",
        "ci.token",
        "tmp/sagad-bench-",
    ] {
        assert!(
            seen.keys().any(|path| path.to_str().unwrap().contains(part)),
            "{part} was not seen: {:?}",
            seen.keys()
        );
    }
}

#[tokio::test]
async fn p4_no_file_is_written_through_a_link() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    fs::create_dir(root.join("tmp")).unwrap();
    let target = root.join("target");
    fs::write(&target, "mine").unwrap();
    let path = |name: &str| root.join(name).to_str().unwrap().to_owned();
    let planted = |name: &str| {
        let link = root.join(name);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(&target, &link).unwrap();
        link
    };
    let untouched = |what: &str| assert_eq!(fs::read_to_string(&target).unwrap(), "mine", "{what}");

    // A token: refused.
    planted("ci.token");
    assert_eq!(sagad(root, &["token", "ci", "--out", &path("ci.token")]).status.code(), Some(1));
    untouched("a token");
    // Manual pages, which everyone may read: the link is replaced.
    let page = planted("man/sagad.1");
    done(sagad(root, &["man", "--dir", &path("man")]));
    assert!(page.symlink_metadata().unwrap().is_file());
    untouched("a manual page");
    // A link in place of an unfinished store is replaced; in place of the lock or the store it is refused.
    planted("data/sagad.db.new");
    let mut daemon = Launch::on(&root.join("data")).start();
    let api = daemon.api().await;
    api.create_saga(create("t")).await.unwrap();
    let server = format!("http://{}", daemon.address());
    planted("copy.db.partial");
    done(sagad(root, &["backup", &path("copy.db"), "--server", &server]));
    daemon.terminate().await;
    untouched("a store");
    for (name, told) in [("sagad.lock", "is a symbolic link"), ("sagad.db", "is a symbolic link")] {
        planted(&format!("refused-{name}/{name}"));
        let mut process = Launch::on(&root.join(format!("refused-{name}"))).spawn();
        assert_eq!(process.address(), None);
        let (status, log) = process.end().await;
        assert!(status.code() == Some(1) && log.contains(told), "{log}");
        untouched(name);
    }
    // SQLite's own files beside the store: it does not open links.
    for name in ["sagad.db-wal", "sagad.db-shm", "sagad.db-journal"] {
        let data = root.join(format!("beside-{name}"));
        done(sagad(root, &["restore", &path("copy.db"), "--data", data.to_str().unwrap()]));
        planted(&format!("beside-{name}/{name}"));
        let mut process = Launch::on(&data).spawn();
        // It serves, or refuses and says why.
        let serves = process.address().is_some();
        process.signal(rustix::process::Signal::TERM);
        let (status, log) = process.end().await;
        assert_eq!(status.code(), Some(if serves { 0 } else { 1 }), "{log}");
        untouched(name);
    }
    // A restore replaces a link in place of its temporary file, but not an existing store.
    planted("restored/sagad.db.partial");
    done(sagad(root, &["restore", &path("copy.db"), "--data", &path("restored")]));
    planted("there/sagad.db");
    assert_eq!(sagad(root, &["restore", &path("copy.db"), "--data", &path("there")]).status.code(), Some(1));
    untouched("a restore");
}

/// Sagas that can't be exported safely are kept.
#[tokio::test]
async fn p4_an_export_is_not_written_through_a_link() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let (target, export) = (root.join("target"), root.join("export"));
    fs::create_dir(&export).unwrap();
    fs::write(&target, "mine\n").unwrap();
    let file = export.join(format!("sagad-{}.jsonl", day()));
    symlink(&target, &file).unwrap();
    let mut daemon = Launch::on(&root.join("data"))
        .args(&["--retain-completed", "1s", "--retention-export", export.to_str().unwrap()])
        .start();
    let api = daemon.api().await;
    api.create_saga(create("t")).await.unwrap();
    let lease = key(&api.claim(claim("t", "w", 60_000)).await.unwrap());
    api.complete(lease.complete()).await.unwrap();
    eventually("it is logged", || async { daemon.log().contains("is not a file").then_some(()) }).await;
    fs::remove_file(&file).unwrap();
    fs::hard_link(&target, &file).unwrap();
    eventually("it is logged", || async { daemon.log().contains("is a hard link").then_some(()) }).await;
    assert!(api.find("t").await.unwrap().is_some(), "nothing was purged");
    fs::remove_file(&file).unwrap();
    eventually("it is exported", || async { file.metadata().is_ok_and(|file| file.len() > 0).then_some(()) }).await;
    assert_eq!(fs::read_to_string(&target).unwrap(), "mine\n");
    daemon.terminate().await;
}

/// True if another user of the machine can lock a file; none: the test is not root and can't try.
fn other_user_can_lock(file: &Path) -> Option<bool> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let mut command = Command::new("flock");
    let taken = command.args(["-n", file.to_str().unwrap(), "true"]).uid(65_534).gid(65_534).output().unwrap();
    Some(taken.status.success())
}

/// An existing data directory with open permissions is reported with the command that closes it, and its lock is private.
#[tokio::test]
async fn p8_an_open_data_directory_is_reported_and_its_lock_is_protected() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, Permissions::from_mode(0o755)).unwrap();
    fs::write(data.join("sagad.lock"), "").unwrap();
    fs::set_permissions(data.join("sagad.lock"), Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
    assert_ne!(other_user_can_lock(&data.join("sagad.lock")), Some(false), "the test detects an open lock");
    let mut daemon = Launch::on(&data).start();
    assert_ne!(other_user_can_lock(&data.join("sagad.lock")), Some(true));
    assert_eq!(data.join("sagad.lock").metadata().unwrap().mode() & 0o777, 0o600);
    let log = daemon.terminate().await;
    assert_ne!(other_user_can_lock(&data.join("sagad.lock")), Some(true), "also between two runs");
    let told = format!(
        "the data directory {0} is open to every user of this machine (mode 0755); `chmod 700 {0}` keeps them out",
        data.display()
    );
    assert!(log.contains("WARN") && log.contains(&told), "{log}");
    assert!(!log.contains("sagad.lock is open"), "{log}");
    fs::set_permissions(&data, Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(data.join("sagad.db"), Permissions::from_mode(0o644)).unwrap();
    let mut daemon = Launch::on(&data).start();
    let log = daemon.terminate().await;
    assert!(!log.contains("the data directory") && log.contains("sagad.db is open to every user"), "{log}");
    // A directory that sagad creates is private and not reported.
    let mut daemon = Launch::on(&root.path().join("own")).start();
    assert_eq!(root.path().join("own").metadata().unwrap().mode() & 0o777, 0o700);
    let lock = root.path().join("own/sagad.lock");
    assert_eq!(lock.metadata().unwrap().mode() & 0o777, 0o600, "others can't open it and hold its lock");
    assert!(flock(fs::File::open(&lock).unwrap(), FlockOperation::NonBlockingLockExclusive).is_err(), "it is held");
    let log = daemon.terminate().await;
    assert!(!log.contains("is open to"), "{log}");
}
