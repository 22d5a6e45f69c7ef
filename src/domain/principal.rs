//! Principals: who may call, with which roles, and on which queues a worker may act.

use std::sync::Arc;

use super::{
    ids::{Malformed, OwnerId, QueueName, is_or_is_below, parse_name, parsed_text},
    text::Actor,
};

/// Longest name of a principal, in bytes: short enough that an owner id can continue behind it.
pub const PRINCIPAL_BYTES: usize = 64;

parsed_text!(
    /// The name of a principal: 1 to 64 bytes, in the syntax of ids.
    PrincipalName, |value| parse_name(value, PRINCIPAL_BYTES)
);

/// What a principal may do. Roles add up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Creates, claims and finishes sagas in its own queues.
    Worker,
    /// A person, or a program acting for one: reads and decides.
    Operator,
    /// Reads.
    Reader,
    /// May call everything.
    Admin,
}

impl Role {
    /// All there are.
    pub const ALL: [Role; 4] = [Role::Worker, Role::Operator, Role::Reader, Role::Admin];

    /// Its name in the file of principals.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Worker => "worker",
            Role::Operator => "operator",
            Role::Reader => "reader",
            Role::Admin => "admin",
        }
    }

    /// The role of this name.
    pub fn parse(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// The queues that a principal may act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every one.
    All,
    /// Only these; at least one.
    Only(Arc<[QueueName]>),
}

impl Scope {
    /// True if the queue is allowed.
    pub fn allows(&self, queue: &QueueName) -> bool {
        match self {
            Scope::All => true,
            Scope::Only(queues) => queues.contains(queue),
        }
    }
}

/// Somebody who may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Unique.
    pub name: PrincipalName,
    /// At least one, each once.
    pub roles: Vec<Role>,
    /// The queues that it may act on as a worker.
    pub queues: Scope,
}

impl Principal {
    /// True if it may hold leases under this owner id: its own name, or its name followed by a slash and more.
    pub fn may_own_as(&self, owner: &OwnerId) -> bool {
        owner.belongs_to(self.name.as_str())
    }
}

/// Who asks for a command, if the daemon authenticates callers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requester {
    /// The principal as the actor of events.
    pub actor: Actor,
    /// The queues in which it may do this.
    pub scope: Scope,
    /// Whether it may see sagas in other queues. If not, they don't exist for it.
    pub sees_all: bool,
}

impl PrincipalName {
    /// True if events of it, or of an owner below it, would look like the coordinator's own.
    pub fn is_the_coordinators(&self) -> bool {
        self.is_or_is_below(Actor::coordinator().as_str())
    }

    /// True if it is `name`, or `name` followed by a slash and more: then the principal `name` may act for it.
    pub fn is_or_is_below(&self, name: &str) -> bool {
        is_or_is_below(self.as_str(), name)
    }

    /// The name as the actor of an event.
    ///
    /// # Errors
    /// None that can happen: a name is shorter than an actor may be, and printable.
    pub fn to_actor(&self) -> Result<Actor, Malformed> {
        Actor::parse(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_the_principal_or_below_it() {
        let name = PrincipalName::parse("ci").unwrap();
        let principal = Principal { name, roles: vec![Role::Worker], queues: Scope::All };
        for (owner, may) in
            [("ci", true), ("ci/host-7", true), ("ci/", true), ("cid", false), ("c", false), ("x/ci", false)]
        {
            assert_eq!(principal.may_own_as(&OwnerId::parse(owner).unwrap()), may, "{owner}");
        }
    }

    #[test]
    fn roles_have_names() {
        for role in Role::ALL {
            assert_eq!(Role::parse(role.name()), Some(role));
        }
        assert_eq!(Role::parse("root"), None);
        assert!(PrincipalName::parse(&"a".repeat(PRINCIPAL_BYTES)).is_ok_and(|name| name.to_actor().is_ok()));
        assert!(PrincipalName::parse(&"a".repeat(PRINCIPAL_BYTES + 1)).is_err());
    }
}
