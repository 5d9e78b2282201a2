//! Bound names as rows: one for each audience, and one for each record set.

use super::super::StoreError;
use super::super::pack::{self, read_endpoints, read_list, read_split};
use crate::model::{Audience, Bound};
use sqlx::{Row, SqliteConnection};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Writes what is bound to an audience; nothing bound: no row.
pub(super) async fn put(tx: &mut SqliteConnection, who: &Audience, bound: &Bound) -> Result<(), StoreError> {
    let audience = who.to_string();
    sqlx::query("DELETE FROM bound_names WHERE audience = ?").bind(&audience).execute(&mut *tx).await?;
    if bound.is_empty() {
        return Ok(());
    }
    sqlx::query("INSERT INTO bound_names (audience, search, split, nameservers) VALUES (?, ?, ?, ?)")
        .bind(&audience)
        .bind(pack::list(&bound.search))
        .bind(pack::split(&bound.split))
        .bind(pack::list(bound.nameservers.iter().map(|n| n.0)))
        .execute(&mut *tx)
        .await?;
    for ((name, kind), set) in &bound.records {
        sqlx::query("INSERT INTO bound_records (audience, name, kind, ttl, contents) VALUES (?, ?, ?, ?, ?)")
            .bind(&audience)
            .bind(name.as_str())
            .bind(kind.as_str())
            .bind(i64::from(set.ttl))
            .bind(pack::record_values(set))
            .execute(&mut *tx)
            .await?;
    }
    Ok(())
}

pub(super) async fn load(conn: &mut SqliteConnection) -> Result<BTreeMap<Audience, Arc<Bound>>, StoreError> {
    let read = |text: &str| Audience::stored(text).map_err(|e| StoreError::corrupt("audience", e));
    let mut all = BTreeMap::new();
    for row in sqlx::query("SELECT * FROM bound_names").fetch_all(&mut *conn).await? {
        let bound = Bound {
            search: read_list(&row, "search")?,
            split: read_split(&row)?,
            nameservers: read_endpoints(&row, "nameservers")?,
            ..Bound::default()
        };
        all.insert(read(row.try_get("audience")?)?, bound);
    }
    for row in sqlx::query("SELECT * FROM bound_records").fetch_all(&mut *conn).await? {
        let (key, set) = super::read::record(&row)?;
        if let Some(bound) = all.get_mut(&read(row.try_get("audience")?)?) {
            bound.records.insert(key, set);
        }
    }
    Ok(all.into_iter().map(|(who, bound)| (who, Arc::new(bound))).collect())
}
