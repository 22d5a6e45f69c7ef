//! The `sh` blocks of the pages are run as they stand there, against a real daemon, and what they print is compared.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use crate::support::tools;

const SAGAD: &str = env!("CARGO_BIN_EXE_sagad");

/// A daemon that is killed when the test is over, however it ends.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Daemon {
    /// Starts it on any free port; returns it with its address.
    fn start(data: &Path) -> (Self, String) {
        let mut child = Command::new(SAGAD)
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(data.join("store"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary under test can be run");
        let stdout = child.stdout.take().expect("it is piped");
        let daemon = Daemon(child);
        let (sender, first_line) = mpsc::channel();
        // The thread goes on reading to the end, so that the daemon never waits for a reader.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let line = first_line.recv_timeout(Duration::from_secs(30)).expect("the daemon says where it serves");
        let address = line.strip_prefix("sagad: serving gRPC on ").expect("its first line says where it serves");
        (daemon, address.to_owned())
    }
}

/// Runs a page's blocks against a daemon of its own.
fn does_what_it_shows(page: &str) {
    let data = tempfile::tempdir().expect("a directory can be made");
    let (_daemon, address) = Daemon::start(data.path());
    let root = env!("CARGO_MANIFEST_DIR");
    tools::must_succeed(
        Command::new("bash")
            .arg(format!("{root}/tests/support/readme.sh"))
            .arg(format!("{root}/{page}"))
            .arg(address)
            .env("PATH", tools::path_with(SAGAD))
            .current_dir(data.path()),
    );
}

/// A test for each page, by what it needs beside bash, and the list of them.
macro_rules! run {
    ($([$($tool:literal),+]: { $($test:ident: $page:literal,)* })*) => {
        /// Pages whose `sh` blocks are run, and what they print compared with the `text` or `json` blocks.
        pub const RUN: &[&str] = &[$($($page,)*)*];

        $(run!(@tests [$($tool),+] $($test $page)*);)*
    };
    (@tests $tools:tt $($test:ident $page:literal)*) => {
        $(run!(@test $tools $test $page);)*
    };
    (@test [$($tool:literal),+] $test:ident $page:literal) => {
        #[test]
        fn $test() {
            needs!("bash", $($tool),+);
            does_what_it_shows($page);
        }
    };
}

run! {
    ["jq"]: {
        the_readme_does_what_it_shows: "README.md",
        the_page_on_workers_does_what_it_shows: "docs/how-to/worker.md",
        the_page_on_undoing_does_what_it_shows: "docs/how-to/undo.md",
        the_page_on_ci_runners_does_what_it_shows: "docs/how-to/ci-runners.md",
        the_page_on_following_does_what_it_shows: "docs/how-to/watch.md",
        the_page_on_deploying_does_what_it_shows: "docs/how-to/deploy.md",
        the_page_on_monitoring_does_what_it_shows: "docs/how-to/monitor.md",
        the_page_on_backups_does_what_it_shows: "docs/how-to/backup.md",
        the_page_on_retention_does_what_it_shows: "docs/how-to/retention.md",
    }
    ["jq", "git", "flock"]: {
        the_page_on_coding_agents_does_what_it_shows: "docs/how-to/coding-agents.md",
    }
    ["jq", "grpcurl"]: {
        the_walkthrough_does_what_it_shows: "docs/walkthrough.md",
        the_recipes_for_debugging_do_what_they_show: "docs/how-to/debug.md",
        the_page_on_errors_does_what_it_shows: "docs/reference/errors.md",
    }
}
