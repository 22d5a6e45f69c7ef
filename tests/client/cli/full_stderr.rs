//! `sagad work`, `compensate` and `watch` with a full pipe as stderr: they lose no lease and end in time.

use std::{
    fs::File,
    io::{PipeReader, Read, Write, pipe},
    os::fd::AsFd,
    process::{Child, Command},
    thread,
    time::Duration,
};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    process::Signal,
};

use super::cli_fixture::{CliFixture, signal};
use crate::support::{now, until};

/// A full pipe: a write to it blocks until something is read.
fn full_pipe() -> (PipeReader, File) {
    let (reader, writer) = pipe().unwrap();
    let mut writer = File::from(std::os::fd::OwnedFd::from(writer));
    let flags = fcntl_getfl(writer.as_fd()).unwrap();
    fcntl_setfl(writer.as_fd(), flags | OFlags::NONBLOCK).unwrap();
    for size in [4096, 1] {
        while writer.write(&vec![b'.'; size]).is_ok() {}
    }
    fcntl_setfl(writer.as_fd(), flags).unwrap();
    (reader, writer)
}

/// Starts a command with a full stderr.
fn start_with_full_stderr(mut command: Command) -> (Child, PipeReader) {
    let (reader, writer) = full_pipe();
    (command.stdout(std::process::Stdio::null()).stderr(writer).spawn().unwrap(), reader)
}

/// Sends TERM; it must end with exit code 0 soon.
fn ends_in_time(mut child: Child) {
    let begun = now();
    signal(&child, Signal::TERM);
    let mut code = None;
    until("a worker with a full stderr to end", || {
        code = child.try_wait().unwrap();
        code.is_some()
    });
    assert_eq!(code.unwrap().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn a_worker_with_a_full_stderr_keeps_its_leases_and_ends_on_term() {
    let d = CliFixture::start();
    for id in ["a", "b", "c", "d"] {
        d.ok(&format!("create --task-id {id} --queue q"));
    }
    let (work, mut reader) = start_with_full_stderr(d.command("work --queue q --ttl 2s --concurrency 4 -- sleep 5"));
    for id in ["a", "b", "c", "d"] {
        d.await_state(id, "completed");
        assert_eq!(d.events(id), ["created", "claimed", "completed"]);
    }
    ends_in_time(work);
    // Messages that did not fit into the pipe are lost.
    let mut told = Vec::new();
    reader.read_to_end(&mut told).unwrap();
    assert!(told.iter().all(|byte| *byte == b'.'));
}

#[test]
fn withheld_messages_are_printed_once_stderr_is_read() {
    let d = CliFixture::start();
    d.ok("create --task-id a --queue q");
    let (work, mut reader) = start_with_full_stderr(d.command("work --queue q --ttl 2s -- true"));
    d.await_state("a", "completed");
    let read = thread::spawn(move || {
        let mut told = String::new();
        reader.read_to_string(&mut told).unwrap();
        told
    });
    ends_in_time(work);
    let told = read.join().unwrap();
    let lines: Vec<&str> = told.trim_start_matches('.').lines().collect();
    assert!(
        lines.len() == 3 && lines[0].starts_with("sagad: claimed a (") && lines[1] == "sagad: completed a",
        "{lines:?}"
    );
}

#[test]
fn a_compensator_with_a_full_stderr_keeps_its_leases_and_ends_on_term() {
    let d = CliFixture::start();
    for id in ["a", "b", "c"] {
        d.compensating(id, "--queue q --compensate branch=one");
    }
    let undo = d.command("compensate --queue q --ttl 2s --concurrency 3 --handler 'branch=sleep 5'");
    let (undo, _reader) = start_with_full_stderr(undo);
    for id in ["a", "b", "c"] {
        d.await_state(id, "compensated");
        let claims = d.events(id).iter().filter(|event| *event == "claimed").count();
        assert_eq!(claims, 2, "once to execute and once to compensate");
    }
    ends_in_time(undo);
}

#[test]
fn a_watch_with_a_full_stderr_keeps_printing_items() {
    let mut d = CliFixture::start();
    d.ok("create --task-id a --queue q");
    let (_reader, writer) = full_pipe();
    let mut command = d.command("watch --events --after 0 -o json");
    let out = d.file("out");
    let mut watch = command.stdout(File::create(&out).unwrap()).stderr(writer).spawn().unwrap();
    until("the first event", || d.lines("out").iter().any(|line| line.contains("\"a\"")));
    d.restart(Signal::TERM);
    d.ok("create --task-id b --queue q");
    until("an event after the watch broke", || d.lines("out").iter().any(|line| line.contains("\"b\"")));
    watch.kill().unwrap();
    watch.wait().unwrap();
}
