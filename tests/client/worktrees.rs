//! `examples/worktrees.sh`: four workers on a git repository, one of them killed.

use std::{fs, path::Path, process::Command};

use crate::support::{SAGAD, needs, tools};

#[test]
fn a_killed_worker_leaves_no_worktree_and_no_branch() {
    needs!("bash", "git", "jq", "flock");
    tools::must_succeed(
        Command::new("bash")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/worktrees.sh"))
            .env("SAGAD", SAGAD)
            .env("PATH", tools::path_with(SAGAD)),
    );
}

/// The text of a handler in the example.
fn handler(name: &str) -> String {
    let example = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/worktrees.sh")).unwrap();
    let begin = format!("cat >\"$dir/{name}\" <<'SCRIPT'\n");
    let (_, rest) = example.split_once(&begin).unwrap();
    rest.split_once("\nSCRIPT\n").unwrap().0.to_owned()
}

/// The holder of a saga chooses the targets, so a handler must check them.
#[test]
fn a_handler_removes_only_worktrees_and_branches_of_its_own() {
    needs!("bash", "git", "flock");
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (trees, precious, repo) = (dir.join("trees"), dir.join("precious"), dir.join("repo"));
    for made in [&trees, &precious, &trees.join("a"), &trees.join("b"), &trees.join("b/inner")] {
        fs::create_dir(made).unwrap();
    }
    std::os::unix::fs::symlink(&precious, trees.join("link")).unwrap();
    let git = |arguments: &[&str]| {
        let identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"];
        let done = Command::new("git").arg("-C").arg(&repo).args(identity).args(arguments).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stdout).unwrap()
    };
    fs::create_dir(&repo).unwrap();
    git(&["init", "--quiet"]);
    git(&["commit", "--quiet", "--allow-empty", "-m", "begin"]);
    git(&["checkout", "--quiet", "--detach"]);
    for branch in ["trunk", "work/a"] {
        git(&["branch", branch]);
    }
    fs::write(dir.join("note"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(dir.join("note"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let run = |name: &str, target: &Path| {
        fs::write(dir.join(name), handler(name)).unwrap();
        let mut command = Command::new("bash");
        command.arg(dir.join(name)).current_dir(dir).env("REPO", &repo).env("TREES", &trees).env("SAGAD_KIND", name);
        let done = command.env("SAGAD_TARGET", target).output().unwrap();
        (done.status.success(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let others = [
        precious.clone(),
        trees.join("../precious"),
        trees.join("link"),
        trees.clone(),
        trees.join("."),
        trees.join("b/inner"),
        "precious".into(),
        "/nonexistent".into(),
        "".into(),
    ];
    for other in others {
        let (succeeded, told) = run("remove-worktree", &other);
        assert!(!succeeded && told.contains("refused: "), "{}: {told}", other.display());
    }
    assert!(precious.exists() && trees.join("b/inner").exists() && trees.join("link").exists());
    for _ in 0..2 {
        assert!(run("remove-worktree", &trees.join("a")).0, "again it does nothing");
        assert!(!trees.join("a").exists());
    }
    for other in ["trunk", "", "-D", "work/../trunk"] {
        let (succeeded, told) = run("delete-branch", Path::new(other));
        assert!(!succeeded && told.contains("refused: "), "{other}: {told}");
    }
    for _ in 0..2 {
        assert!(run("delete-branch", Path::new("work/a")).0);
    }
    assert!(git(&["branch", "--list"]).contains("trunk") && !git(&["branch", "--list"]).contains("work/a"));
}
