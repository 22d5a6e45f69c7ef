//! `sagad create --from`: many sagas from lines of JSON.

use std::{fmt::Write as _, fs};

use super::cli_fixture::CliFixture;

const ID: &str = "6f1c2f0e-6f0e-4b6e-9d53-0f0a6b9f5f11";

fn lines(range: std::ops::Range<usize>) -> String {
    range.fold(String::new(), |mut text, number| {
        writeln!(text, r#"{{"taskId":"t-{number}","queue":"q","labels":{{"n":"{}"}}}}"#, number % 10).unwrap();
        text
    })
}

fn created(d: &CliFixture) -> i64 {
    let stats = d.one("stats");
    stats["ready"].as_str().unwrap_or("0").parse().unwrap()
}

#[test]
fn a_file_is_created_in_batches_and_a_repeat_creates_nothing_twice() {
    let d = CliFixture::start();
    fs::write(d.file("sagas.jsonl"), lines(0..2_500)).unwrap();
    let line = format!("create --from sagas.jsonl --request-id {ID}");
    let first = d.run(&line);
    assert_eq!((first.code, first.err.as_str()), (0, "sagad: created 2500 sagas\n"));
    let ids: Vec<&str> = first.out.lines().collect();
    assert_eq!((ids.len(), ids[0], ids[2_499]), (2_500, "t-0", "t-2499"));
    assert_eq!(created(&d), 2_500);
    let again = d.run(&line);
    assert_eq!((again.code, again.out), (0, first.out), "{}", again.err);
    assert_eq!((created(&d), d.events("t-1999").len()), (2_500, 1));
    // Without the request_id the same file is refused, and the refused batch creates nothing.
    let anew = d.run("create --from sagas.jsonl");
    assert_eq!(anew.code, 3, "{}", anew.err);
    assert!(
        anew.err.starts_with("sagad: line 1: task_id is taken")
            && anew.err.contains("SAGA_EXISTS")
            && !anew.err.contains("requests[")
            && anew.err.contains("0 sagas created before"),
        "{}",
        anew.err
    );
}

#[test]
fn each_batch_of_an_import_is_one_change() {
    let d = CliFixture::start();
    let mut wrong = lines(0..2_400);
    wrong.push_str("{\"taskId\":\"t-7\"}\n");
    let ran = d.run_with("create --from -", &wrong);
    // Two batches of a thousand are created; the third, with the repeated id, is not.
    assert_eq!((ran.code, ran.out.lines().count(), created(&d)), (3, 2_000, 2_000), "{}", ran.err);
    assert!(ran.err.contains("SAGA_EXISTS") && ran.err.contains("2000 sagas created before"), "{}", ran.err);
}

#[test]
fn a_bad_line_is_named_by_its_number() {
    let d = CliFixture::start();
    let mut bad = lines(0..1_200);
    bad.push_str("\n{\"taskId\":\"u-1\",\"queue\":\"no blanks\"}\n");
    let ran = d.run_with("create --from -", &bad);
    assert_eq!((ran.code, ran.out.lines().count()), (2, 1_000));
    assert!(ran.err.contains("line 1202"), "{}", ran.err);
    assert_eq!(created(&d), 1_000, "a batch is created whole or not at all");

    for (text, about) in [("{\"taskld\":1}", "taskld"), ("nonsense", "line 2"), ("[]", "line 2")] {
        let ran = d.run_with("create --from -", &format!("{{\"queue\":\"r\"}}\n{text}\n"));
        assert_eq!(ran.code, 2);
        assert!(ran.err.contains("line 2: ") && ran.err.contains(about), "{}", ran.err);
    }
    let ran = d.run_with("-o json create --from -", "nonsense\n");
    let error: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!((ran.code, error["error"]["reason"].as_str()), (2, Some("USAGE")));
}

#[test]
fn json_output_is_one_saga_per_line_and_an_empty_file_is_accepted() {
    let d = CliFixture::start();
    let ran = d.run_with("-o json create --from -", &lines(0..3));
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "no notes for people");
    let last: serde_json::Value = serde_json::from_str(ran.out.lines().last().unwrap()).unwrap();
    assert_eq!(last["labels"]["n"], "2");
    let ran = d.run_with("create --from -", "\n\n");
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "", "sagad: created 0 sagas\n"));
    let error = d.refused(2, "USAGE", "create --from nowhere.jsonl").to_string();
    assert!(error.contains("nowhere.jsonl"), "{error}");
}

#[test]
fn an_interrupted_import_can_be_continued() {
    let d = CliFixture::start();
    let mut broken = lines(0..1_500);
    broken.push_str("nonsense\n");
    assert_eq!(d.run_with("create --from -", &broken).code, 2);
    assert_eq!(created(&d), 1_000);
    let go_on = |input: &str| d.run_with("create --from - --skip-existing", input);
    let ran = go_on(&lines(0..2_500));
    assert_eq!((ran.code, ran.err.as_str()), (0, "sagad: created 1500 sagas, skipped 1000 that exist\n"));
    assert_eq!((ran.out.lines().count(), ran.out.lines().next()), (1_500, Some("t-1000")), "those that are new");
    assert_eq!(created(&d), 2_500);
    let ran = go_on(&lines(0..2_500));
    assert_eq!((ran.code, ran.out.as_str()), (0, ""));
    assert_eq!(ran.err, "sagad: created 0 sagas, skipped 2500 that exist\n");
    // Without the flag the error names it.
    let ran = d.run_with("create --from -", &lines(0..1));
    assert!(ran.code == 3 && ran.err.contains("--skip-existing skips sagas that exist"), "{}", ran.err);
}

#[test]
fn skip_existing_compares_the_task_id_only() {
    let d = CliFixture::start();
    let first = d.one("create --task-id t-1 --saga-id s-1 --branch one");
    let go_on = |input: &str| d.run_with("create --from - --skip-existing", input);
    let ran =
        go_on("{\"taskId\":\"a\"}\n{\"taskId\":\"t-1\",\"branch\":\"two\"}\n{\"taskId\":\"b\"}\n{\"taskId\":\"b\"}\n");
    assert_eq!((ran.code, ran.out.as_str()), (0, "a\nb\n"), "{}", ran.err);
    assert_eq!(
        ran.err, "sagad: created 2 sagas, skipped 2 that exist\n",
        "one that exists, and one from a line before"
    );
    assert_eq!(d.get("t-1"), first, "whatever the line says of it");
    let ran = go_on("{\"taskId\":\"c\"}\n{\"taskId\":\"d\",\"sagaId\":\"s-1\"}\n");
    assert_eq!((ran.code, ran.out.as_str()), (3, ""), "the saga id of another task");
    assert!(ran.err.contains("line 2: ") && ran.err.contains("SAGA_EXISTS"), "{}", ran.err);
    let ran = go_on("{\"taskId\":\"c\"}\n{\"queue\":\"q\"}\n");
    assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{}", ran.err);
    assert!(ran.err.starts_with("sagad: line 2: --skip-existing needs a taskId on each line"), "{}", ran.err);
    d.run(&format!("create --from x --skip-existing --request-id {ID}")).assert_usage();
    d.run("create --skip-existing --task-id x").assert_usage();
}

#[test]
fn a_byte_order_mark_is_ignored() {
    let d = CliFixture::start();
    let ran = d.run_with("create --from -", "\u{feff}{\"taskId\":\"a\"}\r\n{\"taskId\":\"b\"}\r\n");
    assert_eq!((ran.code, ran.out.as_str()), (0, "a\nb\n"), "{}", ran.err);
    let ran = d.run_with("create --from -", "{\"taskId\":\"c\"}\n\u{feff}{\"taskId\":\"d\"}\n");
    assert!(ran.code == 2 && ran.err.starts_with("sagad: line 2: "), "{}", ran.err);
}

#[test]
fn a_field_given_twice_is_refused_with_its_name() {
    let d = CliFixture::start();
    for (line, told) in [
        (r#"{"taskId":"a","taskId":"b"}"#, "`taskId` is given twice"),
        (r#"{"taskId":"a","task_id":"b"}"#, "`task_id` and `taskId` are the same field, given twice"),
        (r#"{"taskId":"a","labels":{"k":"1","k":"2"}}"#, "`k` is given twice"),
        (r#"{"taskId":"a","payload":"%"}"#, "payload: "),
        (r#"{"taskId":"a","compensations":[{"kind":"k","target":7}]}"#, "compensations[0].target: "),
    ] {
        let ran = d.run_with("create --from -", &format!("\n{line}\n"));
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{line}: {}", ran.err);
        assert!(ran.err.starts_with(&format!("sagad: line 2: {told}")), "{line}: {}", ran.err);
    }
    assert_eq!(d.json("list").len(), 0);
}
