//! Builds the languages, runs each situation in each of them, and compares the results with the table of `examples/README.md`.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{runtime::Handle, sync::Semaphore, task::JoinSet, time::timeout};

use crate::{
    languages::{LANGUAGES, Language},
    service_config,
    situations::{SITUATIONS, Situation},
    support::{now, tools},
    table::{self, SituationResult, Table},
};

/// Situations at once. Most of a situation is waiting, so several share two cores well.
const AT_ONCE: usize = 4;
/// Builds at once. A build downloads, and then uses all cores.
const BUILDS_AT_ONCE: usize = 2;
/// The longest time of a situation. The longest one compiles a program, possibly on a busy machine.
const SITUATION_MAX: Duration = Duration::from_secs(600);

fn words(name: &str) -> Option<Vec<String>> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.split(',').map(|word| word.trim().to_owned()).collect())
}

fn chosen_languages() -> Vec<&'static Language> {
    let wanted = words("POLYGLOT");
    let chosen = |language: &&Language| wanted.as_ref().is_none_or(|names| names.iter().any(|n| n == language.name));
    LANGUAGES.iter().filter(chosen).filter(|language| tools::are_there(language.tools)).collect()
}

fn chosen_situations() -> Vec<&'static Situation> {
    let wanted = words("POLYGLOT_ONLY");
    let chosen = |s: &&Situation| wanted.as_ref().is_none_or(|names| names.iter().any(|name| s.name.contains(name)));
    SITUATIONS.iter().filter(chosen).collect()
}

/// Builds the languages; returns those that were built, and the errors of the others.
async fn build(languages: &[&'static Language]) -> (Vec<&'static Language>, Vec<String>) {
    let slots = Arc::new(Semaphore::new(BUILDS_AT_ONCE));
    let mut builds = JoinSet::new();
    for language in languages.iter().copied() {
        let slots = slots.clone();
        builds.spawn(async move {
            let _slot = slots.acquire_owned().await.unwrap();
            tools::say(&format!("polyglot: building {}", language.name));
            (language, tokio::task::spawn_blocking(|| language.build()).await.unwrap())
        });
    }
    let (mut built, mut failed) = (Vec::new(), Vec::new());
    while let Some(result) = builds.join_next().await {
        match result.unwrap() {
            (language, Ok(took)) => {
                tools::say(&format!("polyglot: built {} in {:.1} s", language.name, took.as_secs_f64()));
                built.push(language);
            }
            (language, Err(said)) => failed.push(format!("{} can't be built:\n{said}", language.name)),
        }
    }
    built.sort_by_key(|language| languages.iter().position(|other| other.name == language.name));
    (built, failed)
}

/// Runs each situation in each language; returns the results.
async fn run(
    languages: &[&'static Language],
    situations: &[&'static Situation],
) -> BTreeMap<(usize, usize), SituationResult> {
    let at_once = std::env::var("POLYGLOT_AT_ONCE").map_or(AT_ONCE, |text| text.parse().unwrap());
    let slots = Arc::new(Semaphore::new(at_once));
    let (all, done) = (situations.len() * languages.len(), Arc::new(AtomicUsize::new(0)));
    let mut playing = JoinSet::new();
    for (row, situation) in situations.iter().copied().enumerate() {
        for (column, language) in languages.iter().copied().enumerate() {
            let (slots, done) = (slots.clone(), done.clone());
            playing.spawn(async move {
                let _slot = slots.acquire_owned().await.unwrap();
                let begun = now();
                // A thread for each situation, so that a failure concerns only this one, and it may block.
                let runtime = Handle::current();
                let run = tokio::task::spawn_blocking(move || {
                    runtime.block_on(async { timeout(SITUATION_MAX, (situation.run)(language)).await })
                });
                let cell = match run.await {
                    Ok(Ok(())) => SituationResult::Passed,
                    Ok(Err(_)) => SituationResult::Failed("it hangs".to_owned()),
                    Err(error) => SituationResult::Failed(table::panic_message(error)),
                };
                let word = if cell == SituationResult::Passed { "passed" } else { "FAILED" };
                let (nth, took) = (done.fetch_add(1, Ordering::SeqCst) + 1, begun.elapsed().as_secs_f64());
                tools::say(&format!(
                    "polyglot: {nth}/{all} {word} {}: {} ({took:.1} s)",
                    language.name, situation.name
                ));
                ((row, column), cell)
            });
        }
    }
    let mut cells = BTreeMap::new();
    while let Some(result) = playing.join_next().await {
        let (place, cell) = result.unwrap();
        cells.insert(place, cell);
    }
    cells
}

async fn libraries_that_do_not_heed_the_config(languages: &[&'static Language]) -> Vec<String> {
    let mut failed = Vec::new();
    for language in languages.iter().copied().filter(|language| language.has_service_config) {
        if let Err(error) = tokio::spawn(service_config::is_heeded(language)).await {
            failed.push(format!("- {}, service config: {}", language.name, table::panic_message(error)));
        }
    }
    failed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn m17_programs_in_five_languages_pass_every_situation() {
    let (languages, situations) = (chosen_languages(), chosen_situations());
    let begun = now();
    let (built, not_built) = build(&languages).await;
    tools::say(&format!("polyglot: building took {:.0} s", begun.elapsed().as_secs_f64()));
    // Outside of CI there may be no network, from which most dependencies come.
    not_built.iter().for_each(|why| tools::skip(why));
    let begun = now();
    let cells = run(&built, &situations).await;
    tools::say(&format!("polyglot: playing took {:.0} s", begun.elapsed().as_secs_f64()));
    let table = Table { languages: built, situations, cells };
    table.write();
    let mut failed = table.failures();
    if words("POLYGLOT_ONLY").is_none() {
        failed.extend(libraries_that_do_not_heed_the_config(&table.languages).await);
    }
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
    table.is_what_the_readme_shows();
}
