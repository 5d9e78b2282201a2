//! What people and API tokens may do: roles, permissions and the scopes that narrow a token.
//!
//! Values only: who asks, and the asking itself, are the service's. A scope takes away and never adds.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

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

/// One thing that may be allowed or not. Its name is also the name of an API token's scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// Publish services of a cluster, inside its ranges.
    PublishServices,
    /// Set the policy.
    ManagePolicy,
    /// Make and revoke API tokens.
    ManageApiTokens,
    /// Invite people, change their roles, remove them.
    ManageUsers,
    /// Mesh settings and addresses.
    ManageMesh,
    /// Copy the database, keys included.
    Backup,
    /// Make a link that makes an owner: root of the coordinator's host only.
    IssueAdminLink,
}

impl Permission {
    /// Every permission.
    pub const ALL: [Self; 13] = [
        Self::ReadStatus,
        Self::Read,
        Self::ReadAudit,
        Self::ManageNodes,
        Self::ManageTokens,
        Self::ManageDns,
        Self::PublishServices,
        Self::ManagePolicy,
        Self::ManageApiTokens,
        Self::ManageUsers,
        Self::ManageMesh,
        Self::Backup,
        Self::IssueAdminLink,
    ];

    /// Those that an API token can be limited to.
    pub fn scopes() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|p| *p != Self::IssueAdminLink)
    }

    /// The name as scope of an API token and in the API's description.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReadStatus => "status:read",
            Self::Read => "mesh:read",
            Self::ReadAudit => "audit:read",
            Self::ManageNodes => "nodes:write",
            Self::ManageTokens => "tokens:write",
            Self::ManageDns => "dns:write",
            Self::PublishServices => "services:write",
            Self::ManagePolicy => "policy:write",
            Self::ManageApiTokens => "api-tokens:write",
            Self::ManageUsers => "users:write",
            Self::ManageMesh => "mesh:write",
            Self::Backup => "backup:read",
            Self::IssueAdminLink => "admin-link",
        }
    }

    /// What it lets somebody do, for people.
    pub const fn about(self) -> &'static str {
        match self {
            Self::ReadStatus => "see status and counts",
            Self::Read => "read nodes, routes, names, tokens and policy",
            Self::ReadAudit => "read the audit log",
            Self::ManageNodes => "approve, rename, tag and remove nodes; approve routes",
            Self::ManageTokens => "make and revoke join tokens",
            Self::ManageDns => "set DNS records",
            Self::PublishServices => "publish services of a cluster",
            Self::ManagePolicy => "set the policy",
            Self::ManageApiTokens => "make and revoke API tokens",
            Self::ManageUsers => "invite people and change roles",
            Self::ManageMesh => "change mesh settings",
            Self::Backup => "download a backup, keys included",
            Self::IssueAdminLink => "make a link for a new owner",
        }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What of its role an API token may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scopes(Option<BTreeSet<Permission>>);

impl Scopes {
    /// All that the role may.
    pub const ALL: Self = Self(None);

    /// Reads scope names; none at all means all that the role may.
    ///
    /// # Errors
    /// Names a scope that is none.
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, UnknownScope> {
        let mut found = BTreeSet::new();
        for name in names.into_iter().map(str::trim).filter(|n| !n.is_empty()) {
            let scope = Permission::scopes().find(|p| p.as_str() == name);
            found.insert(scope.ok_or_else(|| UnknownScope(name.chars().take(40).collect()))?);
        }
        Ok(Self(Some(found).filter(|f| !f.is_empty())))
    }

    /// Whether that is within the scopes.
    pub fn hold(&self, permission: Permission) -> bool {
        self.0.as_ref().is_none_or(|set| set.contains(&permission))
    }

    /// Whether everything in `other` is in here, too.
    pub fn cover(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(wanted)) => wanted.is_subset(own),
        }
    }

    /// The names; empty: all that the role may.
    pub fn names(&self) -> Vec<&'static str> {
        self.0.iter().flatten().map(|p| p.as_str()).collect()
    }
}

/// A text that is no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no scope: `meshd-coordinator api-token create --help` names them")]
pub struct UnknownScope(String);

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
            | Permission::PublishServices
            | Permission::ManagePolicy => matches!(self, Self::NetworkAdmin | Self::Admin | Self::Owner),
            Permission::ManageApiTokens | Permission::ManageUsers | Permission::ManageMesh => {
                matches!(self, Self::Admin | Self::Owner)
            }
            Permission::Backup => matches!(self, Self::Owner),
            Permission::IssueAdminLink => false,
        }
    }

    /// What the role is for, in one line.
    pub const fn about(self) -> &'static str {
        match self {
            Self::Member => "sees the mesh's status, has an own account",
            Self::Auditor => "reads everything, changes nothing",
            Self::NetworkAdmin => "nodes, routes, names, join tokens, policy",
            Self::Admin => "everything but backups: people, API tokens and settings, too",
            Self::Owner => "everything, backups with the coordinator's keys included",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_may_all_that_the_weaker_one_may() {
        let all = Permission::ALL;
        for pair in Role::ALL.windows(2) {
            for permission in all {
                assert!(!pair[0].may(permission) || pair[1].may(permission), "{pair:?} {permission:?}");
            }
        }
        let owner: Vec<_> = all.iter().filter(|p| !Role::Owner.may(**p)).collect();
        assert_eq!(owner, [&Permission::IssueAdminLink]);
        assert_eq!(all.iter().filter(|p| Role::Member.may(**p)).count(), 1);
    }

    #[test]
    fn scopes_are_known_by_name_and_compared_as_sets() {
        assert!(Scopes::parse(["dns"]).is_err() && Scopes::parse(["admin-link"]).is_err());
        let one = Scopes::parse(["dns:write"]).unwrap();
        assert!(Scopes::ALL.cover(&one) && !one.cover(&Scopes::ALL) && one.cover(&one));
    }
}
