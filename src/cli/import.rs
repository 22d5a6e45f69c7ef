//! `sagad create --from`: creates many sagas from lines of JSON, in batches. A batch is created whole or not at all.
//! With `--request-id`, a batch's own id is derived from that id and the batch's position. So an interrupted run can be
//! repeated and creates nothing twice, within the hour for which the coordinator remembers the ids. With
//! `--skip-existing`, a run can be continued at any time.

use std::{
    collections::HashSet,
    io::{self, IsTerminal},
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use prost::Message;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};
use uuid::{Builder, Uuid};

use super::{
    context::Context,
    errors::CliError,
    json,
    output::{Format, notice},
    text,
};
use crate::{
    client::{StatusDetails, retry::RetryOn, time},
    proto::{BatchCreateSagasRequest, CreateSagaRequest, GetSagaRequest},
};

/// The coordinator accepts at most 1,000 sagas and 2 MiB in a batch. The limit on bytes is well below that, since no
/// saga is created before the whole batch has arrived.
const BATCH_SAGAS_MAX: usize = 1_000;
const BATCH_BYTES_MAX: usize = 3 << 19;

/// A line has a saga with at most 64 KiB of payload (in base64) and its other fields. If a line is longer than this,
/// the file is something else.
const LINE_BYTES_MAX: usize = 4 << 20;

/// How long a batch is retried while the coordinator is busy or restarts.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many sagas are looked up at a time to find out which of a batch exist. This hides the round-trip time and puts
/// little load on the coordinator.
const LOOKUPS: usize = 16;

/// Lines read and not sent yet.
#[derive(Default)]
struct ImportBatch {
    requests: Vec<CreateSagaRequest>,
    /// The line number of each request, counted from 1.
    lines: Vec<u64>,
    bytes: usize,
    /// The task ids of the requests.
    ids: HashSet<String>,
}

impl ImportBatch {
    fn has_room_for(&self, request: &CreateSagaRequest) -> bool {
        self.requests.is_empty()
            || (self.requests.len() < BATCH_SAGAS_MAX && self.bytes + cost(request) <= BATCH_BYTES_MAX)
    }

    fn push(&mut self, request: CreateSagaRequest, line: u64) {
        self.bytes += cost(&request);
        self.ids.insert(request.task_id.clone());
        self.requests.push(request);
        self.lines.push(line);
    }

    /// Drops the requests whose entry in `exists` is true; returns how many.
    fn drop_where(&mut self, exists: &[bool]) -> usize {
        let before = self.requests.len();
        let mut places = exists.iter();
        self.requests.retain(|_| places.next() != Some(&true));
        let mut places = exists.iter();
        self.lines.retain(|_| places.next() != Some(&true));
        before - self.requests.len()
    }
}

/// A request's length in a batch, its tag and length prefix included.
fn cost(request: &CreateSagaRequest) -> usize {
    request.encoded_len() + 6
}

/// Creates the sagas in the file.
pub async fn run(context: &Context, file: &str, request_id: Option<Uuid>, skip_existing: bool) -> Result<(), CliError> {
    let unreadable = |error: io::Error| CliError::Usage(format!("can't read {file}: {error}"));
    let (lines, length): (Lines, Option<u64>) = if file == "-" {
        (Box::new(BufReader::new(tokio::io::stdin())), None)
    } else {
        let opened = tokio::fs::File::open(file).await.map_err(unreadable)?;
        let length = opened.metadata().await.map_err(unreadable)?.len();
        (Box::new(BufReader::new(opened)), Some(length))
    };
    let bar = progress(length);
    let mut import = Import { context, request_id, skip_existing, bar, batches: 0, created: 0, skipped: 0 };
    let result = import.all(lines, file).await;
    import.bar.finish_and_clear();
    if context.output.format() == Format::Text && (result.is_ok() || import.created > 0) {
        let skipped = if skip_existing { format!(", skipped {} that exist", import.skipped) } else { String::new() };
        notice(&format!("created {}{skipped}", counted(import.created)));
    }
    result
}

fn counted(sagas: usize) -> String {
    text::counted(i64::try_from(sagas).unwrap_or(i64::MAX), "saga")
}

type Lines = Box<dyn AsyncBufRead + Unpin + Send>;

/// Reads a line; false at the end of the input. It stops in a line that is far too long, so that the line doesn't fill
/// the memory.
async fn read_line(lines: &mut (dyn AsyncBufRead + Unpin + Send), line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    loop {
        let available = lines.fill_buf().await?;
        if available.is_empty() {
            return Ok(!line.is_empty());
        }
        let (taken, ended) = match available.iter().position(|byte| *byte == b'\n') {
            Some(end) => (end + 1, true),
            None => (available.len(), false),
        };
        line.extend_from_slice(&available[..taken]);
        lines.consume(taken);
        if ended || line.len() > LINE_BYTES_MAX {
            return Ok(true);
        }
    }
}

/// A progress bar by bytes, if the length is known and stderr is a terminal.
fn progress(length: Option<u64>) -> ProgressBar {
    match length {
        Some(length) if io::stderr().is_terminal() => {
            let template = "{wide_bar} {bytes}/{total_bytes} {eta}";
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(length).with_style(style)
        }
        Some(_) | None => ProgressBar::hidden(),
    }
}

struct Import<'a> {
    context: &'a Context,
    request_id: Option<Uuid>,
    skip_existing: bool,
    bar: ProgressBar,
    batches: u64,
    created: usize,
    skipped: usize,
}

impl Import<'_> {
    async fn all(&mut self, mut lines: Lines, file: &str) -> Result<(), CliError> {
        let mut batch = ImportBatch::default();
        let mut line = Vec::new();
        let mut number = 0;
        loop {
            let read = read_line(&mut *lines, &mut line).await;
            if !read.map_err(|error| CliError::Usage(format!("can't read {file}: {error}")))? {
                break;
            }
            number += 1;
            self.bar.inc(line.len() as u64);
            let at = |wrong: &str| CliError::Usage(format!("line {number}: {wrong}"));
            if line.len() > LINE_BYTES_MAX {
                return Err(at("too long"));
            }
            let content = std::str::from_utf8(&line).map_err(|_| at("not UTF-8"))?;
            // Editors on Windows begin a file with a byte order mark. On later lines it is not valid JSON.
            let content =
                if number == 1 { content.strip_prefix('\u{feff}').unwrap_or(content) } else { content }.trim();
            if content.is_empty() {
                continue;
            }
            let request: CreateSagaRequest = json::parse(content).map_err(|error| at(&error))?;
            if self.skip_existing && request.task_id.is_empty() {
                return Err(at("--skip-existing needs a taskId on each line: a saga without one is new in each run"));
            }
            if !batch.has_room_for(&request) {
                self.send(std::mem::take(&mut batch)).await?;
            }
            if self.skip_existing && batch.ids.contains(&request.task_id) {
                self.skipped += 1;
            } else {
                batch.push(request, number);
            }
        }
        if batch.requests.is_empty() { Ok(()) } else { self.send(batch).await }
    }

    /// Creates the sagas of the batch; with `--skip-existing`, only those that don't exist.
    async fn send(&mut self, mut batch: ImportBatch) -> Result<(), CliError> {
        while !batch.requests.is_empty() {
            let refusal = match self.create(&batch).await? {
                Ok(()) => return Ok(()),
                Err(refusal) => refusal,
            };
            let skip = self.skip_existing && refusal.reason == "SAGA_EXISTS";
            let existing = if skip { self.existing(&batch).await? } else { Vec::new() };
            let dropped = batch.drop_where(&existing);
            // There is nothing to skip: the refusal has another reason, or a saga id is in use by another saga.
            if dropped == 0 {
                return Err(self.failed(&refusal, &batch.lines));
            }
            self.skipped += dropped;
        }
        Ok(())
    }

    /// For each request of a batch, whether a saga with its task id exists.
    async fn existing(&self, batch: &ImportBatch) -> Result<Vec<bool>, CliError> {
        let ids = batch.requests.iter().map(|request| request.task_id.clone());
        stream::iter(ids).map(|task_id| self.exists(task_id)).buffered(LOOKUPS).try_collect().await
    }

    async fn exists(&self, task_id: String) -> Result<bool, CliError> {
        let request = GetSagaRequest { task_id, saga_id: String::new() };
        let give_up = time::now() + PATIENCE;
        let call = self.context.client.call(
            request,
            RetryOn::Unknown,
            || give_up,
            |mut c, r| async move { c.get_saga(r).await },
        );
        match call.await {
            Ok(_) => Ok(true),
            Err(status) if StatusDetails::from(&status).reason == "SAGA_NOT_FOUND" => Ok(false),
            Err(status) => Err(status.into()),
        }
    }

    /// Creates the whole batch and prints its sagas. The inner error is the coordinator's refusal.
    async fn create(&mut self, batch: &ImportBatch) -> Result<Result<(), StatusDetails>, CliError> {
        let request_id = match self.request_id {
            Some(id) => batch_id(id, self.batches),
            None => Uuid::new_v4(),
        };
        self.batches += 1;
        let request = BatchCreateSagasRequest { requests: batch.requests.clone(), request_id: request_id.to_string() };
        let give_up = time::now() + PATIENCE;
        let call = self.context.client.call(
            request,
            RetryOn::Unknown,
            || give_up,
            |mut c, r| async move { c.batch_create_sagas(r).await },
        );
        let answer = match call.await {
            Ok(answer) => answer,
            Err(status) => return Ok(Err(StatusDetails::from(&status))),
        };
        self.created += answer.sagas.len();
        let output = &self.context.output;
        let show = || answer.sagas.iter().try_for_each(|saga| output.message(saga, |saga| saga.task_id.clone()));
        // The printed sagas and the bar may share a terminal.
        self.bar.suspend(show).map(Ok)
    }

    /// The error, with line numbers instead of indices, and the number of sagas that were created before.
    fn failed(&self, refusal: &StatusDetails, lines: &[u64]) -> CliError {
        let mut refusal = refusal.clone();
        let mut named: Vec<u64> = Vec::new();
        for (field, _) in &mut refusal.violations {
            if let Some((index, rest)) = index_of(field)
                && let Some(line) = lines.get(index)
            {
                named.push(*line);
                *field = format!("line {line}{rest}");
            }
        }
        let index = refusal.metadata.get("index").and_then(|index| index.parse::<usize>().ok());
        let index = index.or_else(|| refusal.metadata.get("field").and_then(|field| index_of(field)).map(|at| at.0));
        named.extend(index.and_then(|index| lines.get(index)));
        let place = match (named.first(), lines.first(), lines.last()) {
            (Some(line), _, _) => format!("line {line}"),
            (None, Some(first), Some(last)) => format!("lines {first} to {last}"),
            (None, _, _) => "the last batch".to_owned(),
        };
        // The index in the batch means nothing to the user.
        let index = refusal.metadata.remove("index");
        if refusal.metadata.get("field").is_some_and(|field| index_of(field).is_some()) {
            refusal.metadata.remove("field");
        }
        let message =
            index.map_or(refusal.message.clone(), |at| refusal.message.replace(&format!("requests[{at}]."), ""));
        let hint = if refusal.reason == "SAGA_EXISTS" && !self.skip_existing {
            "; --skip-existing skips sagas that exist"
        } else {
            ""
        };
        refusal.message = format!("{place}: {message} ({} created before{hint})", counted(self.created));
        let request_id = self.request_id.map(|id| id.to_string());
        CliError::Call { refusal: Box::new(refusal), request_id }
    }
}

/// The index in `requests[7].queue`, and the text after it.
fn index_of(field: &str) -> Option<(usize, &str)> {
    let (index, rest) = field.strip_prefix("requests[")?.split_once(']')?;
    Some((index.parse().ok()?, rest))
}

/// The id of a batch: the same if the run's `--request-id` and the batch's position are the same.
fn batch_id(run: Uuid, place: u64) -> Uuid {
    let mut digest = Sha256::new();
    digest.update(b"sagad create --from");
    digest.update(run.as_bytes());
    digest.update(place.to_be_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.finalize()[..16]);
    Builder::from_custom_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn batches_are_bounded_by_number_and_bytes() {
        let mut batch = ImportBatch::default();
        let large = CreateSagaRequest { payload: Bytes::from(vec![0; 60_000]), ..CreateSagaRequest::default() };
        let mut count = 0;
        while batch.has_room_for(&large) {
            batch.push(large.clone(), count);
            count += 1;
        }
        assert!(
            BatchCreateSagasRequest { requests: batch.requests, request_id: String::new() }.encoded_len() <= 3 << 19
        );
        assert_eq!(count, 26);
        let mut batch = ImportBatch::default();
        let small = CreateSagaRequest::default();
        (0..1_000).for_each(|line| batch.push(small.clone(), line));
        assert!(!batch.has_room_for(&small));
    }

    #[test]
    fn batch_ids_depend_on_the_request_id_and_the_position() {
        let run = Uuid::from_u128(7);
        assert_eq!(batch_id(run, 1), batch_id(run, 1));
        assert_ne!(batch_id(run, 1), batch_id(run, 2));
        assert_ne!(batch_id(run, 1), batch_id(Uuid::from_u128(8), 1));
    }

    #[test]
    fn an_index_is_parsed_from_a_field_path() {
        assert_eq!(index_of("requests[12].compensations[0].kind"), Some((12, ".compensations[0].kind")));
        assert_eq!(index_of("queue"), None);
    }

    #[tokio::test]
    async fn read_line_returns_one_line_at_a_time() {
        let mut input: &[u8] = b"one\ntwo";
        let mut line = Vec::new();
        assert!(read_line(&mut input, &mut line).await.expect("readable") && line == b"one\n");
        assert!(read_line(&mut input, &mut line).await.expect("readable") && line == b"two");
        assert!(!read_line(&mut input, &mut line).await.expect("readable"));
    }
}
