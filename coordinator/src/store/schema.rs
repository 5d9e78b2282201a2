//! The tables, as a list of migrations.
//!
//! A database's `user_version` says how many it has had. Each runs in a transaction of its own together
//! with the new number, so a crash leaves the old state and the next start runs it again. Before the
//! first one of an existing database a copy goes to `backups/`.

use super::{StateDir, StoreError, backup};
use meshd_proto::UnixSeconds;
use sqlx::{AssertSqlSafe, Connection, Row, SqliteConnection};

const MIGRATIONS: &[&str] = &[V1, V2, V3, V4, V5];

/// What nodes publish, and which of them are public exits: JSON.
const V3: &str = "ALTER TABLE nodes ADD COLUMN publishing TEXT NOT NULL DEFAULT '{}';";

/// Names that are bound to users, groups or tags.
const V5: &str = "
CREATE TABLE bound_names (
  audience TEXT PRIMARY KEY, search TEXT NOT NULL, split TEXT NOT NULL, nameservers TEXT NOT NULL
);
CREATE TABLE bound_records (
  audience TEXT NOT NULL REFERENCES bound_names (audience) ON DELETE CASCADE,
  name TEXT NOT NULL, kind TEXT NOT NULL, ttl INTEGER NOT NULL, contents TEXT NOT NULL,
  PRIMARY KEY (audience, name, kind)
);
";

/// Clusters with what they publish; API tokens that are of one cluster.
const V4: &str = "
ALTER TABLE api_tokens ADD COLUMN cluster TEXT NOT NULL DEFAULT '';
CREATE TABLE clusters (
  name TEXT PRIMARY KEY, ranges TEXT NOT NULL, created INTEGER NOT NULL, changed INTEGER NOT NULL
);
CREATE TABLE cluster_services (
  cluster TEXT NOT NULL REFERENCES clusters (name) ON DELETE CASCADE,
  namespace TEXT NOT NULL, name TEXT NOT NULL, claim TEXT NOT NULL,
  PRIMARY KEY (cluster, namespace, name)
);
";

/// People, their sessions and invitations; scopes of API tokens.
const V2: &str = "
ALTER TABLE api_tokens ADD COLUMN scopes TEXT NOT NULL DEFAULT '';
CREATE TABLE users (
  id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, role TEXT NOT NULL,
  password TEXT NOT NULL, totp BLOB NOT NULL, totp_step INTEGER NOT NULL,
  created INTEGER NOT NULL, created_by TEXT NOT NULL, disabled INTEGER, last_login INTEGER
);
CREATE TABLE recovery_codes (
  user INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE, fingerprint BLOB NOT NULL,
  PRIMARY KEY (user, fingerprint)
);
CREATE TABLE sessions (
  fingerprint BLOB PRIMARY KEY, user INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  created INTEGER NOT NULL, seen INTEGER NOT NULL, remote TEXT NOT NULL, agent TEXT NOT NULL
);
CREATE TABLE invitations (
  id INTEGER PRIMARY KEY AUTOINCREMENT, fingerprint BLOB NOT NULL UNIQUE, role TEXT NOT NULL,
  name TEXT NOT NULL, totp BLOB NOT NULL, created INTEGER NOT NULL, expires INTEGER NOT NULL,
  created_by TEXT NOT NULL
);
";

const V1: &str = "
CREATE TABLE mesh (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  network BLOB NOT NULL, epoch INTEGER NOT NULL, version INTEGER NOT NULL, next_node INTEGER NOT NULL,
  name TEXT NOT NULL, domain TEXT NOT NULL, prefix_v4 TEXT NOT NULL, prefix_v6 TEXT NOT NULL,
  map_lease INTEGER NOT NULL, addresses TEXT NOT NULL,
  search TEXT NOT NULL, split TEXT NOT NULL, nameservers TEXT NOT NULL, dns_ttl INTEGER NOT NULL,
  created INTEGER NOT NULL
);
CREATE TABLE coordinator_keys (
  slot TEXT PRIMARY KEY, control BLOB NOT NULL, signing BLOB NOT NULL, relay BLOB NOT NULL,
  created INTEGER NOT NULL
);
CREATE TABLE classes (
  id INTEGER PRIMARY KEY, issuer TEXT NOT NULL, subject TEXT NOT NULL, display TEXT NOT NULL,
  tags TEXT NOT NULL, UNIQUE (issuer, subject, tags)
);
CREATE TABLE nodes (
  id INTEGER PRIMARY KEY, machine_key BLOB UNIQUE, node_key BLOB NOT NULL UNIQUE,
  name TEXT NOT NULL UNIQUE, renamed INTEGER NOT NULL, v4 TEXT NOT NULL UNIQUE, v6 TEXT NOT NULL UNIQUE,
  issuer TEXT NOT NULL, subject TEXT NOT NULL, display TEXT NOT NULL, tags TEXT NOT NULL,
  class INTEGER NOT NULL REFERENCES classes (id),
  exit_advertised INTEGER NOT NULL, exit_approved INTEGER NOT NULL,
  key_expires INTEGER, ephemeral INTEGER NOT NULL, admitted INTEGER NOT NULL, revoked INTEGER NOT NULL,
  machine_id BLOB, os TEXT NOT NULL, client_version TEXT NOT NULL, created INTEGER NOT NULL,
  kind TEXT NOT NULL, via INTEGER, changed INTEGER NOT NULL
);
CREATE TABLE routes (
  node INTEGER NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
  prefix TEXT NOT NULL, advertised INTEGER NOT NULL, approved INTEGER NOT NULL,
  PRIMARY KEY (node, prefix)
);
CREATE TABLE tokens (
  id INTEGER PRIMARY KEY AUTOINCREMENT, fingerprint BLOB NOT NULL UNIQUE,
  created INTEGER NOT NULL, expires INTEGER NOT NULL, max_uses INTEGER NOT NULL, used INTEGER NOT NULL,
  issuer TEXT NOT NULL, subject TEXT NOT NULL, display TEXT NOT NULL, tags TEXT NOT NULL,
  ephemeral INTEGER NOT NULL, pre_approved INTEGER NOT NULL, revoked INTEGER,
  created_by TEXT NOT NULL, note TEXT NOT NULL,
  CHECK (used <= max_uses)
);
CREATE TABLE api_tokens (
  id INTEGER PRIMARY KEY AUTOINCREMENT, fingerprint BLOB NOT NULL UNIQUE, name TEXT NOT NULL,
  role TEXT NOT NULL, created INTEGER NOT NULL, expires INTEGER NOT NULL, revoked INTEGER,
  created_by TEXT NOT NULL
);
CREATE TABLE records (
  name TEXT NOT NULL, kind TEXT NOT NULL, ttl INTEGER NOT NULL, contents TEXT NOT NULL,
  PRIMARY KEY (name, kind)
);
CREATE TABLE policies (
  version INTEGER PRIMARY KEY, text TEXT NOT NULL, set_by TEXT NOT NULL, at INTEGER NOT NULL
);
CREATE TABLE relays (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL, key BLOB NOT NULL, hosts TEXT NOT NULL,
  udp_port INTEGER NOT NULL, alt_udp_port INTEGER NOT NULL, tls_port INTEGER NOT NULL
);
CREATE TABLE changes (
  version INTEGER NOT NULL, seq INTEGER NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL,
  at INTEGER NOT NULL, PRIMARY KEY (version, seq)
);
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE audit (
  id INTEGER PRIMARY KEY, at INTEGER NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL,
  subject TEXT NOT NULL, detail TEXT NOT NULL, hash BLOB NOT NULL
);
";

/// Newest format that this release knows.
pub(super) fn newest() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

/// How many migrations a database has had.
pub(super) async fn format_of(conn: &mut SqliteConnection) -> Result<i64, StoreError> {
    Ok(sqlx::query("PRAGMA user_version").fetch_one(conn).await?.try_get(0)?)
}

/// Runs the migrations that a database has not had.
pub(super) async fn migrate(
    conn: &mut SqliteConnection,
    dir: &StateDir,
    at: UnixSeconds,
) -> Result<(), StoreError> {
    let found = format_of(conn).await?;
    let known = newest();
    if found > known {
        return Err(StoreError::Newer { found, known });
    }
    if found > 0 && found < known {
        let copy = dir.backups()?.join(format!("before-format-{known}-{}.db", at.0));
        tracing::info!(copy = %copy.display(), "database is brought up to date; a copy is kept");
        backup::copy(conn, &copy).await?;
    }
    for (done, sql) in (1i64..).zip(MIGRATIONS).skip(usize::try_from(found).unwrap_or(0)) {
        let mut tx = conn.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::raw_sql(*sql).execute(&mut *tx).await?;
        // A number of this file, not a text from outside; PRAGMA takes no parameters.
        sqlx::raw_sql(AssertSqlSafe(format!("PRAGMA user_version = {done}"))).execute(&mut *tx).await?;
        tx.commit().await?;
    }
    Ok(())
}
