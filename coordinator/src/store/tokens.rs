//! Join tokens and API tokens. Only hashes of secrets are stored: who reads the database can join nothing.

use super::pack::{self, bytes, number, parsed, read_owner, read_tags, small, time_or_none};
use super::{Store, StoreError, int, uint};
use crate::model::Owner;
use crate::model::roles::{Role, Scopes};
use meshd_proto::{Hostname, Tag, UnixSeconds};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};
use std::collections::BTreeSet;

/// A join token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRecord {
    /// For people and the log; 0 before it is stored.
    pub id: u64,
    /// Hash of the secret.
    pub fingerprint: [u8; 32],
    /// When it was made.
    pub created: UnixSeconds,
    /// From then on it admits nobody.
    pub expires: UnixSeconds,
    /// How many machines it may admit.
    pub max_uses: u32,
    /// How many it has.
    pub used: u32,
    /// Who the nodes belong to; [`Owner::Tagged`] when it has tags.
    pub owner: Owner,
    /// What the nodes are.
    pub tags: BTreeSet<Tag>,
    /// The nodes are forgotten when they stay away.
    pub ephemeral: bool,
    /// The nodes may talk at once; otherwise they wait for an admin.
    pub pre_approved: bool,
    /// When an admin took it back.
    pub revoked: Option<UnixSeconds>,
    /// Who made it.
    pub created_by: String,
    /// What for.
    pub note: String,
}

/// An API token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiTokenRecord {
    /// For people and the log; 0 before it is stored.
    pub id: u64,
    /// Hash of the secret.
    pub fingerprint: [u8; 32],
    /// For people and the log.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// What of that.
    pub scopes: Scopes,
    /// When it was made.
    pub created: UnixSeconds,
    /// From then on it opens nothing.
    pub expires: UnixSeconds,
    /// When an admin took it back.
    pub revoked: Option<UnixSeconds>,
    /// Who made it.
    pub created_by: String,
    /// The one cluster whose services it may publish; `None`: it is of none.
    pub cluster: Option<Hostname>,
}

/// One planned change of tokens.
#[derive(Clone, Debug)]
pub enum TokenWrite {
    /// A new join token.
    Insert(TokenRecord),
    /// One use is taken; fails the whole commit when none is left.
    Consume {
        /// Which.
        id: u64,
    },
    /// It admits nobody from now on.
    Revoke {
        /// Which.
        id: u64,
        /// Since when.
        at: UnixSeconds,
    },
    /// A new API token.
    InsertApi(ApiTokenRecord),
    /// It opens nothing from now on.
    RevokeApi {
        /// Which.
        id: u64,
        /// Since when.
        at: UnixSeconds,
    },
}

pub(super) async fn write(tx: &mut SqliteConnection, write: &TokenWrite) -> Result<(), StoreError> {
    match write {
        TokenWrite::Insert(token) => insert(tx, token).await,
        TokenWrite::Consume { id } => {
            let sql =
                "UPDATE tokens SET used = used + 1 WHERE id = ? AND used < max_uses AND revoked IS NULL";
            let done = sqlx::query(sql).bind(int(*id)).execute(tx).await?;
            if done.rows_affected() == 1 { Ok(()) } else { Err(StoreError::TokenSpent) }
        }
        TokenWrite::Revoke { id, at } => {
            let sql = "UPDATE tokens SET revoked = ? WHERE id = ? AND revoked IS NULL";
            sqlx::query(sql).bind(int(at.0)).bind(int(*id)).execute(tx).await?;
            Ok(())
        }
        TokenWrite::InsertApi(token) => {
            sqlx::query(
                "INSERT INTO api_tokens (fingerprint, name, role, scopes, created, expires, created_by, cluster)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            )
            .bind(token.fingerprint.to_vec())
            .bind(&token.name)
            .bind(token.role.as_str())
            .bind(token.scopes.names().join(","))
            .bind(int(token.created.0))
            .bind(int(token.expires.0))
            .bind(&token.created_by)
            .bind(token.cluster.as_ref().map_or("", Hostname::as_str))
            .execute(tx)
            .await?;
            Ok(())
        }
        TokenWrite::RevokeApi { id, at } => {
            let sql = "UPDATE api_tokens SET revoked = ? WHERE id = ? AND revoked IS NULL";
            sqlx::query(sql).bind(int(at.0)).bind(int(*id)).execute(tx).await?;
            Ok(())
        }
    }
}

async fn insert(tx: &mut SqliteConnection, token: &TokenRecord) -> Result<(), StoreError> {
    let (issuer, subject, display) = pack::owner(&token.owner);
    sqlx::query(
        "INSERT INTO tokens (fingerprint, created, expires, max_uses, used, issuer, subject, display, tags,
           ephemeral, pre_approved, created_by, note)
         VALUES (?, ?, ?, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(token.fingerprint.to_vec())
    .bind(int(token.created.0))
    .bind(int(token.expires.0))
    .bind(i64::from(token.max_uses))
    .bind(issuer)
    .bind(subject)
    .bind(display)
    .bind(pack::list(&token.tags))
    .bind(token.ephemeral)
    .bind(token.pre_approved)
    .bind(&token.created_by)
    .bind(&token.note)
    .execute(tx)
    .await?;
    Ok(())
}

fn token(row: &SqliteRow) -> Result<TokenRecord, StoreError> {
    Ok(TokenRecord {
        id: number(row, "id")?,
        fingerprint: bytes(row, "fingerprint")?,
        created: UnixSeconds(number(row, "created")?),
        expires: UnixSeconds(number(row, "expires")?),
        max_uses: small(row, "max_uses")?,
        used: small(row, "used")?,
        owner: read_owner(row)?,
        tags: read_tags(row)?,
        ephemeral: row.try_get("ephemeral")?,
        pre_approved: row.try_get("pre_approved")?,
        revoked: time_or_none(row, "revoked")?,
        created_by: row.try_get("created_by")?,
        note: row.try_get("note")?,
    })
}

fn api_token(row: &SqliteRow) -> Result<ApiTokenRecord, StoreError> {
    Ok(ApiTokenRecord {
        id: number(row, "id")?,
        fingerprint: bytes(row, "fingerprint")?,
        name: row.try_get("name")?,
        role: parsed(row, "role")?,
        scopes: Scopes::parse(row.try_get::<String, _>("scopes")?.split(','))
            .map_err(|e| StoreError::corrupt("api_tokens.scopes", e))?,
        created: UnixSeconds(number(row, "created")?),
        expires: UnixSeconds(number(row, "expires")?),
        revoked: time_or_none(row, "revoked")?,
        created_by: row.try_get("created_by")?,
        cluster: match row.try_get::<String, _>("cluster")?.as_str() {
            "" => None,
            name => Some(name.parse().map_err(|e| StoreError::corrupt("api_tokens.cluster", e))?),
        },
    })
}

impl Store {
    /// The join token of that hash.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn token_by_fingerprint(&mut self, hash: &[u8; 32]) -> Result<Option<TokenRecord>, StoreError> {
        let query = sqlx::query("SELECT * FROM tokens WHERE fingerprint = ?").bind(hash.to_vec());
        query.fetch_optional(&mut self.conn).await?.map(|row| token(&row)).transpose()
    }

    /// The newest join tokens, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn tokens(&mut self, limit: u32) -> Result<Vec<TokenRecord>, StoreError> {
        let query = sqlx::query("SELECT * FROM tokens ORDER BY id DESC LIMIT ?").bind(i64::from(limit));
        query.fetch_all(&mut self.conn).await?.iter().map(token).collect()
    }

    /// The API token of that hash.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn api_token_by_fingerprint(
        &mut self,
        hash: &[u8; 32],
    ) -> Result<Option<ApiTokenRecord>, StoreError> {
        let query = sqlx::query("SELECT * FROM api_tokens WHERE fingerprint = ?").bind(hash.to_vec());
        query.fetch_optional(&mut self.conn).await?.map(|row| api_token(&row)).transpose()
    }

    /// The newest API tokens, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn api_tokens(&mut self, limit: u32) -> Result<Vec<ApiTokenRecord>, StoreError> {
        let query = sqlx::query("SELECT * FROM api_tokens ORDER BY id DESC LIMIT ?").bind(i64::from(limit));
        query.fetch_all(&mut self.conn).await?.iter().map(api_token).collect()
    }

    /// The policy texts that were in force, newest first: `(version, text, set by, at)`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn policies(&mut self, limit: u32) -> Result<Vec<PolicyText>, StoreError> {
        let query =
            sqlx::query("SELECT * FROM policies ORDER BY version DESC LIMIT ?").bind(i64::from(limit));
        let rows = query.fetch_all(&mut self.conn).await?;
        rows.iter()
            .map(|row| {
                Ok(PolicyText {
                    version: uint(row.try_get("version")?),
                    text: row.try_get("text")?,
                    set_by: row.try_get("set_by")?,
                    at: UnixSeconds(uint(row.try_get("at")?)),
                })
            })
            .collect()
    }
}

/// A policy as it was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyText {
    /// The version that brought it.
    pub version: u64,
    /// As the admin wrote it.
    pub text: String,
    /// Who set it.
    pub set_by: String,
    /// When.
    pub at: UnixSeconds,
}
