//! Who may call: principals, their roles, and the queues that a worker is confined to.

use std::sync::Arc;

use super::{
    ids::{Malformed, OwnerId, QueueName, is_or_is_below, parse_name, parsed_text},
    text::Actor,
};

/// Longest name of a principal, in bytes: an owner begins with it, and has room behind it.
pub const PRINCIPAL_BYTES: usize = 64;

parsed_text!(
    /// The name of a principal: 1 to 64 bytes, in the syntax of ids.
    PrincipalName, |value| parse_name(value, PRINCIPAL_BYTES)
);

/// What a principal is for. Roles add up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Creates, claims and finishes sagas, in its own queues.
    Worker,
    /// A person, or a program in one's place: looks, and decides.
    Operator,
    /// Looks.
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

/// The queues that somebody may touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every one.
    All,
    /// These, of which there is at least one.
    Only(Arc<[QueueName]>),
}

impl Scope {
    /// Whether a queue is within it.
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
    /// What it may touch as a worker.
    pub queues: Scope,
}

impl Principal {
    /// Whether it may hold leases under this name: its own, or its own and what follows a slash.
    pub fn may_own_as(&self, owner: &OwnerId) -> bool {
        owner.belongs_to(self.name.as_str())
    }
}

/// On whose behalf a command is carried out, where callers are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behalf {
    /// The principal, for the history.
    pub actor: Actor,
    /// Where it may do this.
    pub scope: Scope,
    /// Whether it may look at sagas outside of that. If not, they are not there for it.
    pub sees_all: bool,
}

impl PrincipalName {
    /// Whether it, or an owner below it, would look in the history like the coordinator itself.
    pub fn is_the_coordinators(&self) -> bool {
        self.is_or_is_below(Actor::coordinator().as_str())
    }

    /// Whether it is this name, or this name and what follows a slash: then a principal of that name may act for it.
    pub fn is_or_is_below(&self, name: &str) -> bool {
        is_or_is_below(self.as_str(), name)
    }

    /// It as the actor of an event.
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
