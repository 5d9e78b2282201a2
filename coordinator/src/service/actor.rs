//! Who asks, and what that role may do. Nothing outside this file decides a permission.

use meshd_proto::NodeId;
use std::fmt;
use std::str::FromStr;

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
        /// What it may do.
        role: Role,
    },
    /// A node over its control channel: may speak for itself only.
    Node(NodeId),
}

/// Roles of people and API tokens, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Has nodes; sees the mesh's status.
    Member,
    /// Reads everything, changes nothing.
    Auditor,
    /// Nodes, routes, names, join tokens, policy.
    NetworkAdmin,
    /// Also API tokens and mesh settings.
    Admin,
    /// Also backups with keys in them.
    Owner,
}

/// One thing that may be allowed or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Status and counts.
    ReadStatus,
    /// Nodes, routes, names, tokens without secrets, policy.
    Read,
    /// The audit log.
    ReadAudit,
    /// Remove, rename, approve, expire nodes; approve routes.
    ManageNodes,
    /// Make and revoke join tokens.
    ManageTokens,
    /// Set DNS records.
    ManageDns,
    /// Set the policy.
    ManagePolicy,
    /// Make and revoke API tokens.
    ManageApiTokens,
    /// Mesh settings and addresses.
    ManageMesh,
    /// Copy the database, keys included.
    Backup,
}

impl Role {
    /// Every role, weakest first.
    pub const ALL: [Self; 5] = [Self::Member, Self::Auditor, Self::NetworkAdmin, Self::Admin, Self::Owner];

    /// Whether this role has that permission.
    pub const fn may(self, permission: Permission) -> bool {
        match permission {
            Permission::ReadStatus => true,
            Permission::Read | Permission::ReadAudit => !matches!(self, Self::Member),
            Permission::ManageNodes
            | Permission::ManageTokens
            | Permission::ManageDns
            | Permission::ManagePolicy => matches!(self, Self::NetworkAdmin | Self::Admin | Self::Owner),
            Permission::ManageApiTokens | Permission::ManageMesh => matches!(self, Self::Admin | Self::Owner),
            Permission::Backup => matches!(self, Self::Owner),
        }
    }

    /// The name in tokens and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Auditor => "auditor",
            Self::NetworkAdmin => "network-admin",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }
}

/// A text that is no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no role: use member, auditor, network-admin, admin or owner")]
pub struct UnknownRole(String);

impl FromStr for Role {
    type Err = UnknownRole;
    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        let found = Self::ALL.into_iter().find(|r| r.as_str() == text);
        found.ok_or_else(|| UnknownRole(text.chars().take(40).collect()))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Actor {
    /// The actor's role; a node has none: it only speaks for itself.
    pub const fn role(&self) -> Option<Role> {
        match self {
            Self::LocalRoot | Self::System => Some(Role::Owner),
            Self::ApiToken { role, .. } => Some(*role),
            Self::Node(_) => None,
        }
    }

    /// Whether the actor has that permission.
    pub fn may(&self, permission: Permission) -> bool {
        self.role().is_some_and(|role| role.may(permission))
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LocalRoot => f.write_str("root"),
            Self::System => f.write_str("coordinator"),
            Self::ApiToken { name, .. } => write!(f, "api:{name}"),
            Self::Node(id) => write!(f, "node:{id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_may_all_that_the_weaker_one_may() {
        use Permission as P;
        let all = [
            P::ReadStatus,
            P::Read,
            P::ReadAudit,
            P::ManageNodes,
            P::ManageTokens,
            P::ManageDns,
            P::ManagePolicy,
            P::ManageApiTokens,
            P::ManageMesh,
            P::Backup,
        ];
        for pair in Role::ALL.windows(2) {
            for permission in all {
                assert!(!pair[0].may(permission) || pair[1].may(permission), "{pair:?} {permission:?}");
            }
        }
        assert!(all.iter().all(|p| Role::Owner.may(*p)));
        assert_eq!(all.iter().filter(|p| Role::Member.may(**p)).count(), 1);
    }

    #[test]
    fn a_node_has_no_permission_at_all() {
        assert!(!Actor::Node(NodeId(1)).may(Permission::ReadStatus));
    }
}
