//! The audit log: who did what, each entry chained to the one before by a hash.
//!
//! The chain shows that no entry was changed, taken out or put in between. It cannot show that the
//! whole log was replaced or its end cut by somebody who can write the database: note the newest hash
//! (`audit verify` prints it) somewhere else for that.
//!
//! Entries beyond the bound of [`super::compact`] have left the database; the chain begins behind them.

use super::{Store, StoreError, int, uint};
use meshd_proto::{UnixSeconds, keys};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

/// An entry to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditDraft {
    /// Who did it.
    pub actor: String,
    /// What was done, as `thing.verb`.
    pub action: &'static str,
    /// To what.
    pub subject: String,
    /// What else matters; never a secret.
    pub detail: String,
}

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// Counted from 1 without gaps.
    pub id: u64,
    /// When.
    pub at: UnixSeconds,
    /// Who did it.
    pub actor: String,
    /// What was done.
    pub action: String,
    /// To what.
    pub subject: String,
    /// What else matters.
    pub detail: String,
    /// Hash over this entry and the hash before.
    pub hash: [u8; 32],
}

/// Whether the chain holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChainState {
    /// Every entry fits the one before.
    Whole {
        /// How many entries there ever were: the newest one's number.
        entries: u64,
        /// The oldest one that is still in the database.
        first: u64,
        /// Hash of the newest; all zero for an empty log.
        head: [u8; 32],
    },
    /// From this entry on something was changed, taken out or put in.
    Broken {
        /// The first entry that does not fit.
        at: u64,
    },
}

/// The action of the entry that names the [`Base`].
pub(super) const ROTATE: &str = "audit.rotate";
/// The setting that keeps the [`Base`].
const BASE: &str = "audit-base";

/// Where the chain in the database begins: the newest entry that has left it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Base {
    /// Its number; 0 when none has left.
    pub(super) id: u64,
    /// Its hash.
    pub(super) hash: [u8; 32],
}

impl Base {
    pub(super) fn to_text(&self) -> String {
        format!("{}:{}", self.id, hex(&self.hash))
    }

    fn parse(text: &str) -> Option<Self> {
        let (id, hash) = text.split_once(':')?;
        let bytes: Option<Vec<u8>> =
            (0..32).map(|i| u8::from_str_radix(hash.get(2 * i..2 * i + 2)?, 16).ok()).collect();
        Some(Self { id: id.parse().ok()?, hash: bytes?.try_into().ok()? })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub(super) async fn base(conn: &mut SqliteConnection) -> Result<Base, StoreError> {
    let sql = "SELECT value FROM settings WHERE name = ?";
    let text: Option<String> = sqlx::query_scalar(sql).bind(BASE).fetch_optional(conn).await?;
    let Some(text) = text else { return Ok(Base::default()) };
    Base::parse(&text).ok_or_else(|| StoreError::corrupt("audit-base", "it is no number and hash"))
}

pub(super) async fn set_base(conn: &mut SqliteConnection, base: &Base) -> Result<(), StoreError> {
    let sql = "REPLACE INTO settings (name, value) VALUES (?, ?)";
    sqlx::query(sql).bind(BASE).bind(base.to_text()).execute(conn).await?;
    Ok(())
}

/// The number of the newest entry; 0 when there is none.
pub(super) async fn newest(conn: &mut SqliteConnection) -> Result<u64, StoreError> {
    let sql = "SELECT coalesce(max(id), 0) FROM audit";
    Ok(uint(sqlx::query_scalar(sql).fetch_one(conn).await?))
}

/// Entries behind `after` up to `last`, in order, at most 1000.
pub(super) async fn page(
    conn: &mut SqliteConnection,
    after: u64,
    last: u64,
) -> Result<Vec<AuditEntry>, StoreError> {
    let sql = "SELECT * FROM audit WHERE id > ? AND id <= ? ORDER BY id LIMIT 1000";
    let rows = sqlx::query(sql).bind(int(after)).bind(int(last)).fetch_all(conn).await?;
    rows.iter().map(entry).collect()
}

impl AuditEntry {
    /// As a line of the files that older entries go to.
    pub(super) fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "id": self.id, "at": self.at.0, "actor": self.actor, "action": self.action,
            "subject": self.subject, "detail": self.detail, "hash": hex(&self.hash),
        })
    }

    fn chained(&self, before: &[u8; 32]) -> [u8; 32] {
        let (id, at) = (self.id.to_le_bytes(), self.at.0.to_le_bytes());
        let parts: [&[u8]; 7] = [
            before,
            &id,
            &at,
            self.actor.as_bytes(),
            self.action.as_bytes(),
            self.subject.as_bytes(),
            self.detail.as_bytes(),
        ];
        keys::hash("meshd audit entry", &parts)
    }
}

pub(super) async fn append(
    conn: &mut SqliteConnection,
    at: UnixSeconds,
    draft: &AuditDraft,
) -> Result<(), StoreError> {
    let last = sqlx::query("SELECT * FROM audit ORDER BY id DESC LIMIT 1").fetch_optional(&mut *conn).await?;
    let last = last.map(|row| entry(&row)).transpose()?;
    let (id, before) = last.map_or((1, [0; 32]), |e| (e.id + 1, e.hash));
    let mut new = AuditEntry {
        id,
        at,
        actor: draft.actor.clone(),
        action: draft.action.to_owned(),
        subject: draft.subject.clone(),
        detail: draft.detail.clone(),
        hash: [0; 32],
    };
    new.hash = new.chained(&before);
    sqlx::query(
        "INSERT INTO audit (id, at, actor, action, subject, detail, hash) VALUES (?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(int(new.id))
    .bind(int(new.at.0))
    .bind(new.actor)
    .bind(new.action)
    .bind(new.subject)
    .bind(new.detail)
    .bind(new.hash.to_vec())
    .execute(conn)
    .await?;
    Ok(())
}

fn entry(row: &SqliteRow) -> Result<AuditEntry, StoreError> {
    let hash: Vec<u8> = row.try_get("hash")?;
    Ok(AuditEntry {
        id: uint(row.try_get("id")?),
        at: UnixSeconds(uint(row.try_get("at")?)),
        actor: row.try_get("actor")?,
        action: row.try_get("action")?,
        subject: row.try_get("subject")?,
        detail: row.try_get("detail")?,
        hash: hash.try_into().unwrap_or([0; 32]),
    })
}

impl Store {
    /// The newest entries before id `before` (all when `None`), newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn audit(&mut self, before: Option<u64>, limit: u32) -> Result<Vec<AuditEntry>, StoreError> {
        let rows = sqlx::query("SELECT * FROM audit WHERE id < ? ORDER BY id DESC LIMIT ?")
            .bind(before.map_or(i64::MAX, int))
            .bind(i64::from(limit))
            .fetch_all(&mut self.conn)
            .await?;
        rows.iter().map(entry).collect()
    }

    /// The newest entries before id `before` that hold `text` in any letter case, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn find_audit(
        &mut self,
        text: &str,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        let sql = "SELECT * FROM audit WHERE id < ?1
                   AND (?2 = '' OR instr(lower(actor || ' ' || action || ' ' || subject || ' ' || detail), lower(?2)) > 0)
                   ORDER BY id DESC LIMIT ?3";
        let query = sqlx::query(sql).bind(before.map_or(i64::MAX, int)).bind(text).bind(i64::from(limit));
        query.fetch_all(&mut self.conn).await?.iter().map(entry).collect()
    }

    /// Walks the whole chain.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn verify_audit(&mut self) -> Result<ChainState, StoreError> {
        let base = base(&mut self.conn).await?;
        let first = base.id + 1;
        let (mut head, mut entries) = (base.hash, base.id);
        // The chain itself says where it begins; nothing has to when nothing has left it.
        let mut begins_at = Base::default();
        loop {
            let page = page(&mut self.conn, entries, u64::MAX).await?;
            if page.is_empty() {
                return Ok(if begins_at == base {
                    ChainState::Whole { entries, first, head }
                } else {
                    ChainState::Broken { at: first }
                });
            }
            for entry in page {
                if entry.action == ROTATE
                    && let Some(named) = Base::parse(&entry.detail)
                {
                    begins_at = named;
                }
                if entry.id != entries + 1 || entry.chained(&head) != entry.hash {
                    return Ok(ChainState::Broken { at: entries + 1 });
                }
                (head, entries) = (entry.hash, entry.id);
            }
        }
    }
}
