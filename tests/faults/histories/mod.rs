//! The answers to clients of a real daemon that is killed again and again are recorded and checked against the promises P1, P5, P7
//! and P9. The checker itself is tested with wrong histories and with mutants of the daemon (`.ci/mutants`).
//!
//!   SAGAD_LOAD_SECS=n     the length of the load (default 5)
//!   SAGAD_LOAD_SEED=s     the seed of the clients' calls (default 1)
//!   SAGAD_HISTORY=file    a file for the recorded calls

mod checker;
mod checker_tests;
mod recorded_client;
mod recorded_load;

use std::time::Duration;

use crate::support::number;
use recorded_load::RecordedLoad;

fn healthy() -> RecordedLoad {
    RecordedLoad {
        mutant: None,
        seed: number("SAGAD_LOAD_SEED").unwrap_or(1),
        lasts: Duration::from_secs(number("SAGAD_LOAD_SECS").unwrap_or(5)),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_answers_keep_the_promises() {
    let ran = healthy().run().await;
    println!("{}", ran.summary());
    assert!(ran.complaints.is_empty(), "{}", ran.complaints.join("\n"));
    assert!(ran.is_large_enough(), "too few calls: {}", ran.summary());
}

/// Only with the feature `mutants`: `.ci/mutants` runs it.
#[cfg(feature = "mutants")]
#[tokio::test(flavor = "multi_thread")]
async fn each_mutant_is_detected() {
    let mutants = [
        ("answer-before-commit", "P1"),
        ("complete-ignores-token", "P5"),
        ("claim-ignores-expiry", "P5"),
        ("claim-next-ignores-lease", "P5"),
        ("record-ignores-token", "P5"),
        ("watch-skips-at-resume", "P7"),
    ];
    for (mutant, promise) in mutants {
        let mut tries = 0;
        loop {
            tries += 1;
            // On a busy machine there may be few calls when a kill comes.
            assert!(tries <= 12, "{mutant} was not detected");
            let ran = RecordedLoad { mutant: Some(mutant), seed: tries, ..healthy() }.run().await;
            let caught = ran.complaints.iter().find(|complaint| complaint.starts_with(promise));
            if let Some(complaint) = caught {
                let short: String = complaint.chars().take(300).collect();
                println!("{mutant}: detected at try {tries}, {} complaints, such as: {short}", ran.complaints.len());
                break;
            }
        }
    }
}
