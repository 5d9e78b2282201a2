//! People, their sessions, recovery codes and invitations. Secrets of links, sessions and recovery codes are
//! stored hashed; of a password there is an argon2id hash; the TOTP secret is stored as it is, since a
//! code cannot be checked otherwise.

use super::pack::{bytes, number, parsed, time_or_none};
use super::{Store, StoreError, int};
use crate::model::roles::Role;
use meshd_proto::UnixSeconds;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};
use std::fmt;

/// Bytes of a TOTP secret: RFC 4226 §4 asks for 160 bits.
pub const TOTP_BYTES: usize = 20;

/// A TOTP secret. Its `Debug` says nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct TotpSecret(pub [u8; TOTP_BYTES]);

impl fmt::Debug for TotpSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TotpSecret")
    }
}

/// A person with an account here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRecord {
    /// 0 before it is stored.
    pub id: u64,
    /// Unique.
    pub name: String,
    /// What the person may do.
    pub role: Role,
    /// argon2id, in the PHC string format.
    pub password: String,
    /// For the codes.
    pub totp: TotpSecret,
    /// The newest time step whose code was used: a code opens once.
    pub totp_step: u64,
    /// When the account was made.
    pub created: UnixSeconds,
    /// By whom.
    pub created_by: String,
    /// Since when it is switched off.
    pub disabled: Option<UnixSeconds>,
    /// When the person signed in last.
    pub last_login: Option<UnixSeconds>,
}

/// A signed-in browser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// Hash of the cookie's secret.
    pub fingerprint: [u8; 32],
    /// Whose.
    pub user: u64,
    /// Since when.
    pub created: UnixSeconds,
    /// When it was used last, to a minute.
    pub seen: UnixSeconds,
    /// Where it was opened from.
    pub remote: String,
    /// What the browser called itself.
    pub agent: String,
}

/// A link that makes an account, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvitationRecord {
    /// 0 before it is stored.
    pub id: u64,
    /// Hash of the link's secret.
    pub fingerprint: [u8; 32],
    /// What the person may do.
    pub role: Role,
    /// For whom; empty: the person chooses a name.
    pub name: String,
    /// The TOTP secret that the account will have.
    pub totp: TotpSecret,
    /// When it was made.
    pub created: UnixSeconds,
    /// From then on it opens nothing.
    pub expires: UnixSeconds,
    /// Who made it.
    pub created_by: String,
}

/// One planned change of accounts.
#[derive(Clone, Debug)]
pub enum AccountWrite {
    /// A new account with its recovery codes.
    InsertUser(UserRecord, Vec<[u8; 32]>),
    /// Role, password, TOTP secret or state of an account change.
    UpdateUser(UserRecord),
    /// Another password in place of the one with that hash; fails the commit when that is gone, or the account is
    /// switched off.
    SetPassword {
        /// Whose.
        id: u64,
        /// The hash that was looked at.
        before: String,
        /// The new one.
        after: String,
    },
    /// Somebody signs in with the password of that hash; fails the commit as above.
    NoteLogin {
        /// Who.
        id: u64,
        /// The hash that was looked at.
        password: String,
        /// When.
        at: UnixSeconds,
    },
    /// An account goes, with its sessions.
    DeleteUser(u64),
    /// A code of that time step was used; fails the commit when it or a later one was used before.
    TakeTotpStep(u64, u64),
    /// A recovery code is used; fails the commit when it is gone.
    TakeRecoveryCode(u64, [u8; 32]),
    /// Other recovery codes.
    PutRecoveryCodes(u64, Vec<[u8; 32]>),
    /// Somebody signed in.
    InsertSession(SessionRecord),
    /// A session was used.
    TouchSession([u8; 32], UnixSeconds),
    /// A session ends.
    DeleteSession([u8; 32]),
    /// All sessions of an account end, but maybe one.
    DeleteSessions(u64, Option<[u8; 32]>),
    /// Sessions that were opened or used before these times end.
    SweepSessions(UnixSeconds, UnixSeconds),
    /// A new invitation.
    InsertInvitation(InvitationRecord),
    /// An invitation is used or taken back; fails the commit when it is gone.
    TakeInvitation(u64),
    /// Invitations that ended before this time go.
    SweepInvitations(UnixSeconds),
}

pub(super) async fn write(tx: &mut SqliteConnection, write: &AccountWrite) -> Result<(), StoreError> {
    let done = match write {
        AccountWrite::InsertUser(user, codes) => return insert_user(tx, user, codes).await,
        AccountWrite::PutRecoveryCodes(user, codes) => return put_codes(tx, *user, codes).await,
        AccountWrite::UpdateUser(user) => {
            let sql = "UPDATE users SET role = ?, password = ?, totp = ?, totp_step = ?, disabled = ?, last_login = ? WHERE id = ?";
            sqlx::query(sql)
                .bind(user.role.as_str())
                .bind(&user.password)
                .bind(user.totp.0.to_vec())
                .bind(int(user.totp_step))
                .bind(user.disabled.map(|t| int(t.0)))
                .bind(user.last_login.map(|t| int(t.0)))
                .bind(int(user.id))
                .execute(tx)
                .await?
        }
        AccountWrite::SetPassword { id, before, after } => {
            let sql = "UPDATE users SET password = ? WHERE id = ? AND password = ? AND disabled IS NULL";
            let query = sqlx::query(sql).bind(after).bind(int(*id)).bind(before);
            return once(query.execute(tx).await?.rows_affected());
        }
        AccountWrite::NoteLogin { id, password, at } => {
            let sql = "UPDATE users SET last_login = ? WHERE id = ? AND password = ? AND disabled IS NULL";
            let query = sqlx::query(sql).bind(int(at.0)).bind(int(*id)).bind(password);
            return once(query.execute(tx).await?.rows_affected());
        }
        AccountWrite::DeleteUser(id) => {
            sqlx::query("DELETE FROM users WHERE id = ?").bind(int(*id)).execute(tx).await?
        }
        AccountWrite::TakeTotpStep(user, step) => {
            let sql = "UPDATE users SET totp_step = ? WHERE id = ? AND totp_step < ?";
            let query = sqlx::query(sql).bind(int(*step)).bind(int(*user)).bind(int(*step));
            return once(query.execute(tx).await?.rows_affected());
        }
        AccountWrite::TakeRecoveryCode(user, hash) => {
            let sql = "DELETE FROM recovery_codes WHERE user = ? AND fingerprint = ?";
            let query = sqlx::query(sql).bind(int(*user)).bind(hash.to_vec());
            return once(query.execute(tx).await?.rows_affected());
        }
        AccountWrite::InsertSession(session) => {
            let sql = "INSERT INTO sessions (fingerprint, user, created, seen, remote, agent) VALUES (?, ?, ?, ?, ?, ?)";
            sqlx::query(sql)
                .bind(session.fingerprint.to_vec())
                .bind(int(session.user))
                .bind(int(session.created.0))
                .bind(int(session.seen.0))
                .bind(&session.remote)
                .bind(&session.agent)
                .execute(tx)
                .await?
        }
        AccountWrite::TouchSession(hash, at) => {
            let sql = "UPDATE sessions SET seen = ? WHERE fingerprint = ?";
            sqlx::query(sql).bind(int(at.0)).bind(hash.to_vec()).execute(tx).await?
        }
        AccountWrite::DeleteSession(hash) => {
            sqlx::query("DELETE FROM sessions WHERE fingerprint = ?").bind(hash.to_vec()).execute(tx).await?
        }
        AccountWrite::DeleteSessions(user, but) => {
            let sql = "DELETE FROM sessions WHERE user = ? AND fingerprint IS NOT ?";
            sqlx::query(sql).bind(int(*user)).bind(but.map(|h| h.to_vec())).execute(tx).await?
        }
        AccountWrite::SweepSessions(opened, seen) => {
            let sql = "DELETE FROM sessions WHERE created <= ? OR seen <= ?";
            sqlx::query(sql).bind(int(opened.0)).bind(int(seen.0)).execute(tx).await?
        }
        AccountWrite::InsertInvitation(invitation) => {
            let sql = "INSERT INTO invitations (fingerprint, role, name, totp, created, expires, created_by)
                       VALUES (?, ?, ?, ?, ?, ?, ?)";
            sqlx::query(sql)
                .bind(invitation.fingerprint.to_vec())
                .bind(invitation.role.as_str())
                .bind(&invitation.name)
                .bind(invitation.totp.0.to_vec())
                .bind(int(invitation.created.0))
                .bind(int(invitation.expires.0))
                .bind(&invitation.created_by)
                .execute(tx)
                .await?
        }
        AccountWrite::TakeInvitation(id) => {
            let query = sqlx::query("DELETE FROM invitations WHERE id = ?").bind(int(*id));
            return once(query.execute(tx).await?.rows_affected());
        }
        AccountWrite::SweepInvitations(before) => {
            sqlx::query("DELETE FROM invitations WHERE expires <= ?").bind(int(before.0)).execute(tx).await?
        }
    };
    tracing::trace!(rows = done.rows_affected(), "accounts changed");
    Ok(())
}

fn once(rows: u64) -> Result<(), StoreError> {
    if rows == 1 { Ok(()) } else { Err(StoreError::TokenSpent) }
}

async fn insert_user(
    tx: &mut SqliteConnection,
    user: &UserRecord,
    codes: &[[u8; 32]],
) -> Result<(), StoreError> {
    let done = sqlx::query(
        "INSERT INTO users (name, role, password, totp, totp_step, created, created_by, last_login)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(&user.name)
    .bind(user.role.as_str())
    .bind(&user.password)
    .bind(user.totp.0.to_vec())
    .bind(int(user.totp_step))
    .bind(int(user.created.0))
    .bind(&user.created_by)
    .bind(user.last_login.map(|t| int(t.0)))
    .execute(&mut *tx)
    .await?;
    put_codes(tx, super::uint(done.last_insert_rowid()), codes).await
}

async fn put_codes(tx: &mut SqliteConnection, user: u64, codes: &[[u8; 32]]) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM recovery_codes WHERE user = ?").bind(int(user)).execute(&mut *tx).await?;
    for code in codes {
        let sql = "INSERT INTO recovery_codes (user, fingerprint) VALUES (?, ?)";
        sqlx::query(sql).bind(int(user)).bind(code.to_vec()).execute(&mut *tx).await?;
    }
    Ok(())
}

fn totp(row: &SqliteRow) -> Result<TotpSecret, StoreError> {
    let bytes: Vec<u8> = row.try_get("totp")?;
    bytes.try_into().map(TotpSecret).map_err(|_| StoreError::corrupt("totp", "it has another length"))
}

fn user(row: &SqliteRow) -> Result<UserRecord, StoreError> {
    Ok(UserRecord {
        id: number(row, "id")?,
        name: row.try_get("name")?,
        role: parsed(row, "role")?,
        password: row.try_get("password")?,
        totp: totp(row)?,
        totp_step: number(row, "totp_step")?,
        created: UnixSeconds(number(row, "created")?),
        created_by: row.try_get("created_by")?,
        disabled: time_or_none(row, "disabled")?,
        last_login: time_or_none(row, "last_login")?,
    })
}

fn session(row: &SqliteRow) -> Result<SessionRecord, StoreError> {
    Ok(SessionRecord {
        fingerprint: bytes(row, "fingerprint")?,
        user: number(row, "user")?,
        created: UnixSeconds(number(row, "created")?),
        seen: UnixSeconds(number(row, "seen")?),
        remote: row.try_get("remote")?,
        agent: row.try_get("agent")?,
    })
}

fn invitation(row: &SqliteRow) -> Result<InvitationRecord, StoreError> {
    Ok(InvitationRecord {
        id: number(row, "id")?,
        fingerprint: bytes(row, "fingerprint")?,
        role: parsed(row, "role")?,
        name: row.try_get("name")?,
        totp: totp(row)?,
        created: UnixSeconds(number(row, "created")?),
        expires: UnixSeconds(number(row, "expires")?),
        created_by: row.try_get("created_by")?,
    })
}

impl Store {
    /// Every account, by name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn users(&mut self) -> Result<Vec<UserRecord>, StoreError> {
        let rows = sqlx::query("SELECT * FROM users ORDER BY name").fetch_all(&mut self.conn).await?;
        rows.iter().map(user).collect()
    }

    /// The account of that name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn user_by_name(&mut self, name: &str) -> Result<Option<UserRecord>, StoreError> {
        let query = sqlx::query("SELECT * FROM users WHERE name = ?").bind(name);
        query.fetch_optional(&mut self.conn).await?.map(|row| user(&row)).transpose()
    }

    /// How many recovery codes an account has left.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn recovery_codes(&mut self, user: u64) -> Result<u64, StoreError> {
        let sql = "SELECT COUNT(*) FROM recovery_codes WHERE user = ?";
        let count: i64 = sqlx::query_scalar(sql).bind(int(user)).fetch_one(&mut self.conn).await?;
        Ok(super::uint(count))
    }

    /// The session of that hash, with its account.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn session(
        &mut self,
        hash: &[u8; 32],
    ) -> Result<Option<(SessionRecord, UserRecord)>, StoreError> {
        let query = sqlx::query("SELECT * FROM sessions WHERE fingerprint = ?").bind(hash.to_vec());
        let Some(row) = query.fetch_optional(&mut self.conn).await? else { return Ok(None) };
        let found = session(&row)?;
        let query = sqlx::query("SELECT * FROM users WHERE id = ?").bind(int(found.user));
        let owner = query.fetch_optional(&mut self.conn).await?.map(|row| user(&row)).transpose()?;
        Ok(owner.map(|owner| (found, owner)))
    }

    /// The sessions of an account, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sessions(&mut self, user: u64) -> Result<Vec<SessionRecord>, StoreError> {
        let sql = "SELECT * FROM sessions WHERE user = ? ORDER BY seen DESC LIMIT 100";
        sqlx::query(sql).bind(int(user)).fetch_all(&mut self.conn).await?.iter().map(session).collect()
    }

    /// The invitation of that hash.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn invitation(&mut self, hash: &[u8; 32]) -> Result<Option<InvitationRecord>, StoreError> {
        let query = sqlx::query("SELECT * FROM invitations WHERE fingerprint = ?").bind(hash.to_vec());
        query.fetch_optional(&mut self.conn).await?.map(|row| invitation(&row)).transpose()
    }

    /// Every invitation, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn invitations(&mut self) -> Result<Vec<InvitationRecord>, StoreError> {
        let rows = sqlx::query("SELECT * FROM invitations ORDER BY id DESC LIMIT 1000");
        rows.fetch_all(&mut self.conn).await?.iter().map(invitation).collect()
    }
}
