//! The coordinator away, and answers that are lost or late.

use std::time::Duration;

use rustix::process::Signal;
use sagad::proto::*;

use crate::{
    languages::{Language, Role},
    proxy::Proxy,
    scene::Scene,
    support::now,
};

/// Killed and started again in mid-work: the same lease, the same worker, the work goes on all the while.
pub async fn restarted(language: &'static Language) {
    let mut scene = Scene::new(language).await;
    let lines = ["word"; 60];
    let mut worker = scene.worker("w", "9").await;
    scene.make(scene.report("t", &lines, 150)).await;
    worker.until_line("t", 1).await;
    let token = scene.api.get("t").await.lease.unwrap().fencing_token;
    scene.daemon.kill().await;
    let unknown = worker.until_of("heartbeat_unknown", "t").await;
    assert!(unknown["code"].as_str().is_some_and(|code| code == code.to_uppercase()), "{unknown}");
    // It works on without the coordinator.
    let written = worker.of("line", "t").len() as u64;
    worker.until_line("t", written + 1).await;
    scene.daemon.start_again();
    scene.api = scene.daemon.api().await;
    let begun = worker.events().len();
    worker.until_of("completed", "t").await;
    scene.assert_completed("t", &lines, 1).await;
    let saga = scene.api.get("t").await;
    assert_eq!((saga.lease.unwrap().fencing_token, saga.expirations), (token, 0), "the same lease");
    let beats = worker.events()[begun..].iter().filter(|event| event["event"] == "heartbeat").count();
    assert!(beats > 0, "heartbeats came through again");
    assert_eq!(worker.all("lost").len(), 0);

    // And it claims again.
    scene.make(scene.report("next", &["one"], 0)).await;
    worker.until_of("completed", "next").await;
    worker.drain().await;
}

/// Away at the start, and again later: whoever waits for the coordinator says on stderr for which one and why, once, then
/// every ten seconds; and that it is back. So does a worker that is in the middle of its work.
pub async fn away(language: &'static Language) {
    let mut scene = Scene::new(language).await;
    let address = scene.daemon.address();
    let (waits, answers) =
        (format!("waiting for the coordinator at http://{address}: "), format!("http://{address} answers"));
    scene.daemon.kill().await;
    let mut programs: Vec<_> = [(Role::Worker, "w"), (Role::Compensator, "c"), (Role::Watcher, "v")]
        .map(|(role, owner)| scene.start_at(address, role, owner, &[]))
        .into();
    for program in &mut programs {
        let said = program.until_said(&waits, 1).await;
        let why = said[0].split(&waits).nth(1).unwrap().to_lowercase();
        assert!(why.contains("refused"), "it says why: {why}");
        assert_eq!(program.all("ready").len(), 0);
    }
    scene.daemon.start_again();
    scene.api = scene.daemon.api().await;
    for program in &mut programs {
        program.until_said(&answers, 1).await;
        program.until_event("ready").await;
    }

    programs.push(scene.ready(Role::Worker, "busy", &[("SAGAD_QUEUES", "long")]).await);
    let long = CreateSagaRequest { queue: "long".to_owned(), ..scene.long("t", 900, 100) };
    scene.make(long).await;
    programs[3].until_line("t", 1).await;
    let begun = now();
    let before: Vec<_> = programs.iter().map(|program| program.said(&waits)).collect();
    scene.daemon.kill().await;
    for (program, before) in programs.iter_mut().zip(&before) {
        program.until_said(&waits, before + 2).await;
    }
    let often = 1 + usize::try_from(begun.elapsed().as_secs() / 10).unwrap();
    for (program, before) in programs.iter().zip(&before) {
        let lines = program.said(&waits) - before;
        assert!(lines <= often, "{lines} lines in {:?}{}", begun.elapsed(), program.story());
    }
    scene.daemon.start_again();
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

/// Lost answers to a claim and to a report, then late ones to everything; and a claim that waits before it is answered.
pub async fn answers_lost(language: &'static Language) {
    let scene = Scene::new(language).await;
    let proxy = Proxy::to(scene.daemon.address()).await;
    let mut worker = scene.start_at(proxy.address(), Role::Worker, "w", &[("SAGAD_TTL", "9")]);
    worker.until_event("ready").await;

    // The claim happened, and its answer is lost: repeated, it gives the same saga, and not the next one.
    proxy.mute();
    scene.make(scene.report("first", &["one"], 0)).await;
    scene.make(scene.report("second", &["one"], 0)).await;
    let claimed = scene.api.until("first", "is claimed", |saga| saga.state() == SagaState::Running).await;
    proxy.cut();
    let told = worker.until_of("claimed", "first").await;
    assert_eq!(told["fencing_token"], claimed.lease.unwrap().fencing_token);
    for name in ["first", "second"] {
        worker.until_of("completed", name).await;
        scene.assert_completed(name, &["one"], 1).await;
        assert_eq!(scene.api.get(name).await.expirations, 0);
    }

    // The report happened, and its answer is lost: repeated, it is accepted.
    scene.make(scene.report("third", &["one", "two"], 700)).await;
    worker.until_line("third", 1).await;
    proxy.mute();
    scene.api.until("third", "is completed", |saga| saga.state() == SagaState::Completed).await;
    proxy.cut();
    assert_eq!(worker.until_of("completed", "third").await["state"], "SAGA_STATE_COMPLETED");

    // Late answers: what a heartbeat gives is counted from its sending.
    let delay = Duration::from_millis(1_500);
    proxy.delay(delay);
    scene.make(scene.report("late", &["word"; 12], 700)).await;
    worker.until_line("late", 1).await;
    let beat = worker.until_of("heartbeat", "late").await;
    let left = beat["expire_in_ms"].as_u64().unwrap();
    assert!(left <= 9_000 - 1_500, "{left} ms of 9 s are left after an answer that took {delay:?}");
    proxy.delay(Duration::ZERO);
    worker.until_of("completed", "late").await;
    scene.assert_completed("late", &["word"; 12], 1).await;
    assert_eq!((worker.all("lost").len(), worker.all("refused").len()), (0, 0), "{}", worker.story());

    // A claim that waited: its lease counts from the end of the wait, so nothing of its 9 s has gone when it is given. The worker
    // asks again as soon as it is done, for up to 3 s; and from its claim on it gets no answer.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    scene.make(scene.report("waited", &["word"; 300], 100)).await;
    worker.until_of("claimed", "waited").await;
    let claimed = now();
    proxy.mute();
    let lost = worker.until_of("lost", "waited").await;
    let kept = claimed.elapsed();
    assert_eq!(lost["reason"], "DEADLINE", "{lost}");
    assert!(kept > Duration::from_millis(7_800), "a lease of 9 s was given up after {kept:?}{}", worker.story());
    worker.until_of("stopped", "waited").await;
    proxy.cut();
    worker.drain().await;
}
