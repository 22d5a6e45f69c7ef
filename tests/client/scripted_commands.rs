//! Commands with a scripted coordinator: output, exit codes, pages, batches.

use std::io::Write;

use sagad::proto::*;
use tokio::process::Command;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::support::SAGAD;
use crate::support::fake_coordinator::{FakeCoordinator, ReceivedCall, binary::*, refusal, saga};

const TTL_MS: i64 = 600;

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_an_exit_code_and_are_printed_as_text_and_json() {
    let metadata = [("owner_id", "worker-7"), ("expire_time", "2020-01-02T03:04:05Z")];
    let claim = Box::new(move |number, _: &_| {
        Err(if number < 2 {
            refusal(Code::FailedPrecondition, "LEASE_HELD", &metadata)
        } else {
            refusal(Code::NotFound, "SAGA_NOT_FOUND", &[])
        })
    });
    let (client, _fake) = FakeCoordinator { claim, ..FakeCoordinator::default() }.start().await;
    let (code, stdout, stderr) = run(client.server(), &["claim", "t-1"]).await;
    assert_eq!((code, stdout.as_str()), (3, ""));
    assert!(
        stderr.contains("LEASE_HELD") && stderr.contains("owner_id: worker-7") && stderr.contains("ago"),
        "{stderr}"
    );
    let (code, _, stderr) = run(client.server(), &["claim", "t-1", "-o", "json"]).await;
    assert_eq!(code, 3);
    assert!(stderr.starts_with(r#"{"error":{"code":"FAILED_PRECONDITION""#) && stderr.trim().lines().count() == 1);
    assert_eq!(run(client.server(), &["claim", "t-1"]).await.0, 4);
    assert_eq!(run("http://127.0.0.1:1", &["claim", "t-1"]).await.0, 5);
    assert_eq!(run("nonsense", &["claim", "t-1"]).await.0, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_read_all_pages_up_to_their_limit() {
    let list_sagas = Box::new(|_, request: &ListSagasRequest| {
        let first: usize = request.page_token.parse().unwrap_or(0);
        let sagas = (first..first + 10).map(|n| Saga { task_id: format!("t-{n}"), ..saga(TTL_MS) }).collect();
        let next_page_token = if first < 90 { (first + 10).to_string() } else { String::new() };
        Ok(ListSagasResponse { sagas, next_page_token })
    });
    let (client, _fake) = FakeCoordinator { list_sagas, ..FakeCoordinator::default() }.start().await;
    let (code, stdout, _) = run(client.server(), &["list"]).await;
    assert_eq!((code, stdout.lines().count()), (0, 101), "one header: {stdout}");
    assert!(stdout.lines().all(|line| line.chars().count() <= 100 && !line.contains('\u{1b}')), "{stdout}");
    let (_, stdout, _) = run(client.server(), &["list", "-o", "json", "--limit", "25"]).await;
    assert_eq!(stdout.lines().count(), 25);
    assert!(stdout.lines().all(|line| line.starts_with(r#"{"taskId":"t-"#)), "{stdout}");

    let pipe = format!("{SAGAD} list | head -n 1");
    let piped = Command::new("sh").args(["-c", &pipe]).env("SAGAD_SERVER", client.server()).output().await;
    let piped = piped.expect("sh runs");
    assert!(piped.stderr.is_empty(), "{}", String::from_utf8_lossy(&piped.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn sagas_are_created_in_batches_with_request_ids_derived_from_the_runs() {
    let create = |_, request: &BatchCreateSagasRequest| {
        if let Some(wrong) = request.requests.iter().position(|one| one.queue == "wrong") {
            let mut details = ErrorDetails::new();
            details.add_bad_request_violation(format!("requests[{wrong}].queue"), "is wrong");
            return Err(Status::with_error_details(Code::InvalidArgument, "1 violation", details));
        }
        let saga = |one: &CreateSagaRequest| Saga { task_id: one.task_id.clone(), ..Saga::default() };
        Ok(BatchCreateSagasResponse { sagas: request.requests.iter().map(saga).collect() })
    };
    let (client, fake) =
        FakeCoordinator { batch_create_sagas: Box::new(create), ..FakeCoordinator::default() }.start().await;
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    for number in 0..1_500 {
        writeln!(file, r#"{{"taskId":"t-{number}","queue":"q"}}"#).expect("written");
    }
    let path = file.path().to_str().expect("text").to_owned();
    let id = "6f1c2f0e-6f0e-4b6e-9d53-0f0a6b9f5f11";
    for _ in 0..2 {
        let (code, stdout, stderr) = run(client.server(), &["create", "--from", &path, "--request-id", id]).await;
        assert_eq!((code, stdout.lines().count(), stderr.trim()), (0, 1_500, "sagad: created 1500 sagas"));
    }
    let batches: Vec<(usize, String)> = fake
        .calls_received()
        .iter()
        .map(|seen| match seen {
            ReceivedCall::batch_create_sagas(request) => (request.requests.len(), request.request_id.clone()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(batches.iter().map(|batch| batch.0).collect::<Vec<_>>(), [1_000, 500, 1_000, 500]);
    assert_eq!(batches[..2], batches[2..], "a repeated run repeats its ids");
    assert_ne!(batches[0].1, batches[1].1);

    writeln!(file, "\n{{\"queue\":\"wrong\"}}").expect("written");
    let (code, stdout, stderr) = run(client.server(), &["create", "--from", &path]).await;
    assert_eq!((code, stdout.lines().count()), (2, 1_000), "the first batch is created");
    assert!(stderr.contains("line 1502") && stderr.contains("line 1502.queue: is wrong"), "{stderr}");

    writeln!(file, "{{\"taskld\":1}}").expect("written");
    let (code, _, stderr) = run(client.server(), &["create", "--from", &path]).await;
    assert_eq!(code, 2);
    assert!(stderr.contains("line 1503") && stderr.contains("taskld"), "{stderr}");
}
