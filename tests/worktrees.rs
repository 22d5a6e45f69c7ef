//! `examples/worktrees.sh`: four workers on a git repository, one killed in the middle, and nothing left over.

use std::process::Command;

#[path = "support/tools.rs"]
mod tools;

const SAGAD: &str = env!("CARGO_BIN_EXE_sagad");

#[test]
fn a_killed_worker_leaves_no_worktree_and_no_branch() {
    if !tools::are_there(&["bash", "git", "jq", "flock"]) {
        return;
    }
    tools::must_succeed(
        Command::new("bash")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/worktrees.sh"))
            .env("SAGAD", SAGAD)
            .env("PATH", tools::path_with(SAGAD)),
    );
}
