//! The database: the only SQL of the coordinator.
//!
//! One SQLite file in the state directory, WAL with `synchronous=FULL`: when [`Store::commit`] returns,
//! the commit survives `kill -9` and a power cut. One commit is one transaction: rows, change log and
//! audit log together or not at all. What the rows mean is decided elsewhere: this module writes planned
//! [`Write`]s and reads back the [`Model`] they make.
//!
//! Invariants: one process per state directory (a lock file); directory 0700, files 0600; no text from
//! outside is ever part of a statement. PostgreSQL joins behind the same functions later.

pub mod accounts;
pub mod audit;
pub mod backup;
pub mod compact;
mod files;
mod pack;
mod rows;
mod schema;
pub mod tokens;

pub use files::StateDir;

use crate::model::{Model, Write};
use accounts::AccountWrite;
use audit::AuditDraft;
use meshd_proto::{CoordinatorSecret, NodeId, NodeSecret, SigningKey, UnixSeconds, Version};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{Connection, SqliteConnection};
use std::path::{Path, PathBuf};
use tokens::TokenWrite;

/// Why the database did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite said no.
    #[error("database: {0}")]
    Sql(sqlx::Error),
    /// A file or directory could not be used.
    #[error("{doing} {path}: {cause}")]
    File {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        cause: std::io::Error,
    },
    /// Another process works on the state directory.
    #[error("another coordinator works on {0}: stop it first, or choose another directory with --state-dir")]
    Locked(PathBuf),
    /// What is in the database cannot be.
    #[error(
        "the database holds an invalid {what}: {why}; restore a backup with `meshd-coordinator restore FILE`"
    )]
    Corrupt {
        /// Which table or column.
        what: &'static str,
        /// Why it is invalid.
        why: String,
    },
    /// Written by a later release.
    #[error("the database has format {found}, this release knows up to {known}: update meshd-coordinator")]
    Newer {
        /// Format of the file.
        found: i64,
        /// Newest format known.
        known: i64,
    },
    /// Not a backup of a coordinator.
    #[error("{0} is not a backup of a coordinator")]
    NotABackup(PathBuf),
    /// A token, invitation or code had no use left when it was consumed: somebody else was first.
    #[error("the token has no use left")]
    TokenSpent,
}

// By hand: the text of the cause is part of ours, so it is not its `source` as well.
impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl StoreError {
    fn corrupt(what: &'static str, why: impl std::fmt::Display) -> Self {
        Self::Corrupt { what, why: why.to_string() }
    }
}

/// The coordinator's own secrets.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Control channel.
    pub control: CoordinatorSecret,
    /// Permits.
    pub signing: SigningKey,
    /// The embedded relay.
    pub relay: NodeSecret,
}

/// What a database holds.
#[derive(Debug)]
pub struct Loaded {
    /// Everything at the newest version.
    pub model: Model,
    /// The coordinator's secrets.
    pub keys: Keys,
    /// The id the next node gets; ids of removed nodes are not given again.
    pub next_node: NodeId,
}

/// All that one commit does.
#[derive(Debug, Default)]
pub struct Batch {
    /// When.
    pub at: UnixSeconds,
    /// Changes of the model; with at least one of them the version grows by one.
    pub writes: Vec<Write>,
    /// Changes of tokens.
    pub tokens: Vec<TokenWrite>,
    /// Changes of people, their sessions and invitations.
    pub accounts: Vec<AccountWrite>,
    /// Settings of this coordinator alone, which no node learns.
    pub settings: Vec<(&'static str, String)>,
    /// What the audit log says.
    pub audit: Vec<AuditDraft>,
}

/// An open database.
#[derive(Debug)]
pub struct Store {
    conn: SqliteConnection,
    dir: StateDir,
}

impl Store {
    /// Opens or makes the database of a state directory and brings its tables up to date.
    ///
    /// # Errors
    /// When the directory is in use, cannot be written, or holds something else.
    pub async fn open(dir: StateDir, at: UnixSeconds) -> Result<Self, StoreError> {
        let path = dir.database();
        files::create_private(&path)?;
        files::sync(&path)?;
        let mut conn = connect(&path).await?;
        schema::migrate(&mut conn, &dir, at).await?;
        Ok(Self { conn, dir })
    }

    /// Where the files are.
    pub fn dir(&self) -> &StateDir {
        &self.dir
    }

    /// Everything in the database; `None` before the first [`Store::found`].
    ///
    /// # Errors
    /// When the database cannot be read or holds what cannot be.
    pub async fn load(&mut self) -> Result<Option<Loaded>, StoreError> {
        rows::load(&mut self.conn).await
    }

    /// Writes a new mesh into an empty database: its first model, keys and policy text.
    ///
    /// # Errors
    /// When the database fails or already holds a mesh.
    pub async fn found(
        &mut self,
        model: &Model,
        keys: &Keys,
        policy_text: &str,
        audit: AuditDraft,
        at: UnixSeconds,
    ) -> Result<(), StoreError> {
        let mut tx = self.conn.begin_with("BEGIN IMMEDIATE").await?;
        rows::found(&mut tx, model, keys, policy_text, at).await?;
        audit::append(&mut tx, at, &audit).await?;
        Ok(tx.commit().await?)
    }

    /// Does all of a batch or nothing of it. When it returns `Ok`, the batch is on the disk.
    ///
    /// # Errors
    /// Nothing was changed then.
    pub async fn commit(&mut self, version: Version, batch: &Batch) -> Result<(), StoreError> {
        let mut tx = self.conn.begin_with("BEGIN IMMEDIATE").await?;
        let mut seq = 0;
        for write in &batch.writes {
            rows::write(&mut tx, version, batch, write).await?;
            if let Some(change) = write.change() {
                rows::log_change(&mut tx, version, seq, &change, batch.at).await?;
                seq += 1;
            }
        }
        for write in &batch.tokens {
            tokens::write(&mut tx, write).await?;
        }
        for write in &batch.accounts {
            accounts::write(&mut tx, write).await?;
        }
        for (name, value) in &batch.settings {
            let sql = "REPLACE INTO settings (name, value) VALUES (?, ?)";
            sqlx::query(sql).bind(*name).bind(value).execute(&mut *tx).await?;
        }
        for entry in &batch.audit {
            audit::append(&mut tx, batch.at, entry).await?;
        }
        Ok(tx.commit().await?)
    }

    /// A setting of this coordinator alone.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn setting(&mut self, name: &'static str) -> Result<Option<String>, StoreError> {
        let sql = "SELECT value FROM settings WHERE name = ?";
        Ok(sqlx::query_scalar(sql).bind(name).fetch_optional(&mut self.conn).await?)
    }

    /// Ends the connection in order: the WAL is folded into the database file.
    ///
    /// # Errors
    /// When that fails; the data is safe in the WAL then.
    pub async fn close(self) -> Result<(), StoreError> {
        Ok(self.conn.close().await?)
    }
}

async fn connect(path: &Path) -> Result<SqliteConnection, StoreError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(std::time::Duration::from_secs(5));
    Ok(SqliteConnection::connect_with(&options).await?)
}

fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn uint(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

#[cfg(test)]
mod tests;
