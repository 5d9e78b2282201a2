//! Clusters as rows: one for each, and one for each service that it publishes.

use super::super::pack::{self, number, parsed, read_list};
use super::super::{StoreError, int};
use crate::model::Cluster;
use meshd_proto::cluster::ServiceClaim;
use meshd_proto::{Hostname, UnixSeconds, Version};
use sqlx::{Row, SqliteConnection};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Writes a cluster; of its services only those rows that differ.
pub(super) async fn put(
    tx: &mut SqliteConnection,
    cluster: &Cluster,
    version: Version,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO clusters (name, ranges, created, changed) VALUES (?, ?, ?, ?)
         ON CONFLICT (name) DO UPDATE SET ranges = excluded.ranges, changed = excluded.changed",
    )
    .bind(cluster.name.as_str())
    .bind(pack::list(&cluster.ranges))
    .bind(int(cluster.created.0))
    .bind(int(version.0))
    .execute(&mut *tx)
    .await?;
    let mut stored = BTreeMap::new();
    let rows = sqlx::query("SELECT namespace, name, claim FROM cluster_services WHERE cluster = ?")
        .bind(cluster.name.as_str())
        .fetch_all(&mut *tx)
        .await?;
    for row in rows {
        let key: (String, String) = (row.try_get("namespace")?, row.try_get("name")?);
        stored.insert(key, row.try_get::<String, _>("claim")?);
    }
    for (key, claim) in &cluster.services {
        let text = serde_json::to_string(&**claim).map_err(|e| StoreError::corrupt("service", e))?;
        let old = stored.remove(&(key.namespace.to_string(), key.name.to_string()));
        if old.as_ref() == Some(&text) {
            continue;
        }
        sqlx::query("REPLACE INTO cluster_services (cluster, namespace, name, claim) VALUES (?, ?, ?, ?)")
            .bind(cluster.name.as_str())
            .bind(key.namespace.as_str())
            .bind(key.name.as_str())
            .bind(text)
            .execute(&mut *tx)
            .await?;
    }
    for (namespace, name) in stored.into_keys() {
        sqlx::query("DELETE FROM cluster_services WHERE cluster = ? AND namespace = ? AND name = ?")
            .bind(cluster.name.as_str())
            .bind(namespace)
            .bind(name)
            .execute(&mut *tx)
            .await?;
    }
    Ok(())
}

pub(super) async fn delete(tx: &mut SqliteConnection, name: &Hostname) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM clusters WHERE name = ?").bind(name.as_str()).execute(tx).await?;
    Ok(())
}

pub(super) async fn load(
    conn: &mut SqliteConnection,
) -> Result<BTreeMap<Hostname, Arc<Cluster>>, StoreError> {
    let mut clusters = BTreeMap::new();
    for row in sqlx::query("SELECT * FROM clusters").fetch_all(&mut *conn).await? {
        let name: Hostname = parsed(&row, "name")?;
        let cluster = Cluster {
            name: name.clone(),
            ranges: read_list(&row, "ranges")?,
            services: BTreeMap::new(),
            created: UnixSeconds(number(&row, "created")?),
            changed: Version(number(&row, "changed")?),
        };
        clusters.insert(name, cluster);
    }
    for row in sqlx::query("SELECT cluster, claim FROM cluster_services").fetch_all(&mut *conn).await? {
        let text: String = row.try_get("claim")?;
        let claim: ServiceClaim =
            serde_json::from_str(&text).map_err(|e| StoreError::corrupt("service of a cluster", e))?;
        let name: Hostname = parsed(&row, "cluster")?;
        if let Some(cluster) = clusters.get_mut(&name) {
            cluster.services.insert(claim.key(), Arc::new(claim));
        }
    }
    Ok(clusters.into_iter().map(|(name, cluster)| (name, Arc::new(cluster))).collect())
}
