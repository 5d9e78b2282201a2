//! People, invitations, and machines that ask to be let in.

use crate::store::accounts::{InvitationRecord, UserRecord};
use meshd_proto::UnixSeconds;
use serde::{Deserialize, Serialize};

/// A person with an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserView {
    /// Its name.
    pub name: String,
    /// What the person may do.
    pub role: String,
    /// Whether the person may sign in.
    pub enabled: bool,
    /// When the account was made.
    pub created: UnixSeconds,
    /// By whom.
    pub created_by: String,
    /// When the person signed in last.
    pub last_login: Option<UnixSeconds>,
}

impl From<&UserRecord> for UserView {
    fn from(user: &UserRecord) -> Self {
        Self {
            name: user.name.clone(),
            role: user.role.to_string(),
            enabled: user.disabled.is_none(),
            created: user.created,
            created_by: user.created_by.clone(),
            last_login: user.last_login,
        }
    }
}

/// What to change of a person.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserEdit {
    /// Another role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<crate::service::Role>,
    /// Whether the person may sign in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

/// A link that makes an account, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvitationView {
    /// Its id.
    pub id: u64,
    /// For whom; empty: the person chooses a name.
    pub name: String,
    /// What the person may do.
    pub role: String,
    /// When it was made.
    pub created: UnixSeconds,
    /// When it ends.
    pub expires: UnixSeconds,
    /// Who made it.
    pub created_by: String,
}

impl From<&InvitationRecord> for InvitationView {
    fn from(record: &InvitationRecord) -> Self {
        Self {
            id: record.id,
            name: record.name.clone(),
            role: record.role.to_string(),
            created: record.created,
            expires: record.expires,
            created_by: record.created_by.clone(),
        }
    }
}

/// Whom to invite.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InvitationInput {
    /// The account's name; empty: the person chooses one.
    #[serde(default)]
    pub name: String,
    /// What the person may do.
    pub role: crate::service::Role,
    /// Seconds until the link ends.
    #[serde(default = "one_day")]
    pub lifetime: u64,
}

fn one_day() -> u64 {
    24 * 3600
}

/// A link that was made.
#[derive(Clone, Serialize, Deserialize)]
pub struct LinkView {
    /// The link, for each address of the coordinator; each opens once; shown this once.
    pub urls: Vec<String>,
    /// SHA-256 of the certificate that a browser will show.
    pub certificate_sha256: String,
    /// What is stored of it.
    #[serde(flatten)]
    pub stored: InvitationView,
}

/// A machine asks to be let in.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskInput {
    /// What it calls itself.
    pub hostname: String,
    /// Its operating system.
    #[serde(default)]
    pub os: String,
}

/// What a machine that asks is told.
#[derive(Clone, Serialize, Deserialize)]
pub struct AskView {
    /// Six digits that the pages show, too.
    pub code: String,
    /// With it the machine hears what became of its request.
    pub secret: String,
    /// Seconds until nobody knows of it any more.
    pub patience: u64,
}

/// A machine wants to hear what became of its request.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PollInput {
    /// What it was told when it asked.
    pub secret: String,
}

/// What became of a request.
#[derive(Clone, Serialize, Deserialize)]
pub struct PollView {
    /// `waiting`, `approved` or `gone`.
    pub state: String,
    /// A join token, once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// A machine that asks, as an admin sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequestView {
    /// Its number.
    pub id: u64,
    /// Six digits that the machine shows, too.
    pub code: String,
    /// What it calls itself.
    pub hostname: String,
    /// Its operating system.
    pub os: String,
    /// Where it asked from.
    pub remote: String,
    /// When.
    pub created: UnixSeconds,
}

impl From<&crate::service::JoinRequest> for JoinRequestView {
    fn from(request: &crate::service::JoinRequest) -> Self {
        Self {
            id: request.id,
            code: request.code.clone(),
            hostname: request.hostname.clone(),
            os: request.os.clone(),
            remote: request.remote.to_string(),
            created: request.created,
        }
    }
}
