//! The session of the README, and the recipes of `docs/debugging.md`, are run as they stand there, against a real daemon.

use std::process::Command;

use crate::support::{Launch, SAGAD, needs, tools};

/// Runs a page's blocks against a daemon of its own.
fn does_what_it_shows(page: &str) {
    let data = tempfile::tempdir().expect("a directory can be made");
    let daemon = Launch::on(data.path()).start();
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

#[test]
fn the_readme_does_what_it_shows() {
    needs!("bash", "grpcurl", "jq");
    does_what_it_shows("README.md");
}

#[test]
fn the_recipes_for_debugging_do_what_they_show() {
    needs!("bash", "grpcurl", "jq");
    does_what_it_shows("docs/debugging.md");
}

#[test]
fn the_page_on_operating_does_what_it_shows() {
    needs!("bash", "grpcurl", "jq");
    does_what_it_shows("docs/operations.md");
}
