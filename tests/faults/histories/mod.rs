//! Clients of a real daemon that is killed again and again: what they were answered is recorded and checked against
//! what is promised (P1, P5, P7, P9). And the check itself is checked, on histories that are wrong and on daemons that
//! are broken on purpose (`.ci/mutants`).
//!
//!   SAGAD_LOAD_SECS=n     how long the load lasts (default 5)
//!   SAGAD_LOAD_SEED=s     what the clients do (default 1)
//!   SAGAD_HISTORY=file    keeps the recorded calls

mod checker;
mod client;
mod load;
mod wrong;

use std::{env, time::Duration};

use load::Load;

fn number(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} is to be a number")))
}

fn healthy() -> Load {
    Load { mutant: None, seed: number("SAGAD_LOAD_SEED", 1), lasts: Duration::from_secs(number("SAGAD_LOAD_SECS", 5)) }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_were_answered_keeps_the_promises() {
    let ran = healthy().run().await;
    println!("{}", ran.summary());
    assert!(ran.complaints.is_empty(), "{}", ran.complaints.join("\n"));
    assert!(ran.is_telling(), "too little happened to tell: {}", ran.summary());
}

/// Only with a daemon that can be broken: `.ci/mutants` runs it.
#[cfg(feature = "mutants")]
#[tokio::test(flavor = "multi_thread")]
async fn each_broken_daemon_is_caught() {
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
            // A machine that is busy otherwise may leave the kills little to strike at.
            assert!(tries <= 12, "{mutant} was not caught");
            let ran = Load { mutant: Some(mutant), seed: tries, ..healthy() }.run().await;
            let caught = ran.complaints.iter().find(|complaint| complaint.starts_with(promise));
            if let Some(complaint) = caught {
                let short: String = complaint.chars().take(300).collect();
                println!("{mutant}: caught at try {tries}, {} complaints, such as: {short}", ran.complaints.len());
                break;
            }
        }
    }
}
