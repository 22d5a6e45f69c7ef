//! What `sagad doctor` knows when it judges: all of it asked of the daemon, within bounds.

use std::{collections::BTreeMap, time::Duration};

use tonic::{Code, Status};

use crate::{
    cli::{paused::who_paused, text::micros},
    client::{Client, convert, time},
    proto::{
        GetServerInfoRequest, GetServerInfoResponse, GetStatsRequest, GetStatsResponse, GetVitalsRequest,
        GetVitalsResponse, ListSagasRequest, Queue, QueueStats, Saga, SagaState,
    },
};

/// Sagas of each sort that are looked at: enough to tell what is wrong with them all.
const SAGAS_MAX: usize = 1_000;
/// Answers that are read for them. A filter that wants little has many answers with nothing in them.
const ANSWERS_MAX: usize = 50;
/// Queues with a backlog whose workers are looked for.
const QUEUES_MAX: usize = 50;

/// The facts.
#[derive(Clone, Debug, Default)]
pub struct DoctorFacts {
    /// The version of this program.
    pub client_version: String,
    /// The daemon, its clock and its bounds.
    pub info: GetServerInfoResponse,
    /// How it fares; none: it is older than the question.
    pub vitals: Option<GetVitalsResponse>,
    /// How it fared a moment before.
    pub vitals_before: Option<GetVitalsResponse>,
    /// Counts.
    pub stats: GetStatsResponse,
    /// Who paused those paused queues in which the most is ready.
    pub queues: Vec<Queue>,
    /// The oldest stale sagas.
    pub stale: Vec<Saga>,
    /// The oldest compensating ones.
    pub compensating: Vec<Saga>,
    /// The oldest dispatched ones.
    pub dispatched: Vec<Saga>,
    /// The newest quarantined ones; a few.
    pub quarantined: Vec<Saga>,
    /// Of each queue that has had something ready for a while: whether somebody works on it.
    pub worked_on: BTreeMap<String, bool>,
    /// How long something has to stand to count.
    pub patience: Duration,
}

impl DoctorFacts {
    /// The coordinator's time in microseconds since 1970.
    pub fn now(&self) -> i64 {
        self.info.current_time.as_ref().map_or(0, micros)
    }

    /// For how long something has been so that began at a time.
    pub fn since(&self, begin: Option<&prost_types::Timestamp>) -> Duration {
        let begun = begin.map_or(i64::MAX, micros);
        Duration::from_micros(u64::try_from(self.now().saturating_sub(begun)).unwrap_or(0))
    }

    /// The paused queues in which something is ready, the most first.
    pub fn held_up(&self) -> Vec<&QueueStats> {
        let mut queues: Vec<_> = self.stats.queues.iter().filter(|queue| queue.paused && queue.ready > 0).collect();
        queues.sort_by_key(|queue| std::cmp::Reverse(queue.ready));
        queues
    }

    /// The queues in which something has been ready for a while, and which are not paused.
    pub fn backlogs(&self) -> impl Iterator<Item = &QueueStats> {
        let old = move |queue: &&QueueStats| ready_for(queue) >= self.patience;
        self.stats.queues.iter().filter(|queue| !queue.paused && queue.ready > 0).filter(old)
    }
}

/// How long the oldest ready saga of a queue has been so.
pub fn ready_for(queue: &QueueStats) -> Duration {
    queue.oldest_ready_age.as_ref().map(convert::from_proto).unwrap_or_default()
}

/// Asks the daemon for all of it. The vitals are asked for twice, `over` apart, to see what is happening now.
pub async fn collect(client: &Client, patience: Duration, over: Duration) -> Result<DoctorFacts, Status> {
    let vitals_before = vitals(client, false).await?;
    tokio::time::sleep(over).await;
    let mut facts = DoctorFacts {
        client_version: env!("CARGO_PKG_VERSION").to_owned(),
        vitals: vitals(client, true).await?,
        vitals_before,
        stats: client.sagas().get_stats(client.unary(GetStatsRequest {})).await?.into_inner(),
        stale: sagas(client, ListSagasRequest { stale_only: true, ..in_states(&[]) }, SAGAS_MAX).await?,
        compensating: sagas(client, in_states(&[SagaState::Compensating]), SAGAS_MAX).await?,
        dispatched: sagas(client, in_states(&[SagaState::Dispatched]), SAGAS_MAX).await?,
        quarantined: {
            let newest = ListSagasRequest { newest_first: true, ..in_states(&[SagaState::Quarantined]) };
            sagas(client, newest, 3).await?
        },
        patience,
        ..DoctorFacts::default()
    };
    let held_up = facts.held_up().into_iter().take(QUEUES_MAX).map(|queue| queue.queue.clone()).collect();
    facts.queues = who_paused(client, held_up, ANSWERS_MAX).await?;
    let backlogs: Vec<String> = facts.backlogs().take(QUEUES_MAX).map(|queue| queue.queue.clone()).collect();
    for queue in backlogs {
        let running = ListSagasRequest { queues: vec![queue.clone()], ..in_states(&[SagaState::Running]) };
        let live = sagas(client, running, SAGAS_MAX).await?.iter().any(|saga| !saga.stale);
        facts.worked_on.insert(queue, live);
    }
    // Last, so that no other time that was told is later.
    facts.info = client.admin().get_server_info(client.unary(GetServerInfoRequest {})).await?.into_inner();
    Ok(facts)
}

async fn vitals(client: &Client, look_for_unknown_holders: bool) -> Result<Option<GetVitalsResponse>, Status> {
    match client.admin().get_vitals(client.unary(GetVitalsRequest { look_for_unknown_holders })).await {
        Ok(vitals) => Ok(Some(vitals.into_inner())),
        Err(status) if status.code() == Code::Unimplemented => Ok(None),
        Err(status) => Err(status),
    }
}

fn in_states(states: &[SagaState]) -> ListSagasRequest {
    ListSagasRequest { states: states.iter().map(|state| (*state).into()).collect(), ..ListSagasRequest::default() }
}

async fn sagas(client: &Client, mut request: ListSagasRequest, most: usize) -> Result<Vec<Saga>, Status> {
    request.page_size = i32::try_from(most.min(SAGAS_MAX)).unwrap_or(0);
    let (mut sagas, begun) = (Vec::new(), time::now());
    for _ in 0..ANSWERS_MAX {
        let answer = client.sagas().list_sagas(client.unary(request.clone())).await?.into_inner();
        sagas.extend(answer.sagas);
        request.page_token = answer.next_page_token;
        let late = time::now().since(begun) > client.timeout();
        if sagas.len() >= most || request.page_token.is_empty() || late {
            break;
        }
    }
    sagas.truncate(most);
    Ok(sagas)
}
