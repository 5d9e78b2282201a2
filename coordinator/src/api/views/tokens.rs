//! Tokens as the API shows and takes them: of nodes that join, and of programs that ask.

use super::*;

/// A join token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenView {
    /// Its id.
    pub id: u64,
    /// `valid`, `expired`, `used up` or `revoked`.
    pub state: String,
    /// How many machines it admitted.
    pub used: u32,
    /// How many it may admit.
    pub uses: u32,
    /// When it was made.
    pub created: UnixSeconds,
    /// When it ends.
    pub expires: UnixSeconds,
    /// Who the nodes belong to.
    pub owner: String,
    /// What the nodes are.
    pub tags: Vec<Tag>,
    /// The nodes are forgotten when they stay away.
    pub ephemeral: bool,
    /// The nodes may talk at once.
    pub pre_approved: bool,
    /// Who made it.
    pub created_by: String,
    /// What for.
    pub note: String,
}

impl TokenView {
    /// A token as the API shows it.
    pub fn new(token: &TokenRecord, now: UnixSeconds) -> Self {
        let state = match () {
            () if token.revoked.is_some() => "revoked",
            () if token.used >= token.max_uses => "used up",
            () if token.expires <= now => "expired",
            () => "valid",
        };
        Self {
            id: token.id,
            state: state.to_owned(),
            used: token.used,
            uses: token.max_uses,
            created: token.created,
            expires: token.expires,
            owner: owner_name(&token.owner),
            tags: token.tags.iter().cloned().collect(),
            ephemeral: token.ephemeral,
            pre_approved: token.pre_approved,
            created_by: token.created_by.clone(),
            note: token.note.clone(),
        }
    }
}

fn owner_name(owner: &Owner) -> String {
    owner.display().to_owned()
}

/// Which join token to make.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenInput {
    /// How many machines it may admit.
    pub uses: u32,
    /// Seconds until it ends.
    pub lifetime: u64,
    /// What the nodes are.
    pub tags: Vec<Tag>,
    /// The nodes are forgotten when they stay away.
    pub ephemeral: bool,
    /// The nodes may talk at once.
    pub pre_approved: bool,
    /// Who the nodes belong to.
    pub user: Option<String>,
    /// What for.
    pub note: String,
}

impl Default for TokenInput {
    fn default() -> Self {
        let request = crate::service::TokenRequest::default();
        Self {
            uses: request.uses,
            lifetime: request.lifetime,
            tags: Vec::new(),
            ephemeral: request.ephemeral,
            pre_approved: request.pre_approved,
            user: None,
            note: String::new(),
        }
    }
}

/// A join token that was made.
#[derive(Clone, Serialize, Deserialize)]
pub struct NewTokenView {
    /// The line to paste; it is shown this once.
    pub token: String,
    /// What is stored of it.
    #[serde(flatten)]
    pub stored: TokenView,
}

/// An API token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiTokenView {
    /// Its id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// What it may do.
    pub role: String,
    /// What of that; empty: all that the role may.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// `valid`, `expired` or `revoked`.
    pub state: String,
    /// When it was made.
    pub created: UnixSeconds,
    /// When it ends.
    pub expires: UnixSeconds,
    /// Who made it.
    pub created_by: String,
}

impl ApiTokenView {
    /// A token as the API shows it.
    pub fn new(token: &ApiTokenRecord, now: UnixSeconds) -> Self {
        let state = match () {
            () if token.revoked.is_some() => "revoked",
            () if token.expires <= now => "expired",
            () => "valid",
        };
        Self {
            id: token.id,
            name: token.name.clone(),
            role: token.role.to_string(),
            scopes: token.scopes.names().into_iter().map(str::to_owned).collect(),
            state: state.to_owned(),
            created: token.created,
            expires: token.expires,
            created_by: token.created_by.clone(),
        }
    }
}

/// Which API token to make.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiTokenInput {
    /// Its name, for the audit log.
    pub name: String,
    /// What it may do.
    pub role: crate::service::Role,
    /// What of that; none: all that the role may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// Seconds until it ends.
    pub lifetime: u64,
}

/// An API token that was made.
#[derive(Clone, Serialize, Deserialize)]
pub struct NewApiTokenView {
    /// What goes behind `Authorization: Bearer`; it is shown this once.
    pub secret: String,
    /// What is stored of it.
    #[serde(flatten)]
    pub stored: ApiTokenView,
}
