//! Who asks, and whether that is allowed. What the roles allow is said in [`crate::model::roles`]; nothing
//! outside these two files decides a permission.

use crate::model::roles::{Permission, Role, Scopes};
use meshd_proto::{Hostname, NodeId};
use std::fmt;

/// Who asks the service for something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// Root of the coordinator's host, over the unix socket: owner.
    LocalRoot,
    /// The coordinator itself: expiry of ephemeral nodes, first start.
    System,
    /// A holder of an API token.
    ApiToken {
        /// The token's name, for the audit log.
        name: String,
        /// What it may do at most.
        role: Role,
        /// What of that it may do.
        scopes: Scopes,
        /// The one cluster it is for; `None`: it is of none.
        cluster: Option<Hostname>,
    },
    /// A person who signed in.
    User {
        /// The account.
        id: u64,
        /// Its name, for the audit log and as owner of nodes.
        name: String,
        /// What the person may do.
        role: Role,
    },
    /// A node over its control channel: may speak for itself only.
    Node(NodeId),
}

impl Actor {
    /// The actor's role; a node has none: it only speaks for itself.
    pub const fn role(&self) -> Option<Role> {
        match self {
            Self::LocalRoot | Self::System => Some(Role::Owner),
            Self::ApiToken { role, .. } | Self::User { role, .. } => Some(*role),
            Self::Node(_) => None,
        }
    }

    /// Whether the actor has that permission.
    pub fn may(&self, permission: Permission) -> bool {
        match self {
            Self::LocalRoot | Self::System => true,
            Self::ApiToken { role, scopes, .. } => role.may(permission) && scopes.hold(permission),
            Self::User { role, .. } => role.may(permission),
            Self::Node(_) => false,
        }
    }

    /// Whether the actor may speak for that cluster: a credential of one cluster does for no other.
    pub fn is_for_cluster(&self, name: &Hostname) -> bool {
        !matches!(self, Self::ApiToken { cluster: Some(own), .. } if own != name)
    }

    /// Whether the actor may give `role` to somebody: never more than its own, and for an API token never more
    /// than its scopes hold beyond what every member may, or a narrow token could make itself a wide one.
    pub fn may_grant(&self, role: Role) -> bool {
        let beyond = |p: &Permission| role.may(*p) && !Role::Member.may(*p);
        let holds = |p: &Permission| !beyond(p) || self.may(*p);
        self.role().is_some_and(|own| role <= own) && Permission::ALL.iter().all(holds)
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LocalRoot => f.write_str("root"),
            Self::System => f.write_str("coordinator"),
            Self::ApiToken { name, .. } => write!(f, "api:{name}"),
            Self::User { name, .. } => write!(f, "user:{name}"),
            Self::Node(id) => write!(f, "node:{id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_token_gives_no_role_that_is_wider_than_itself() {
        let token =
            |scopes| Actor::ApiToken { name: "t".to_owned(), role: Role::Owner, scopes, cluster: None };
        assert!(token(Scopes::ALL).may_grant(Role::Owner));
        let narrow = token(Scopes::parse(["users:write"]).unwrap());
        assert!(
            narrow.may_grant(Role::Member)
                && !narrow.may_grant(Role::Admin)
                && !narrow.may_grant(Role::Owner)
        );
    }

    #[test]
    fn a_node_has_no_permission_at_all() {
        assert!(!Actor::Node(NodeId(1)).may(Permission::ReadStatus));
    }

    #[test]
    fn a_scope_takes_away_and_never_adds() {
        let token = |role, names: &[&str]| Actor::ApiToken {
            name: "ci".to_owned(),
            role,
            scopes: Scopes::parse(names.iter().copied()).unwrap(),
            cluster: None,
        };
        let dns = token(Role::NetworkAdmin, &["dns:write"]);
        assert!(dns.may(Permission::ManageDns) && !dns.may(Permission::Read));
        assert!(!token(Role::Auditor, &["dns:write"]).may(Permission::ManageDns));
        assert!(token(Role::Auditor, &[]).may(Permission::Read));
    }
}
