//! Anything at all, as a request: no parser panics, and each names what is wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use proptest::prelude::*;
use prost_reflect::DescriptorPool;
use prost_types::Duration;

use super::*;
use crate::proto::*;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).unwrap());

/// Draws fields of requests out of random numbers: valid ones, absent ones, and each kind of bad one.
struct Dice(std::vec::IntoIter<u64>);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0.next().unwrap_or(0) % sides
    }

    fn text(&mut self) -> String {
        const TEXTS: [&str; 14] = [
            "",
            "t",
            "task-1",
            "a/b@c",
            "-",
            "..",
            "a..b",
            "ä",
            " ",
            "\0",
            "\u{202e}x",
            "0190d7f0-0000-7000-8000-000000000000",
            "%",
            "a\nb",
        ];
        match self.roll(16) {
            14 => "x".repeat(201 + self.roll(5000) as usize),
            15 => "💥".repeat(self.roll(20_000) as usize),
            i => TEXTS[i as usize].to_owned(),
        }
    }

    fn texts(&mut self) -> Vec<String> {
        (0..self.count()).map(|_| self.text()).collect()
    }

    fn count(&mut self) -> u64 {
        [0, 1, 2, 5, 130][self.roll(5) as usize]
    }

    fn number(&mut self) -> i64 {
        [0, 1, -1, 2, 7, 100, 1001, i64::MIN, i64::MAX, 1 << 53, (1 << 53) - 1][self.roll(11) as usize]
    }

    fn small(&mut self) -> i32 {
        [0, 1, -1, 2, 3, 5, 8, 9, 101, i32::MIN, i32::MAX][self.roll(11) as usize]
    }

    fn length(&mut self) -> Option<Duration> {
        match self.roll(4) {
            0 => None,
            1 => Some(Duration { seconds: 30, nanos: 0 }),
            _ => Some(Duration { seconds: self.number(), nanos: self.small().wrapping_mul(100_000_001) }),
        }
    }

    fn bytes(&mut self) -> bytes::Bytes {
        vec![7; [0, 3, 65_536, 65_537][self.roll(4) as usize]].into()
    }

    fn pairs(&mut self) -> BTreeMap<String, String> {
        (0..self.count()).map(|_| (self.text(), self.text())).collect()
    }

    fn specs(&mut self) -> Vec<CompensationSpec> {
        (0..self.count())
            .map(|_| CompensationSpec { kind: self.text(), target: self.text(), reason: self.text() })
            .collect()
    }

    fn flag(&mut self) -> bool {
        self.roll(2) == 1
    }

    fn policy(&mut self) -> Option<Policy> {
        self.flag().then(|| Policy {
            on_stale: self.small(),
            max_expirations: self.small(),
            on_failure: self.small(),
            max_attempts: self.small(),
            retry_backoff: self.length(),
            retry_backoff_max: self.length(),
            execution_timeout: self.length(),
            progress_timeout: self.length(),
            settle: self.length(),
            compensation_timeout: self.length(),
        })
    }

    fn create(&mut self) -> CreateSagaRequest {
        CreateSagaRequest {
            task_id: self.text(),
            saga_id: self.text(),
            queue: self.text(),
            priority: self.small(),
            issue: Some(self.number()),
            branch: self.text(),
            worktree: self.text(),
            labels: self.pairs(),
            payload: self.bytes(),
            compensations: self.specs(),
            policy: self.policy(),
            delay: self.length(),
            retry_of: self.text(),
            request_id: self.text(),
        }
    }
}

/// Every violation names a field that the message has, and says something.
fn judge<T, M>(parsed: Result<T, Violations>) -> Result<(), TestCaseError> {
    let Err(violations) = parsed else { return Ok(()) };
    let message = POOL.get_message_by_name(&full_name::<M>()).unwrap();
    let names: BTreeSet<String> = message.fields().map(|field| field.name().to_owned()).collect();
    let list = violations.into_list();
    prop_assert!(!list.is_empty());
    for (field, wrong) in &list {
        prop_assert!(!wrong.is_empty());
        let root = field.split(['[', '.']).next().unwrap_or_default();
        prop_assert!(names.contains(root) || wrong.contains("more violations"), "{field}: {wrong}");
    }
    let status = tonic::Status::from(crate::grpc::status::Problem::from(violations_of(list)));
    let header: usize = status.details().len().div_ceil(3) * 4 + 3 * status.message().len();
    prop_assert!(header < 8 * 1024, "the error fits into a header: {header}");
    Ok(())
}

/// The name of a generated message in the contract.
fn full_name<M>() -> String {
    let path = std::any::type_name::<M>();
    format!("sagad.v1.{}", path.rsplit("::").next().unwrap())
}

fn violations_of(list: Vec<(String, String)>) -> Violations {
    let mut violations = Violations::default();
    for (field, wrong) in list {
        violations.add(field, wrong);
    }
    violations
}

macro_rules! never_panics {
    ($($test:ident: $request:ident, |$dice:ident| $message:expr;)*) => {
        proptest! {
            #![proptest_config(ProptestConfig::with_cases(96))]
            $(
                #[test]
                fn $test(rolls in prop::collection::vec(any::<u64>(), 0..64)) {
                    let mut dice = Dice(rolls.into_iter());
                    let $dice = &mut dice;
                    judge::<_, $request>(request::<$request>($message))?;
                }
            )*
        }
    };
}

never_panics! {
    create: CreateSagaRequest, |d| d.create();
    batch_create: BatchCreateSagasRequest, |d| BatchCreateSagasRequest {
        requests: (0..d.count()).map(|_| d.create()).collect(),
        request_id: d.text(),
    };
    dispatch: DispatchRequest, |d| DispatchRequest {
        task_id: d.text(), assignee: d.text(), ttl: d.length(), actor: d.text(), reason: d.text(), request_id: d.text(),
    };
    claim: ClaimRequest, |d| ClaimRequest {
        task_id: d.text(), owner_id: d.text(), ttl: d.length(), purpose: d.small(), reason: d.text(),
        request_id: d.text(),
    };
    claim_next: ClaimNextRequest, |d| ClaimNextRequest {
        queues: d.texts(), owner_id: d.text(), ttl: d.length(), max_sagas: d.small(), wait: d.length(),
        purpose: d.small(), compensation_kinds: d.texts(), request_id: d.text(),
    };
    heartbeat: HeartbeatRequest, |d| HeartbeatRequest {
        task_id: d.text(), owner_id: d.text(), fencing_token: d.number(), ttl: d.length(), progress: Some(d.bytes()),
    };
    keep_alive: KeepAliveRequest, |d| KeepAliveRequest {
        task_id: d.text(), owner_id: d.text(), fencing_token: d.number(), ttl: d.length(), progress: None,
    };
    release: ReleaseRequest, |d| ReleaseRequest {
        task_id: d.text(), owner_id: d.text(), fencing_token: d.number(), delay: d.length(), reason: d.text(),
        request_id: d.text(),
    };
    register: RegisterCompensationRequest, |d| RegisterCompensationRequest {
        task_id: d.text(), owner_id: d.text(), fencing_token: d.number(), compensations: d.specs(),
        request_id: d.text(),
    };
    complete: CompleteRequest, |d| CompleteRequest {
        task_id: d.text(), owner_id: d.text(), fencing_token: d.number(), result: d.bytes(), reason: d.text(),
        request_id: d.text(),
    };
    fail: FailRequest, |d| FailRequest {
        task_id: d.text(), owner_id: d.text(), fencing_token: d.number(), reason: d.text(), compensations: d.specs(),
        retryable: d.flag(), request_id: d.text(),
    };
    record: RecordCompensationRequest, |d| RecordCompensationRequest {
        task_id: d.text(), owner_id: d.text(), fencing_token: d.number(), position: d.small(), outcome: d.small(),
        detail: d.text(), request_id: d.text(),
    };
    waive: WaiveCompensationRequest, |d| WaiveCompensationRequest {
        task_id: d.text(), position: d.small(), actor: d.text(), reason: d.text(), request_id: d.text(),
    };
    compensate: CompensateRequest, |d| CompensateRequest {
        task_id: d.text(), owner_id: d.text(), fencing_token: d.number(), reason: d.text(), request_id: d.text(),
    };
    quarantine: QuarantineRequest, |d| QuarantineRequest {
        task_id: d.text(), reason: d.text(), owner_id: d.text(), fencing_token: d.number(), actor: d.text(),
        revoke_lease: d.flag(), request_id: d.text(),
    };
    recover: RecoverRequest, |d| RecoverRequest {
        task_id: d.text(), decision: d.small(), actor: d.text(), reason: d.text(), fencing_token: d.number(),
        validate_only: d.flag(), request_id: d.text(),
    };
    cancel: RequestCancelRequest, |d| RequestCancelRequest {
        task_id: d.text(), actor: d.text(), reason: d.text(), revoke_lease: d.flag(), request_id: d.text(),
    };
    annotate: AnnotateRequest, |d| AnnotateRequest {
        task_id: d.text(), actor: d.text(), note: d.text(), details: d.pairs(), terminal_reason: d.text(),
        request_id: d.text(),
    };
    pause: PauseQueueRequest, |d| PauseQueueRequest { queue: d.text(), actor: d.text(), reason: d.text() };
    resume: ResumeQueueRequest, |d| ResumeQueueRequest { queue: d.text(), actor: d.text(), reason: d.text() };
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn looks_never_panic(rolls in prop::collection::vec(any::<u64>(), 0..64)) {
        let mut d = Dice(rolls.into_iter());
        let get = GetSagaRequest { task_id: d.text(), saga_id: d.text() };
        judge::<_, GetSagaRequest>(queries::get_saga(&get))?;
        let list = ListSagasRequest {
            states: (0..d.count()).map(|_| d.small()).collect(),
            queues: d.texts(),
            owner_id: d.text(),
            labels: d.pairs(),
            issue: None,
            stale_only: d.flag(),
            in_flight_only: d.flag(),
            newest_first: d.flag(),
            page_size: d.small(),
            page_token: d.text(),
        };
        judge::<_, ListSagasRequest>(queries::list_sagas(list))?;
        let events = ListEventsRequest { task_id: d.text(), page_size: d.small(), page_token: d.text() };
        judge::<_, ListEventsRequest>(queries::list_events(events))?;
        let stale = WatchStaleRequest { queues: d.texts(), after_revision: Some(d.number()), snapshot_only: d.flag() };
        judge::<_, WatchStaleRequest>(queries::watch_stale(&stale))?;
        let watch = WatchEventsRequest { task_id: d.text(), queues: d.texts(), after_revision: Some(d.number()) };
        judge::<_, WatchEventsRequest>(queries::watch_events(&watch))?;
        let purge = PurgeSagasRequest {
            states: (0..d.count()).map(|_| d.small()).collect(),
            older_than: d.length(),
            max_sagas: d.small(),
            actor: d.text(),
            reason: d.text(),
            validate_only: d.flag(),
        };
        judge::<_, PurgeSagasRequest>(free::purge(&purge))?;
    }
}
