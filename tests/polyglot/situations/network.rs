//! The daemon is down, or answers are lost or late.

use std::time::Duration;

use rustix::process::Signal;
use sagad::proto::*;

use crate::{
    languages::{Language, Role},
    proxy::Proxy,
    situation_run::SituationRun,
    support::now,
};

/// The daemon is killed and started again during the work, which continues under the same lease.
pub async fn restarted(language: &'static Language) {
    let mut run = SituationRun::new(language).await;
    let lines = ["word"; 60];
    let mut worker = run.worker("w", "9").await;
    run.create(run.report("t", &lines, 150)).await;
    worker.until_line("t", 1).await;
    let token = run.api.get("t").await.lease.unwrap().fencing_token;
    run.daemon.kill().await;
    let unknown = worker.until_of("heartbeat_unknown", "t").await;
    assert!(unknown["code"].as_str().is_some_and(|code| code == code.to_uppercase()), "{unknown}");
    // It works without the coordinator meanwhile.
    let written = worker.of("line", "t").len() as u64;
    worker.until_line("t", written + 1).await;
    run.daemon.start_again();
    run.api = run.daemon.api().await;
    let begun = worker.events().len();
    worker.until_of("completed", "t").await;
    run.assert_completed("t", &lines, 1).await;
    let saga = run.api.get("t").await;
    assert_eq!((saga.lease.unwrap().fencing_token, saga.expirations), (token, 0), "the same lease");
    let beats = worker.events()[begun..].iter().filter(|event| event["event"] == "heartbeat").count();
    assert!(beats > 0, "heartbeats came through again");
    assert_eq!(worker.all("lost").len(), 0);

    // Then it claims another saga.
    run.create(run.report("next", &["one"], 0)).await;
    worker.until_of("completed", "next").await;
    worker.drain().await;
}

/// The daemon is down at the start, and again later. Each program reports on stderr which coordinator it waits for and why, once
/// and then every ten seconds, and that the coordinator is back. A working worker does the same.
pub async fn away(language: &'static Language) {
    let mut run = SituationRun::new(language).await;
    let address = run.daemon.address();
    let (waits, answers) =
        (format!("waiting for the coordinator at http://{address}: "), format!("http://{address} answers"));
    run.daemon.kill().await;
    let mut programs: Vec<_> = [(Role::Worker, "w"), (Role::Compensator, "c"), (Role::Watcher, "v")]
        .map(|(role, owner)| run.start_at(address, role, owner, &[]))
        .into();
    for program in &mut programs {
        let said = program.until_said(&waits, 1).await;
        let why = said[0].split(&waits).nth(1).unwrap().to_lowercase();
        assert!(why.contains("refused"), "it says why: {why}");
        assert_eq!(program.all("ready").len(), 0);
    }
    run.daemon.start_again();
    run.api = run.daemon.api().await;
    for program in &mut programs {
        program.until_said(&answers, 1).await;
        program.until_event("ready").await;
    }

    programs.push(run.ready(Role::Worker, "busy", &[("SAGAD_QUEUES", "long")]).await);
    let long = CreateSagaRequest { queue: "long".to_owned(), ..run.long("t", 900, 100) };
    run.create(long).await;
    programs[3].until_line("t", 1).await;
    let begun = now();
    let before: Vec<_> = programs.iter().map(|program| program.stderr_count(&waits)).collect();
    run.daemon.kill().await;
    for (program, before) in programs.iter_mut().zip(&before) {
        program.until_said(&waits, before + 2).await;
    }
    let often = 1 + usize::try_from(begun.elapsed().as_secs() / 10).unwrap();
    for (program, before) in programs.iter().zip(&before) {
        let lines = program.stderr_count(&waits) - before;
        assert!(lines <= often, "{lines} lines in {:?}{}", begun.elapsed(), program.all_output());
    }
    run.daemon.start_again();
    for (program, times) in programs.iter_mut().zip([2, 2, 2, 1]) {
        program.until_said(&answers, times).await;
    }
    let mut busy = programs.pop().unwrap();
    busy.signal(Signal::TERM);
    busy.signal(Signal::INT);
    busy.drained().await;
    for program in &mut programs {
        program.drain().await;
    }
}

/// Lost answers to a claim and a report, then late answers to everything, and a claim that waits.
pub async fn answers_lost(language: &'static Language) {
    let run = SituationRun::new(language).await;
    let proxy = Proxy::to(run.daemon.address()).await;
    let mut worker = run.start_at(proxy.address(), Role::Worker, "w", &[("SAGAD_TTL", "9")]);
    worker.until_event("ready").await;

    // The claim was executed and its answer lost: its repeat returns the same saga, not the next one.
    proxy.drop_answers();
    run.create(run.report("first", &["one"], 0)).await;
    run.create(run.report("second", &["one"], 0)).await;
    let claimed = run.api.until("first", "is claimed", |saga| saga.state() == SagaState::Running).await;
    proxy.close_connections();
    let told = worker.until_of("claimed", "first").await;
    assert_eq!(told["fencing_token"], claimed.lease.unwrap().fencing_token);
    for name in ["first", "second"] {
        worker.until_of("completed", name).await;
        run.assert_completed(name, &["one"], 1).await;
        assert_eq!(run.api.get(name).await.expirations, 0);
    }

    // The report was executed and its answer lost: its repeat is accepted.
    run.create(run.report("third", &["one", "two"], 700)).await;
    worker.until_line("third", 1).await;
    proxy.drop_answers();
    run.api.until("third", "is completed", |saga| saga.state() == SagaState::Completed).await;
    proxy.close_connections();
    assert_eq!(worker.until_of("completed", "third").await["state"], "SAGA_STATE_COMPLETED");

    // Late answers: the lease counts from the sending of the heartbeat.
    let delay = Duration::from_millis(1_500);
    proxy.delay(delay);
    run.create(run.report("late", &["word"; 12], 700)).await;
    worker.until_line("late", 1).await;
    let beat = worker.until_of("heartbeat", "late").await;
    let left = beat["expire_in_ms"].as_u64().unwrap();
    assert!(left <= 9_000 - 1_500, "{left} ms of 9 s are left after an answer that took {delay:?}");
    proxy.delay(Duration::ZERO);
    worker.until_of("completed", "late").await;
    run.assert_completed("late", &["word"; 12], 1).await;
    assert_eq!((worker.all("lost").len(), worker.all("refused").len()), (0, 0), "{}", worker.all_output());

    // A claim that waited: its lease of 9 s counts from the end of the wait. The worker claims again when it is done, with a wait of
    // up to 3 s, and gets no answer after that claim.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    run.create(run.report("waited", &["word"; 300], 100)).await;
    worker.until_of("claimed", "waited").await;
    let claimed = now();
    proxy.drop_answers();
    let lost = worker.until_of("lost", "waited").await;
    let kept = claimed.elapsed();
    assert_eq!(lost["reason"], "DEADLINE", "{lost}");
    assert!(kept > Duration::from_millis(7_800), "a lease of 9 s was given up after {kept:?}{}", worker.all_output());
    worker.until_of("stopped", "waited").await;
    proxy.close_connections();
    worker.drain().await;
}
