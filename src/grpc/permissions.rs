//! Which roles may call which rpc: one table. An rpc that is not in it is denied. (A test compares it with the
//! descriptors.)

use tonic::Code;

use crate::domain::{
    command::{Command, HolderOperation, Operation},
    ids::OwnerId,
    principal::{
        Principal,
        Role::{self, Admin, Operator, Reader, Worker},
        Scope,
    },
};

use super::problem::Problem;

/// The permissions of one rpc.
#[derive(Clone, Copy, Debug)]
pub struct Permission {
    /// The service's full name.
    pub service: &'static str,
    pub rpc: &'static str,
    /// Who may call it without holding the saga's lease.
    pub roles: &'static [Role],
    /// Who may call it as the holder of the saga's lease, if that is different.
    pub as_holder: Option<&'static [Role]>,
}

const SAGA_SERVICE: &str = "sagad.v1.SagaService";
const ADMIN_SERVICE: &str = "sagad.v1.AdminService";

/// Every principal.
const ANY_ROLE: &[Role] = &[Worker, Operator, Reader, Admin];
/// For reading everything.
const READERS: &[Role] = &[Operator, Reader, Admin];
/// For working under leases.
const WORKERS: &[Role] = &[Worker, Admin];
/// For creating sagas.
const CREATORS: &[Role] = &[Worker, Operator, Admin];
/// For decisions of people.
const OPERATORS: &[Role] = &[Operator, Admin];
/// For what concerns the whole store.
const ADMINS: &[Role] = &[Admin];

const fn saga_rpc(rpc: &'static str, roles: &'static [Role]) -> Permission {
    Permission { service: SAGA_SERVICE, rpc, roles, as_holder: None }
}

const fn admin_rpc(rpc: &'static str, roles: &'static [Role]) -> Permission {
    Permission { service: ADMIN_SERVICE, rpc, roles, as_holder: None }
}

/// The permissions of all rpcs.
pub const TABLE: &[Permission] = &[
    saga_rpc("CreateSaga", CREATORS),
    saga_rpc("BatchCreateSagas", CREATORS),
    saga_rpc("GetSaga", ANY_ROLE),
    saga_rpc("ListSagas", ANY_ROLE),
    saga_rpc("Dispatch", OPERATORS),
    saga_rpc("Claim", WORKERS),
    saga_rpc("ClaimNext", WORKERS),
    saga_rpc("Heartbeat", WORKERS),
    saga_rpc("KeepAlive", WORKERS),
    saga_rpc("Session", WORKERS),
    saga_rpc("Release", WORKERS),
    saga_rpc("RegisterCompensation", WORKERS),
    saga_rpc("Complete", WORKERS),
    saga_rpc("Fail", WORKERS),
    saga_rpc("RecordCompensation", WORKERS),
    saga_rpc("WaiveCompensation", OPERATORS),
    saga_rpc("Compensate", WORKERS),
    Permission { as_holder: Some(WORKERS), ..saga_rpc("Quarantine", OPERATORS) },
    saga_rpc("Recover", OPERATORS),
    saga_rpc("RequestCancel", OPERATORS),
    saga_rpc("Annotate", OPERATORS),
    saga_rpc("WatchStale", ANY_ROLE),
    saga_rpc("WatchEvents", ANY_ROLE),
    saga_rpc("ListEvents", ANY_ROLE),
    saga_rpc("GetStats", READERS),
    admin_rpc("GetServerInfo", ANY_ROLE),
    admin_rpc("PauseQueue", OPERATORS),
    admin_rpc("ResumeQueue", OPERATORS),
    admin_rpc("ListQueues", READERS),
    admin_rpc("PurgeSagas", ADMINS),
    admin_rpc("RevokePrincipal", OPERATORS),
    admin_rpc("Backup", ADMINS),
    admin_rpc("GetVitals", READERS),
];

/// Whether the table has this path.
pub fn is_known_path(path: &str) -> bool {
    let Some((service, rpc)) = path.strip_prefix('/').and_then(|path| path.split_once('/')) else { return false };
    TABLE.iter().any(|permission| permission.service == service && permission.rpc == rpc)
}

/// Checks a principal's roles, and returns the queues in which it may call an rpc; `as_holder`: as the holder of a lease.
///
/// # Errors
/// `PERMISSION_DENIED`, with the roles that may call it.
pub(super) fn permitted_queues(principal: &Principal, rpc: &str, as_holder: bool) -> Result<Scope, Problem> {
    let permission = TABLE.iter().find(|permission| permission.rpc == rpc);
    let wanted =
        permission.map_or(&[][..], |permission| permission.as_holder.filter(|_| as_holder).unwrap_or(permission.roles));
    let mut granted = principal.roles.iter().filter(|role| wanted.contains(role)).peekable();
    if granted.peek().is_none() {
        let roles = wanted.iter().map(|role| role.name()).collect::<Vec<_>>().join(", ");
        let text = format!("{} may not call {rpc}: it needs one of the roles {roles}", principal.name);
        return Err(denied(principal, rpc, text).with("roles", roles));
    }
    // What only the role worker permits is permitted in the worker's queues only.
    let confined = granted.all(|role| *role == Worker);
    Ok(if confined { principal.queues.clone() } else { Scope::All })
}

/// Checks that a command's lease is held under the principal's own name, whatever its roles, so that every event in the
/// history has a known author.
pub(super) fn check_owner(principal: &Principal, rpc: &str, command: &Command) -> Result<(), Problem> {
    match owner(command) {
        Some(owner) if !principal.may_own_as(owner) => {
            let name = &principal.name;
            let text = format!("owner_id {owner} is not the principal's: it has to be {name}, or begin with {name}/");
            Err(denied(principal, rpc, text).with("field", "owner_id"))
        }
        Some(_) | None => Ok(()),
    }
}

/// Whether a command comes from a lease's holder.
pub(super) fn is_by_holder(command: &Command) -> bool {
    match command {
        Command::Change(change) => match &change.operation {
            Operation::ByHolder(..) => true,
            Operation::Unleased(_) => false,
        },
        Command::Create(_) | Command::ClaimNext(_) | Command::SetPaused(_) | Command::Purge(_) => false,
    }
}

/// The owner of the lease that a command takes or is made under.
fn owner(command: &Command) -> Option<&OwnerId> {
    use crate::domain::command::UnleasedOperation;
    match command {
        Command::ClaimNext(claim) => Some(&claim.owner),
        Command::Change(change) => match &change.operation {
            Operation::ByHolder(
                holder,
                HolderOperation::Heartbeat { .. }
                | HolderOperation::Release { .. }
                | HolderOperation::RegisterCompensation { .. }
                | HolderOperation::Complete { .. }
                | HolderOperation::Fail { .. }
                | HolderOperation::RecordCompensation { .. }
                | HolderOperation::Compensate { .. }
                | HolderOperation::Quarantine { .. },
            ) => Some(&holder.owner),
            Operation::Unleased(UnleasedOperation::Claim { owner, .. }) => Some(owner),
            Operation::Unleased(
                UnleasedOperation::Dispatch { .. }
                | UnleasedOperation::WaiveCompensation { .. }
                | UnleasedOperation::Quarantine { .. }
                | UnleasedOperation::Recover { .. }
                | UnleasedOperation::RevokeLease { .. }
                | UnleasedOperation::RequestCancel { .. }
                | UnleasedOperation::Annotate { .. },
            ) => None,
        },
        Command::Create(_) | Command::SetPaused(_) | Command::Purge(_) => None,
    }
}

/// `PERMISSION_DENIED`.
pub(super) fn denied(principal: &Principal, rpc: &str, text: String) -> Problem {
    Problem::new(Code::PermissionDenied, "PERMISSION_DENIED", text).with("principal", &principal.name).with("rpc", rpc)
}

/// `UNAUTHENTICATED`. It does not say which part of the credentials was wrong.
pub fn unauthenticated(rpc: &str) -> Problem {
    Problem::unauthenticated().with("rpc", rpc)
}

/// The connection's client certificate has expired or was revoked since the connection was made.
pub fn certificate_ended(rpc: &str) -> Problem {
    let text = "the client certificate of this connection has run out or was revoked: connect again with a valid one";
    Problem::new(Code::Unauthenticated, "UNAUTHENTICATED", text).with("rpc", rpc)
}

/// The rpc's name in this path; empty if the table does not have it.
pub fn rpc_name(path: &str) -> &str {
    if is_known_path(path) { path.rsplit('/').next().unwrap_or_default() } else { "" }
}

/// The error for a path that the table does not have.
pub fn unknown_rpc(principal: &Principal, rpc: &str) -> Problem {
    denied(principal, rpc, "there is no such rpc that anybody may call".to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost_reflect::DescriptorPool;

    use super::*;
    use crate::{
        domain::{ids::QueueName, principal::PrincipalName},
        proto::DESCRIPTORS,
    };

    #[test]
    fn the_table_has_each_rpc_of_the_contract_once() {
        let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
        let contract: BTreeSet<_> = pool
            .services()
            .flat_map(|service| {
                service
                    .methods()
                    .map(|rpc| format!("/{}/{}", rpc.parent_service().full_name(), rpc.name()))
                    .collect::<Vec<_>>()
            })
            .collect();
        let table: BTreeSet<_> =
            TABLE.iter().map(|permission| format!("/{}/{}", permission.service, permission.rpc)).collect();
        assert_eq!(table, contract);
        assert_eq!(TABLE.len(), table.len(), "one rule each");
        assert!(table.iter().all(|path| is_known_path(path)));
        for unknown in ["", "/", "/sagad.v1.SagaService/", "/sagad.v1.SagaService/Nothing", "/x/GetSaga", "GetSaga"] {
            assert!(!is_known_path(unknown), "{unknown}");
        }
        assert!(TABLE.iter().all(|permission| permission.roles.contains(&Admin)), "an admin may call everything");
    }

    /// `docs/reference/roles.md` has a row for each entry, with a `yes` for each role.
    #[test]
    fn the_roles_page_has_this_table() {
        let row = |rpc: &str, note: &str, roles: &[Role]| {
            let cells = [Worker, Operator, Reader, Admin].map(|role| if roles.contains(&role) { " yes" } else { "" });
            format!("| `{rpc}`{note} |{} |", cells.join(" |"))
        };
        let mut expected = Vec::new();
        for permission in TABLE {
            expected.extend(permission.as_holder.map(|roles| row(permission.rpc, " by the lease's holder", roles)));
            expected.push(row(permission.rpc, "", permission.roles));
        }
        let text = include_str!("../../docs/reference/roles.md");
        let table = text.lines().skip_while(|line| !line.starts_with("| rpc |")).skip(2);
        let rows: Vec<_> = table.take_while(|line| line.starts_with("| `")).collect();
        assert_eq!(rows, expected);
    }

    #[test]
    fn roles_combine_and_only_workers_are_limited_to_queues() {
        let queues = Scope::Only([QueueName::default()].into());
        let with = |roles: &[Role]| Principal {
            name: PrincipalName::parse("p").unwrap(),
            roles: roles.to_vec(),
            queues: queues.clone(),
        };
        assert_eq!(permitted_queues(&with(&[Worker]), "GetSaga", false).unwrap(), queues);
        assert_eq!(permitted_queues(&with(&[Worker, Reader]), "GetSaga", false).unwrap(), Scope::All);
        assert_eq!(permitted_queues(&with(&[Worker, Reader]), "Claim", false).unwrap(), queues);
        assert_eq!(permitted_queues(&with(&[Admin, Worker]), "Claim", false).unwrap(), Scope::All);
        assert!(permitted_queues(&with(&[Worker]), "Quarantine", false).is_err());
        assert_eq!(permitted_queues(&with(&[Worker]), "Quarantine", true).unwrap(), queues);
        assert!(permitted_queues(&with(&[Operator]), "Quarantine", true).is_err());
        assert!(permitted_queues(&with(&[Admin]), "Nothing", false).is_err());
        let problem = permitted_queues(&with(&[Reader]), "Claim", false).unwrap_err();
        assert_eq!((problem.reason, problem.metadata["roles"].as_str()), ("PERMISSION_DENIED", "worker, admin"));
    }
}
