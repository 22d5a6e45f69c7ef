//! `RevokePrincipal`: ends everything a principal has. Also finds holders of leases that are no configured principals.
//!
//! Leases are found by reading and ended by separate changes, so that other calls are served in between. All leases are
//! found because of the order: first the principal's calls are revoked, after which no turn of the writer gives it a lease;
//! then this waits for the writer, so that leases from earlier turns can be read.

use std::collections::BTreeMap;

use futures::{StreamExt, stream};
use tracing::info;

use crate::{
    domain::{
        command::{Change, Command, Operation, Request, UnleasedOperation},
        ids::{FencingToken, OwnerId, TaskId},
        principal::PrincipalName,
        saga::State,
    },
    proto,
    store::{CallOrigin, Credentials, Cursor, Filter, ListQuery, ReadCaller, ReadTime, SagaPage, Store, StoreError},
};

use super::{
    caller::{AuthenticatedCaller, Principals},
    handler_context::HandlerContext,
    parse::{set_actor, unleased_operations},
    problem::Problem,
    render::count,
};

/// Leases read at a time.
const PAGE: usize = 500;
/// Leases that are being ended at a time: a fraction of the writer's queue, so that a revocation can't fill it.
const CONCURRENT: usize = 64;
/// Most holders in an answer.
const HOLDERS_MAX: usize = 1000;
/// Most sagas in flight that are searched for holders: about a second of reading.
const SAGAS_SEARCHED_MAX: usize = 100_000;

/// Ends the leases, the streams and the waiting calls of a principal.
pub(super) async fn revoke_principal(
    context: &HandlerContext,
    principals: Option<&dyn Principals>,
    caller: &AuthenticatedCaller,
    mut request: proto::RevokePrincipalRequest,
) -> Result<proto::RevokePrincipalResponse, Problem> {
    if let Some(name) = caller.principal_name() {
        set_actor(name, &mut request.actor);
    }
    let wanted = unleased_operations::revoke_principal(&request)?;
    let authorization = caller.authorize("RevokePrincipal", false)?;
    let store = context.store(&authorization, caller)?;
    let known = match principals {
        Some(principals) if wanted.validate_only => {
            principals.names().iter().any(|name| name.as_str() == wanted.principal.as_str())
        }
        Some(principals) => principals.end_calls(wanted.principal.as_str()),
        None => false,
    };
    store.caught_up().await?;
    // A principal that revokes itself may finish this call.
    let credentials = caller
        .credentials()
        .filter(|_| caller.principal_name().is_none_or(|name| name.as_str() != wanted.principal.as_str()));
    let mut revoked = 0;
    let store = store.read_for(ReadCaller { share: caller.key(), credentials: credentials.clone() });
    let mut leases = LiveLeases::held_by(&store, &wanted.principal);
    let more = loop {
        let Some(mut page) = leases.next().await? else { break false };
        let left = wanted.max_leases - revoked;
        let beyond = page.len() > left;
        page.truncate(left);
        revoked +=
            if wanted.validate_only { page.len() } else { end_all(&store, page, &wanted, credentials.clone()).await? };
        if beyond {
            break true;
        }
    };
    if !wanted.validate_only {
        let (principal, actor, reason) = (wanted.principal.as_str(), wanted.actor.as_str(), wanted.reason.as_str());
        info!(principal, actor, reason, revoked, more, "revoked a principal's leases");
    }
    Ok(proto::RevokePrincipalResponse { revoked_leases: count(revoked), more, known })
}

/// Ends these leases. Returns how many were still live. After an error the others may have ended, too.
async fn end_all(
    store: &Store,
    leases: Vec<(TaskId, FencingToken)>,
    wanted: &unleased_operations::Revocation,
    credentials: Option<Credentials>,
) -> Result<usize, Problem> {
    let ended = stream::iter(leases).map(|(task_id, token)| {
        let operation =
            UnleasedOperation::RevokeLease { token, actor: wanted.actor.clone(), reason: wanted.reason.clone() };
        let command = Command::Change(Change { task_id, operation: Operation::Unleased(operation) });
        let origin = CallOrigin { credentials: credentials.clone(), ..CallOrigin::default() };
        store.submit_for(Request { command, key: None, by: None }, origin)
    });
    let mut ended = ended.buffer_unordered(CONCURRENT);
    let mut revoked = 0;
    while let Some(outcome) = ended.next().await {
        match outcome {
            Ok(_) => revoked += 1,
            // It ended by itself meanwhile.
            Err(StoreError::Refused(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(revoked)
}

/// Reads live leases page by page, in the order in which their sagas were created.
struct LiveLeases<'a> {
    store: &'a Store,
    filter: Filter,
    after: Option<Cursor>,
    is_over: bool,
}

impl<'a> LiveLeases<'a> {
    fn held_by(store: &'a Store, principal: &OwnerId) -> Self {
        let filter = Filter { held_by: Some(principal.clone()), ..Filter::default() };
        LiveLeases { store, filter, after: None, is_over: false }
    }

    /// The next page; none after the last one. A page may be empty even if others follow.
    async fn next(&mut self) -> Result<Option<Vec<(TaskId, FencingToken)>>, Problem> {
        if self.is_over {
            return Ok(None);
        }
        let page = page(self.store, self.filter.clone(), self.after, self.store.read_time()).await?;
        (self.after, self.is_over) = (page.next, page.next.is_none());
        let leases = page.sagas.into_iter().filter_map(|(_, saga)| {
            let token = saga.lease.as_ref()?.token;
            Some((saga.spec.task_id.clone(), token))
        });
        Ok(Some(leases.collect()))
    }
}

async fn page(
    store: &Store,
    filter: Filter,
    after: Option<Cursor>,
    read_time: ReadTime,
) -> Result<SagaPage, StoreError> {
    store.list(ListQuery { filter, newest_first: false, after, limit: PAGE, read_time }).await
}

/// The holders of live leases that belong to none of the `known` principals.
pub(super) async fn unknown_holders(
    store: &Store,
    known: Vec<PrincipalName>,
) -> Result<Vec<proto::UnknownHolder>, Problem> {
    let mut holders: BTreeMap<String, i64> = BTreeMap::new();
    let filter =
        Filter { states: vec![State::Running, State::Compensating], in_flight_only: true, ..Filter::default() };
    let (mut after, read_time, mut searched) = (None, store.read_time(), 0);
    loop {
        let page = page(store, filter.clone(), after, read_time).await?;
        searched += PAGE;
        let owners = page.sagas.iter().filter_map(|(_, saga)| saga.live_lease(read_time.now, &read_time.grace));
        for holder in owners.filter_map(|lease| unknown_holder(&lease.owner, &known)) {
            *holders.entry(holder.to_owned()).or_default() += 1;
        }
        after = page.next;
        if after.is_none() || searched >= SAGAS_SEARCHED_MAX {
            break;
        }
    }
    let listed = holders.into_iter().take(HOLDERS_MAX);
    Ok(listed.map(|(principal, leases)| proto::UnknownHolder { principal, leases }).collect())
}

/// The holder of a lease if it belongs to no known principal: a name for `RevokePrincipal` that matches no known one.
fn unknown_holder<'a>(owner: &'a OwnerId, known: &[PrincipalName]) -> Option<&'a str> {
    if known.iter().any(|name| owner.belongs_to(name.as_str())) {
        return None;
    }
    let owner = owner.as_str();
    let first = owner.split('/').next().unwrap_or(owner);
    let is_shared = known.iter().any(|name| name.as_str().split('/').next() == Some(first));
    Some(if is_shared { owner } else { first })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_holder_is_shown_by_a_name_that_revokes_nobody_else() {
        let known = ["ci", "team/a"].map(|name| PrincipalName::parse(name).unwrap());
        for (owner, holder) in [
            ("ci", None),
            ("ci/host-7", None),
            ("team/a/1", None),
            ("cid", Some("cid")),
            ("gone/host-7/12", Some("gone")),
            ("team/b/1", Some("team/b/1")),
            ("team", Some("team")),
        ] {
            assert_eq!(unknown_holder(&OwnerId::parse(owner).unwrap(), &known), holder, "{owner}");
        }
    }
}
