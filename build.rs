//! Compiles `proto/` with a protobuf compiler written in Rust, so that no `protoc` has to be installed.
//! The descriptor set that comes out serves reflection and the JSON form of messages.
//!
//! It also looks which programs the tests can run here, so that a test without its program is reported as ignored.

use std::{env, error::Error, fs, path::PathBuf, process::Command};

use prost::Message;

const FILES: [&str; 3] = ["sagad/v1/saga.proto", "sagad/v1/saga_service.proto", "sagad/v1/admin_service.proto"];

/// What some tests need beside the binary: a name, and a command that succeeds where it is there. Where it is not, the tests
/// see a `cfg` such as `without_strace`, by which they are ignored.
const TEST_NEEDS: [(&str, &[&str]); 15] = [
    ("bash", &["bash", "--version"]),
    ("faketime", &["faketime", "--version"]),
    ("flock", &["flock", "--version"]),
    ("git", &["git", "--version"]),
    ("grpcurl", &["grpcurl", "--version"]),
    ("jq", &["jq", "--version"]),
    ("mount", &["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]),
    ("openssl", &["openssl", "version"]),
    ("promtool", &["promtool", "--version"]),
    ("pid_namespace", &["unshare", "--pid", "--fork", "--mount-proc", "true"]),
    ("setsid", &["setsid", "--version"]),
    // The kernel may forbid tracing.
    ("strace", &["strace", "-f", "-o", "/dev/null", "true"]),
    ("systemd_analyze", &["systemd-analyze", "--version"]),
    ("seccomp", &["/usr/bin/python3", "-c", "import seccomp"]),
    ("tmux", &["tmux", "-V"]),
];

fn main() -> Result<(), Box<dyn Error>> {
    look_for_what_tests_need();
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let mut names = prost_build::Config::new();
    // A message's name tells the codec whether it is a request.
    names.enable_type_names();
    tonic_prost_build::configure()
        // Ordered maps make the encoding of a message, and so the digest of a repeated request, the same each time.
        .btree_map(".")
        .bytes(".")
        .extern_path(".google.rpc.Status", "::tonic_types::pb::Status")
        .codec_path("crate::proto::codec::BoundedCodec")
        .compile_fds_with_config(descriptors, names)?;
    Ok(())
}

/// In CI (`CI=true`) everything counts as there: a test that can't run there has to fail.
fn look_for_what_tests_need() {
    println!("cargo:rerun-if-env-changed=CI");
    let in_ci = env::var_os("CI").is_some_and(|ci| ci == "true");
    let directories = program_directories();
    let path = env::join_paths(&directories).unwrap_or_default();
    for (name, command) in TEST_NEEDS {
        println!("cargo:rustc-check-cfg=cfg(without_{name})");
        let is_there = || {
            Command::new(command[0])
                .args(&command[1..])
                .env("PATH", &path)
                .output()
                .is_ok_and(|output| output.status.success())
        };
        if !in_ci && !is_there() {
            println!("cargo:rustc-cfg=without_{name}");
        }
    }
    // What is installed later is found then. (A directory that is missing would make every build start anew.)
    for directory in directories.iter().filter(|directory| !in_ci && directory.is_dir()) {
        println!("cargo:rerun-if-changed={}", directory.display());
    }
}

/// `PATH`, and where `go install` puts programs.
fn program_directories() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
    let go = env::var_os("GOPATH").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join("go")));
    all.extend(go.map(|go| go.join("bin")));
    all
}
