//! A PostgreSQL of the tests' own: one server for all tests of a process, which ends with it, and a database for each test.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

/// How often it is tried whether the server has started, every 50 ms.
const START_TRIES: u32 = 1200;

/// Whether PostgreSQL's server is installed. If not, says loudly that the test is skipped; in CI that is a failure.
pub fn is_there() -> bool {
    if programs().is_some() {
        return true;
    }
    super::tools::skip("PostgreSQL's server (Debian: postgresql)");
    false
}

/// The directory of the newest server's programs.
fn programs() -> Option<PathBuf> {
    let installed =
        fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    let version = |path: &PathBuf| path.parent()?.file_name()?.to_str()?.parse::<u32>().ok();
    installed.filter(|path| path.join("postgres").is_file()).max_by_key(version)
}

/// A running server.
pub struct Server {
    pub port: u16,
    dir: TempDir,
    process: u32,
}

impl Server {
    /// Starts a server with further settings. It ends with this process.
    pub fn start(settings: &[&str]) -> Self {
        let programs = programs().expect("asked before");
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let root = rustix::process::geteuid().is_root();
        if root {
            // It refuses to run as root.
            must(Command::new("chown").arg("postgres").arg(dir.path()));
        }
        let initdb = programs.join("initdb");
        let options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D"];
        must(as_postgres(root, &initdb).args(options).arg(&data));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = as_postgres(root, &programs.join("postgres"));
        command.arg("-D").arg(&data).args(["-p", &port.to_string()]);
        let own = [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "max_connections=200",
            "shared_buffers=32MB",
            "autovacuum=off",
        ];
        command.args(own.iter().chain(settings).flat_map(|setting| ["-c", setting]));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(fs::File::create(dir.path().join("log")).unwrap());
        let (started, process) = std::sync::mpsc::channel();
        // The server is told to end when the thread that started it ends: so that thread waits.
        thread::spawn(move || {
            let mut child = command.spawn().expect("the server starts");
            started.send(child.id()).unwrap();
            child.wait().unwrap();
        });
        let server = Server { port, dir, process: process.recv().unwrap() };
        for _ in 0..START_TRIES {
            if server.execute("postgres", "SELECT 1").is_ok() {
                return server;
            }
            thread::sleep(Duration::from_millis(50));
        }
        panic!("PostgreSQL does not start: {}", fs::read_to_string(server.dir.path().join("log")).unwrap());
    }

    /// The server that all tests of this process share.
    pub fn shared() -> &'static Server {
        static SHARED: OnceLock<Server> = OnceLock::new();
        SHARED.get_or_init(|| Server::start(&[]))
    }

    /// Runs statements as the superuser.
    pub fn execute(&self, database: &str, sql: &str) -> Result<(), tokio_postgres::Error> {
        self.ask(database, async |client| client.batch_execute(sql).await)
    }

    /// A number that a statement returns.
    pub fn number(&self, database: &str, sql: &str) -> i64 {
        self.ask(database, async |client| Ok(client.query_one(sql, &[]).await?.get(0))).unwrap()
    }

    /// Uses a connection of its own, on a thread of its own: the caller's may belong to a runtime.
    fn ask<T: Send>(
        &self,
        database: &str,
        ask: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error> + Send,
    ) -> Result<T, tokio_postgres::Error> {
        let url = self.url("postgres", database);
        thread::scope(|scope| {
            let asked = scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
                    tokio::spawn(connection);
                    ask(&client).await
                })
            });
            asked.join().unwrap()
        })
    }

    /// The URL of a database for a user.
    pub fn url(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port)
    }

    /// Sends the server a signal: `INT` ends it fast, `QUIT` at once.
    pub fn signal(&self, signal: &str) {
        must(Command::new("kill").args([&format!("-{signal}"), &self.process.to_string()]));
    }
}

/// A database of a test's own, on the shared server. It stays until the server is gone: dropping it takes a checkpoint.
pub struct Database {
    pub server: &'static Server,
    pub name: String,
}

impl Database {
    /// An empty one.
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let server = Server::shared();
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        server.execute("postgres", &format!("CREATE DATABASE {name}")).unwrap();
        Database { server, name }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        self.server.url("postgres", &self.name)
    }

    /// Runs statements in it.
    pub fn execute(&self, sql: &str) {
        self.server.execute(&self.name, sql).unwrap();
    }

    /// A number that a statement returns.
    pub fn number(&self, sql: &str) -> i64 {
        self.server.number(&self.name, sql)
    }
}

/// A program of PostgreSQL, as its user; it ends when the thread that starts it does.
fn as_postgres(root: bool, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    if root {
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    }
    command.arg("--pdeathsig=QUIT").arg(program).current_dir("/");
    command
}

fn must(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
