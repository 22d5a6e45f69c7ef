//! Runs the `sh` blocks of the pages with a real daemon, and compares their output with the page.

use std::process::Command;

use crate::support::{Launch, SAGAD, needs, tools};

/// Runs a page's blocks with a daemon of its own.
fn does_what_it_shows(page: &str) {
    let data = tempfile::tempdir().expect("a directory can be made");
    let daemon = Launch::on(&data.path().join("store")).start();
    let root = env!("CARGO_MANIFEST_DIR");
    tools::must_succeed(
        Command::new("bash")
            .arg(format!("{root}/tests/support/readme.sh"))
            .arg(format!("{root}/{page}"))
            .arg(daemon.address().to_string())
            .env("PATH", tools::path_with(SAGAD))
            .current_dir(data.path()),
    );
}

/// A test for each page, with the tools it needs beside bash, and the list of the pages.
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
