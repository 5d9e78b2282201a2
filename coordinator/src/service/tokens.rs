//! Join tokens and API tokens: made here, shown once, stored hashed.

use super::{Actor, Permission, Role, Scopes, Service, ServiceError, draft};
use crate::entropy;
use crate::model::Owner;
use crate::store::Batch;
use crate::store::tokens::{ApiTokenRecord, TokenRecord, TokenWrite};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use meshd_proto::token::{JoinToken, MAX_ADDRESSES, TokenSecret};
use meshd_proto::{Hostname, Tag, UnixSeconds, keys};
use std::collections::BTreeSet;
use zeroize::Zeroizing;

const API_PREFIX: &str = "meshapi_";
const LISTED: u32 = 1000;
const MAX_USES: u32 = 100_000;
/// Ten years: longer is a typing mistake.
const MAX_LIFETIME: u64 = 10 * 366 * 24 * 3600;

/// Which join token to make.
#[derive(Clone, Debug)]
pub struct TokenRequest {
    /// How many machines it may admit.
    pub uses: u32,
    /// Seconds until it ends.
    pub lifetime: u64,
    /// What the nodes are.
    pub tags: BTreeSet<Tag>,
    /// The nodes are forgotten when they stay away.
    pub ephemeral: bool,
    /// The nodes may talk at once.
    pub pre_approved: bool,
    /// Who the nodes belong to; `None`: the mesh's first user. Not with tags.
    pub user: Option<String>,
    /// What for.
    pub note: String,
}

impl Default for TokenRequest {
    /// Ten machines, within a day: a home's worth.
    fn default() -> Self {
        Self {
            uses: 10,
            lifetime: 24 * 3600,
            tags: BTreeSet::new(),
            ephemeral: false,
            pre_approved: true,
            user: None,
            note: String::new(),
        }
    }
}

/// A join token that was made. The secret is in here and nowhere else.
#[derive(Debug)]
pub struct NewToken {
    /// The line to paste.
    pub token: JoinToken,
    /// What is stored of it.
    pub record: TokenRecord,
}

/// Which API token to make.
#[derive(Clone, Debug)]
pub struct ApiTokenRequest {
    /// For people and the log.
    pub name: String,
    /// What it may do; never more than its maker.
    pub role: Role,
    /// What of that; never more than its maker.
    pub scopes: Scopes,
    /// Seconds until it ends.
    pub lifetime: u64,
    /// The one cluster it is for.
    pub cluster: Option<Hostname>,
}

/// An API token that was made. The secret is in here and nowhere else.
#[derive(Debug)]
pub struct NewApiToken {
    /// What goes behind `Authorization: Bearer`.
    pub secret: Zeroizing<String>,
    /// What is stored of it.
    pub record: ApiTokenRecord,
}

/// Nodes that join with an untagged token of this coordinator belong to this user.
pub(super) fn default_owner() -> Owner {
    Owner::local("owner")
}

impl Service {
    /// Makes a join token.
    ///
    /// # Errors
    /// When the actor may not, the request makes no sense, nobody has said yet where the coordinator is
    /// reached, or the database fails.
    pub async fn create_token(
        &self,
        actor: &Actor,
        request: &TokenRequest,
        now: UnixSeconds,
    ) -> Result<NewToken, ServiceError> {
        Self::require(actor, Permission::ManageTokens)?;
        if request.uses == 0 || request.uses > MAX_USES {
            return Err(ServiceError::Invalid(format!("a token has 1 to {MAX_USES} uses")));
        }
        check_lifetime(request.lifetime)?;
        let owner = owner_of(request)?;
        let mut turn = self.lock().await?;
        let mesh = &turn.model.mesh;
        let addresses: Vec<String> = mesh.addresses.iter().take(MAX_ADDRESSES).cloned().collect();
        if addresses.is_empty() {
            return Err(ServiceError::Conflict(
                "nobody knows yet where this coordinator is reached: run `meshd-coordinator serve` once, \
                 with --public NAME when it finds no outside address by itself"
                    .to_owned(),
            ));
        }
        let secret = TokenSecret::from_bytes(entropy::random());
        let record = TokenRecord {
            id: 0,
            fingerprint: secret.fingerprint(),
            created: now,
            expires: UnixSeconds(now.0.saturating_add(request.lifetime)),
            max_uses: request.uses,
            used: 0,
            owner,
            tags: request.tags.clone(),
            ephemeral: request.ephemeral,
            pre_approved: request.pre_approved,
            revoked: None,
            created_by: actor.to_string(),
            note: line(&request.note, 200),
        };
        let token = JoinToken::new(addresses, turn.model.network, self.public_keys().hash(), secret)
            .map_err(|e| ServiceError::Conflict(e.to_string()))?;
        let detail = format!("{} uses, until {}", request.uses, crate::clock::show(record.expires));
        let batch = Batch {
            at: now,
            tokens: vec![TokenWrite::Insert(record.clone())],
            audit: vec![draft(actor, "token.create", tag_text(&request.tags), detail)],
            ..Batch::default()
        };
        turn.commit(batch).await?;
        turn = self.lock().await?;
        let stored = turn.writer.store.token_by_fingerprint(&record.fingerprint).await?;
        Ok(NewToken { token, record: stored.unwrap_or(record) })
    }

    /// The newest join tokens, newest first.
    ///
    /// # Errors
    /// When the actor may not, or the database fails.
    pub async fn tokens(&self, actor: &Actor) -> Result<Vec<TokenRecord>, ServiceError> {
        Self::require(actor, Permission::Read)?;
        Ok(self.lock().await?.writer.store.tokens(LISTED).await?)
    }

    /// Takes a join token back. Nodes that joined with it stay.
    ///
    /// # Errors
    /// When the actor may not, there is no such token, or the database fails.
    pub async fn revoke_token(&self, actor: &Actor, id: u64, now: UnixSeconds) -> Result<(), ServiceError> {
        Self::require(actor, Permission::ManageTokens)?;
        let mut turn = self.lock().await?;
        let known = turn.writer.store.tokens(u32::MAX).await?;
        if !known.iter().any(|t| t.id == id) {
            return Err(no_token("token", id, "token list"));
        }
        let batch = Batch {
            at: now,
            tokens: vec![TokenWrite::Revoke { id, at: now }],
            audit: vec![draft(actor, "token.revoke", id, "")],
            ..Batch::default()
        };
        turn.commit(batch).await?;
        Ok(())
    }

    /// Makes an API token.
    ///
    /// # Errors
    /// When the actor may not or has a weaker role, the request makes no sense, or the database fails.
    pub async fn create_api_token(
        &self,
        actor: &Actor,
        request: &ApiTokenRequest,
        now: UnixSeconds,
    ) -> Result<NewApiToken, ServiceError> {
        Self::require(actor, Permission::ManageApiTokens)?;
        let own_scopes = if let Actor::ApiToken { scopes, .. } = actor { scopes } else { &Scopes::ALL };
        if actor.role().is_none_or(|own| request.role > own) || !own_scopes.cover(&request.scopes) {
            return Err(ServiceError::Forbidden {
                actor: actor.to_string(),
                permission: Permission::ManageApiTokens,
            });
        }
        check_lifetime(request.lifetime)?;
        let name = line(&request.name, 60);
        if name.is_empty() {
            return Err(ServiceError::Invalid("an API token needs a name, for the audit log".to_owned()));
        }
        let secret =
            Zeroizing::new(format!("{API_PREFIX}{}", URL_SAFE_NO_PAD.encode(entropy::random::<32>())));
        let record = ApiTokenRecord {
            id: 0,
            fingerprint: api_fingerprint(&secret),
            name,
            role: request.role,
            scopes: request.scopes.clone(),
            created: now,
            expires: UnixSeconds(now.0.saturating_add(request.lifetime)),
            revoked: None,
            created_by: actor.to_string(),
            cluster: request.cluster.clone(),
        };
        let batch = Batch {
            at: now,
            tokens: vec![TokenWrite::InsertApi(record.clone())],
            audit: vec![draft(actor, "api-token.create", &record.name, granted(&record))],
            ..Batch::default()
        };
        self.lock().await?.commit(batch).await?;
        let stored = self.lock().await?.writer.store.api_token_by_fingerprint(&record.fingerprint).await?;
        Ok(NewApiToken { secret, record: stored.unwrap_or(record) })
    }

    /// The newest API tokens, newest first.
    ///
    /// # Errors
    /// When the actor may not, or the database fails.
    pub async fn api_tokens(&self, actor: &Actor) -> Result<Vec<ApiTokenRecord>, ServiceError> {
        Self::require(actor, Permission::ManageApiTokens)?;
        Ok(self.lock().await?.writer.store.api_tokens(LISTED).await?)
    }

    /// Takes an API token back.
    ///
    /// # Errors
    /// When the actor may not, there is no such token, or the database fails.
    pub async fn revoke_api_token(
        &self,
        actor: &Actor,
        id: u64,
        now: UnixSeconds,
    ) -> Result<(), ServiceError> {
        Self::require(actor, Permission::ManageApiTokens)?;
        let mut turn = self.lock().await?;
        let known = turn.writer.store.api_tokens(u32::MAX).await?;
        let Some(token) = known.iter().find(|t| t.id == id) else {
            return Err(no_token("API token", id, "api-token list"));
        };
        let batch = Batch {
            at: now,
            tokens: vec![TokenWrite::RevokeApi { id, at: now }],
            audit: vec![draft(actor, "api-token.revoke", &token.name, "")],
            ..Batch::default()
        };
        turn.commit(batch).await?;
        Ok(())
    }

    /// Who holds this bearer secret; `None` for a wrong, ended or revoked one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn authenticate(&self, secret: &str, now: UnixSeconds) -> Result<Option<Actor>, ServiceError> {
        if !secret.starts_with(API_PREFIX) || secret.len() > 100 {
            return Ok(None);
        }
        // Found by the hash of 256 random bits: how long the search takes says nothing about the secret.
        let found =
            self.lock().await?.writer.store.api_token_by_fingerprint(&api_fingerprint(secret)).await?;
        let valid = found.filter(|t| t.revoked.is_none() && now < t.expires);
        Ok(valid.map(|t| Actor::ApiToken {
            name: t.name,
            role: t.role,
            scopes: t.scopes,
            cluster: t.cluster,
        }))
    }
}

fn granted(record: &ApiTokenRecord) -> String {
    match record.scopes.names() {
        all if all.is_empty() => record.role.to_string(),
        names => format!("{}, only {}", record.role, names.join(", ")),
    }
}

fn api_fingerprint(secret: &str) -> [u8; 32] {
    keys::hash("meshd api token", &[secret.as_bytes()])
}

fn owner_of(request: &TokenRequest) -> Result<Owner, ServiceError> {
    match (&request.user, request.tags.is_empty()) {
        (Some(_), false) => Err(ServiceError::Invalid(
            "a token has tags or a user, not both: nodes with tags belong to nobody".to_owned(),
        )),
        (None, false) => Ok(Owner::Tagged),
        (None, true) => Ok(default_owner()),
        (Some(user), true) => {
            let fits = |c: char| c.is_alphanumeric() || "._-@+".contains(c);
            if user.is_empty() || user.len() > 100 || !user.chars().all(fits) {
                return Err(ServiceError::Invalid(
                    "a user name has 1 to 100 letters, digits and . _ - @ +".to_owned(),
                ));
            }
            Ok(Owner::local(user))
        }
    }
}

pub(super) fn check_lifetime(seconds: u64) -> Result<(), ServiceError> {
    if seconds == 0 || seconds > MAX_LIFETIME {
        return Err(ServiceError::Invalid("a token lives from one second to ten years".to_owned()));
    }
    Ok(())
}

fn no_token(what: &'static str, id: u64, list: &str) -> ServiceError {
    ServiceError::NotFound {
        what,
        name: id.to_string(),
        hint: format!("; `meshd-coordinator {list}` shows them"),
    }
}

fn tag_text(tags: &BTreeSet<Tag>) -> String {
    tags.iter().map(Tag::as_str).collect::<Vec<_>>().join(", ")
}

pub(super) fn line(text: &str, max: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(max).collect::<String>().trim().to_owned()
}
