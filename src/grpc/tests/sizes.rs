//! Answers are no larger than clients accept, and errors fit into headers, whatever is stored or quoted in them.

use std::sync::Arc;

use proptest::prelude::*;
use prost::Message;
use tonic::Status;

use crate::{
    domain::{
        bounds::ANSWER_BYTES,
        compensation::{Compensation, CompensationSpec},
        ids::{FencingToken, OwnerId, TaskId},
        lease::RestartGrace,
        rejection::{CommandRefusal, Rejection, UnextendedLease},
        saga::{Saga, Spec, State},
        text::{Blob, Kind, Text},
        time::{Span, Timestamp},
    },
    grpc::{
        problem::Problem,
        render::{self, saga::sagas},
    },
    proto,
    store::{ReadTime, StoreError, memory::testing::planned},
};

/// The header size that some clients are limited to, in bytes.
const HEADER_BYTES: usize = 8 * 1024;

/// The sizes of a saga's parts: payload, result, number of compensations, and their texts.
type Size = (usize, usize, u32, usize);

fn saga(place: usize, (payload, result, compensations, text): Size) -> Saga {
    let small = planned(&format!("task-{place}"), "q");
    let blob = |length: usize| Blob::parse(vec![7; length].into()).unwrap();
    let text = Text::parse(&"t".repeat(text)).unwrap();
    let spec = CompensationSpec { kind: Kind::parse("k").unwrap(), target: text.clone(), reason: text };
    Saga {
        spec: Arc::new(Spec { payload: blob(payload), ..Spec::clone(&small.spec) }),
        compensations: (1..=compensations).map(|at| Compensation::pending(at, spec.clone(), None)).collect(),
        result: blob(result),
        ..small
    }
}

fn sizes() -> impl Strategy<Value = Vec<Size>> {
    let bytes = || prop_oneof![Just(0_usize), 0..65_537_usize, Just(65_536)];
    let one = (bytes(), bytes(), prop_oneof![Just(0_u32), 0..129_u32], prop_oneof![0..100_usize, Just(4096)]);
    prop::collection::vec(one, 1..101)
}

/// Texts that become longer in a header.
fn words() -> impl Strategy<Value = String> {
    prop_oneof![".{0,200}", "💥{0,1000}", "[%\\x00-\\x1f]{0,4000}", "x{0,4096}"]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn p12_an_answer_is_no_larger_than_clients_accept(sizes in sizes()) {
        let stored: Vec<Saga> = sizes.into_iter().enumerate().map(|(place, size)| saga(place, size)).collect();
        let read_time = ReadTime { now: Timestamp::from_micros(1_700_000_000_000_000), grace: RestartGrace::default() };
        let shown = sagas(&stored, &read_time);
        prop_assert!(shown.iter().map(|saga| &saga.task_id).eq(stored.iter().map(|saga| saga.task_id().as_str())));
        let answer = proto::ClaimNextResponse { sagas: shown, waited: Some(render::span(Span::from_secs(60))) };
        prop_assert!(answer.encoded_len() <= ANSWER_BYTES, "{}", answer.encoded_len());
    }
}

proptest! {
    #[test]
    fn p12_an_error_fits_into_a_header(words in words(), id in "[a-z][a-z0-9/@+-]{0,199}", at: i64) {
        let text = Text::own(&words);
        let owner = OwnerId::parse(&id).unwrap();
        let (then, soon) = (Timestamp::from_micros(at), Span::from_secs(3));
        let standing = UnextendedLease { expire_time: then, cancel_reason: Some(text) };
        for why in [
            Rejection::LeaseHeld { owner: owner.clone(), token: FencingToken(at), expire_time: then, retry_after: soon },
            Rejection::DispatchedElsewhere { assignee: owner.clone(), expire_time: then, retry_after: soon },
            Rejection::NotOwner { owner },
            Rejection::WrongState { detail: words.as_str().into() },
            Rejection::CompensationPending { kinds: words.as_str().into() },
            Rejection::LeaseNotExtended(standing.clone()),
            Rejection::ExecutionTimeout(standing.clone()),
            Rejection::ProgressTimeout(standing),
        ] {
            let task_id = TaskId::parse(&id).ok();
            let refusal = CommandRefusal { task_id, state: Some(State::Compensating), index: Some(999), why };
            let status = Status::from(Problem::from(StoreError::Refused(Box::new(refusal))));
            let header = status.details().len().div_ceil(3) * 4 + 3 * status.message().len();
            prop_assert!(header < HEADER_BYTES, "{header}: {status:?}");
        }
        for error in [StoreError::Unavailable(words.clone()), StoreError::Corrupt(words)] {
            let status = Status::from(Problem::from(error));
            let header = status.details().len().div_ceil(3) * 4 + 3 * status.message().len();
            prop_assert!(header < HEADER_BYTES, "{header}: {status:?}");
        }
    }
}
