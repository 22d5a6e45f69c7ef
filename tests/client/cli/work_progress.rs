//! `SAGAD_PROGRESS_FILE`: the progress of a command, from one attempt to the next.

use std::fs;

use rustix::process::Signal;

use super::cli_fixture::CliFixture;
use crate::support::until;

/// The progress `half` in base64, as in JSON.
const HALF: &str = "aGFsZg==";

#[test]
fn the_next_attempt_gets_the_last_progress_of_the_one_before() {
    let d = CliFixture::start();
    d.ok("create --task-id t-1 --queue q --max-attempts 2 --retry-backoff 1ms");
    let script = d.script(
        "job",
        "cat \"$SAGAD_PROGRESS_FILE\" > \"seen-$SAGAD_ATTEMPT\"\n\
         stat -c %a \"$SAGAD_PROGRESS_FILE\" > mode\n\
         [ $SAGAD_ATTEMPT = 2 ] || { printf half > \"$SAGAD_PROGRESS_FILE\"; exit 75; }\n\
         printf all > \"$SAGAD_PROGRESS_FILE.new\"; mv \"$SAGAD_PROGRESS_FILE.new\" \"$SAGAD_PROGRESS_FILE\"",
    );
    let work = d.spawn(&format!("work --queue q --ttl 10m -- {script}"));
    d.await_state("t-1", "completed");
    let read = |name: &str| fs::read_to_string(d.file(name)).unwrap();
    assert_eq!((read("seen-1").as_str(), read("seen-2").as_str(), read("mode").as_str()), ("", "half", "600\n"));
    assert_eq!(d.get("t-1")["progress"], "YWxs");
    assert_eq!(work.term().code, 0);
    let help = d.run("work --help").out;
    assert!(help.contains("SAGAD_PROGRESS_FILE holds the progress of the attempt before"), "{help}");
}

#[test]
fn progress_is_sent_with_heartbeats_and_release_unless_too_large() {
    let d = CliFixture::start();
    d.ok("create --task-id t-1 --queue q");
    let script = d.script(
        "job",
        "printf half > \"$SAGAD_PROGRESS_FILE\"; echo > ready\n\
         while [ ! -e large ] && [ -e job ]; do sleep 0.05; done\n\
         head -c 65537 /dev/zero > \"$SAGAD_PROGRESS_FILE\"\n\
         while [ ! -e last ] && [ -e job ]; do sleep 0.05; done\n\
         printf last > \"$SAGAD_PROGRESS_FILE\"; echo > written\n\
         while [ -e job ]; do sleep 0.05; done",
    );
    let work = d.spawn(&format!("work --queue q --ttl 9s -- {script}"));
    until("the progress to be sent", || d.get("t-1")["progress"] == HALF);
    fs::write(d.file("large"), "").unwrap();
    work.await_err(&["the progress of t-1 was not sent: it has 65537 bytes, and 65536 are allowed"]);
    assert_eq!(d.get("t-1")["progress"], HALF);
    fs::write(d.file("last"), "").unwrap();
    until("the last word", || d.file("written").exists());
    work.signal(Signal::TERM);
    work.await_err(&["taking nothing new"]);
    work.signal(Signal::TERM);
    work.await_err(&["planned t-1: the worker was told to end"]);
    assert_eq!(d.get("t-1")["progress"], "bGFzdA==");
    assert_eq!(work.finish().code, 0);
}

#[test]
fn a_final_failure_stores_the_last_progress() {
    let d = CliFixture::start();
    d.ok("create --task-id t-1 --queue q --compensate branch=x");
    let ran = d.run("work --queue q --ttl 10m --drain -- sh -c 'printf half > $SAGAD_PROGRESS_FILE; exit 3'");
    assert_eq!(ran.code, 0, "{}", ran.err);
    let saga = d.get("t-1");
    assert_eq!((&saga["state"], &saga["progress"]), (&"SAGA_STATE_FAILED".into(), &HALF.into()));
}
