//! The model as rows: one statement per planned write, and the way back.

mod bound;
mod clusters;
mod read;

pub(super) use read::load;

use super::{Batch, Keys, StoreError, int, pack};
use crate::model::{Change, ClassKey, MeshSettings, Model, NodeRecord, Write};
use meshd_proto::netmap::{PeerKind, Relay};
use meshd_proto::{ClassId, Tag, UnixSeconds, Version};
use sqlx::SqliteConnection;
use std::collections::BTreeSet;

pub(super) async fn found(
    tx: &mut SqliteConnection,
    model: &Model,
    keys: &Keys,
    policy_text: &str,
    at: UnixSeconds,
) -> Result<(), StoreError> {
    let mesh = &model.mesh;
    sqlx::query(
        "INSERT INTO mesh (id, network, epoch, version, next_node, name, domain, prefix_v4, prefix_v6, map_lease,
           addresses, search, split, nameservers, dns_ttl, created)
         VALUES (1, ?, ?, ?, 1, ?, ?, ?, ?, ?, '[]', '[]', '[]', '[]', 0, ?)",
    )
    .bind(model.network.as_bytes().to_vec())
    .bind(int(model.epoch.0))
    .bind(int(model.version.0))
    .bind(mesh.name.as_str())
    .bind(mesh.domain.as_str())
    .bind(mesh.prefixes.v4.to_string())
    .bind(mesh.prefixes.v6.to_string())
    .bind(int(mesh.map_lease))
    .bind(int(at.0))
    .execute(&mut *tx)
    .await?;
    put_mesh(tx, mesh).await?;
    sqlx::query(
        "INSERT INTO coordinator_keys (slot, control, signing, relay, created) VALUES ('current', ?, ?, ?, ?)",
    )
    .bind(keys.control.as_bytes().to_vec())
    .bind(keys.signing.to_bytes().to_vec())
    .bind(keys.relay.as_bytes().to_vec())
    .bind(int(at.0))
    .execute(&mut *tx)
    .await?;
    put_policy(tx, model.version, policy_text, "coordinator", at).await?;
    for (seq, change) in [Change::Mesh, Change::Policy].iter().enumerate() {
        log_change(tx, model.version, seq as u64, change, at).await?;
    }
    for relay in model.relays.values() {
        put_relay(tx, relay).await?;
    }
    Ok(())
}

pub(super) async fn write(
    tx: &mut SqliteConnection,
    version: Version,
    batch: &Batch,
    write: &Write,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE mesh SET version = ? WHERE id = 1").bind(int(version.0)).execute(&mut *tx).await?;
    match write {
        Write::PutNode(node) => put_node(tx, node, version).await,
        Write::DeleteNode(id) => {
            sqlx::query("DELETE FROM nodes WHERE id = ?").bind(int(id.0)).execute(tx).await?;
            Ok(())
        }
        Write::PutClass(id, key) => put_class(tx, *id, key).await,
        Write::PutRecord(name, kind, set) => {
            sqlx::query("REPLACE INTO records (name, kind, ttl, contents) VALUES (?, ?, ?, ?)")
                .bind(name.as_str())
                .bind(kind.as_str())
                .bind(i64::from(set.ttl))
                .bind(pack::record_values(set))
                .execute(tx)
                .await?;
            Ok(())
        }
        Write::DeleteRecord(name, kind) => {
            sqlx::query("DELETE FROM records WHERE name = ? AND kind = ?")
                .bind(name.as_str())
                .bind(kind.as_str())
                .execute(tx)
                .await?;
            Ok(())
        }
        Write::PutBound(who, bound) => bound::put(tx, who, bound).await,
        Write::PutPolicy { text, .. } => {
            let by = batch.audit.first().map_or("coordinator", |a| a.actor.as_str());
            put_policy(tx, version, text, by, batch.at).await
        }
        Write::PutMesh(mesh) => put_mesh(tx, mesh).await,
        Write::PutRelay(relay) => put_relay(tx, relay).await,
        Write::DeleteRelay(id) => {
            sqlx::query("DELETE FROM relays WHERE id = ?").bind(i64::from(id.0)).execute(tx).await?;
            Ok(())
        }
        Write::PutCluster(cluster) => clusters::put(tx, cluster, version).await,
        Write::DeleteCluster(name) => clusters::delete(tx, name).await,
    }
}

async fn put_mesh(tx: &mut SqliteConnection, mesh: &MeshSettings) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE mesh SET name = ?, domain = ?, map_lease = ?, addresses = ?, search = ?, split = ?,
           nameservers = ?, dns_ttl = ? WHERE id = 1",
    )
    .bind(mesh.name.as_str())
    .bind(mesh.domain.as_str())
    .bind(int(mesh.map_lease))
    .bind(pack::list(&mesh.addresses))
    .bind(pack::list(&mesh.search))
    .bind(pack::split(&mesh.split))
    .bind(pack::list(mesh.nameservers.iter().map(|n| n.0)))
    .bind(i64::from(mesh.dns_ttl))
    .execute(tx)
    .await?;
    Ok(())
}

async fn put_policy(
    tx: &mut SqliteConnection,
    version: Version,
    text: &str,
    by: &str,
    at: UnixSeconds,
) -> Result<(), StoreError> {
    sqlx::query("REPLACE INTO policies (version, text, set_by, at) VALUES (?, ?, ?, ?)")
        .bind(int(version.0))
        .bind(text)
        .bind(by)
        .bind(int(at.0))
        .execute(tx)
        .await?;
    Ok(())
}

async fn put_relay(tx: &mut SqliteConnection, relay: &Relay) -> Result<(), StoreError> {
    sqlx::query(
        "REPLACE INTO relays (id, name, key, hosts, udp_port, alt_udp_port, tls_port) VALUES (?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(i64::from(relay.id.0))
    .bind(&relay.name)
    .bind(relay.key.as_bytes().to_vec())
    .bind(pack::list(&relay.hosts))
    .bind(i64::from(relay.udp_port))
    .bind(i64::from(relay.alt_udp_port))
    .bind(i64::from(relay.tls_port))
    .execute(tx)
    .await?;
    Ok(())
}

async fn put_class(tx: &mut SqliteConnection, id: ClassId, key: &ClassKey) -> Result<(), StoreError> {
    let (issuer, subject, display) = pack::owner(&key.owner);
    sqlx::query("INSERT INTO classes (id, issuer, subject, display, tags) VALUES (?, ?, ?, ?, ?)")
        .bind(i64::from(id.0))
        .bind(issuer)
        .bind(subject)
        .bind(display)
        .bind(tag_list(&key.tags))
        .execute(tx)
        .await?;
    Ok(())
}

async fn put_node(tx: &mut SqliteConnection, node: &NodeRecord, version: Version) -> Result<(), StoreError> {
    let (issuer, subject, display) = pack::owner(&node.owner);
    // Not REPLACE: that deletes the old row, and a unique column in conflict would delete another node's.
    sqlx::query(
        "INSERT INTO nodes (id, machine_key, node_key, name, renamed, v4, v6, issuer, subject, display, tags, class,
           exit_advertised, exit_approved, key_expires, ephemeral, admitted, revoked, machine_id, os,
           client_version, created, kind, via, changed, publishing)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (id) DO UPDATE SET
           machine_key = excluded.machine_key, node_key = excluded.node_key, name = excluded.name,
           renamed = excluded.renamed, v4 = excluded.v4, v6 = excluded.v6, issuer = excluded.issuer,
           subject = excluded.subject, display = excluded.display, tags = excluded.tags, class = excluded.class,
           exit_advertised = excluded.exit_advertised, exit_approved = excluded.exit_approved,
           key_expires = excluded.key_expires, ephemeral = excluded.ephemeral, admitted = excluded.admitted,
           revoked = excluded.revoked, machine_id = excluded.machine_id, os = excluded.os,
           client_version = excluded.client_version, kind = excluded.kind, via = excluded.via,
           changed = excluded.changed, publishing = excluded.publishing",
    )
    .bind(int(node.id.0))
    .bind(node.machine_key.map(|k| k.as_bytes().to_vec()))
    .bind(node.node_key.as_bytes().to_vec())
    .bind(node.name.as_str())
    .bind(node.renamed)
    .bind(node.addrs.v4.to_string())
    .bind(node.addrs.v6.to_string())
    .bind(issuer)
    .bind(subject)
    .bind(display)
    .bind(tag_list(&node.tags))
    .bind(i64::from(node.class.0))
    .bind(node.exit_advertised)
    .bind(node.exit_approved)
    .bind(node.key_expires.map(|t| int(t.0)))
    .bind(node.ephemeral)
    .bind(node.admitted)
    .bind(node.revoked)
    .bind(node.machine_id_hash.map(|h| h.to_vec()))
    .bind(&node.os)
    .bind(&node.client_version)
    .bind(int(node.created.0))
    .bind(kind_name(node.kind))
    .bind(node.via.map(|id| int(id.0)))
    .bind(int(version.0))
    .bind(pack::publishing(&node.publishing))
    .execute(&mut *tx)
    .await?;
    sqlx::query("UPDATE mesh SET next_node = max(next_node, ?) WHERE id = 1")
        .bind(int(node.id.0 + 1))
        .execute(&mut *tx)
        .await?;
    sqlx::query("DELETE FROM routes WHERE node = ?").bind(int(node.id.0)).execute(&mut *tx).await?;
    for prefix in node.advertised.union(&node.approved) {
        sqlx::query("INSERT INTO routes (node, prefix, advertised, approved) VALUES (?, ?, ?, ?)")
            .bind(int(node.id.0))
            .bind(prefix.to_string())
            .bind(node.advertised.contains(prefix))
            .bind(node.approved.contains(prefix))
            .execute(&mut *tx)
            .await?;
    }
    Ok(())
}

pub(super) async fn log_change(
    tx: &mut SqliteConnection,
    version: Version,
    seq: u64,
    change: &Change,
    at: UnixSeconds,
) -> Result<(), StoreError> {
    let (kind, subject) = match change {
        Change::Node(id) => ("node", id.to_string()),
        Change::NodeGone(id) => ("node-gone", id.to_string()),
        Change::Policy => ("policy", String::new()),
        Change::Record(name, kind) => ("record", format!("{name} {}", kind.as_str())),
        Change::Bound(who) => ("bound", who.to_string()),
        Change::Mesh => ("mesh", String::new()),
        Change::Relay(id) => ("relay", id.to_string()),
        Change::Cluster(name) => ("cluster", name.to_string()),
    };
    sqlx::query("INSERT INTO changes (version, seq, kind, subject, at) VALUES (?, ?, ?, ?, ?)")
        .bind(int(version.0))
        .bind(int(seq))
        .bind(kind)
        .bind(subject)
        .bind(int(at.0))
        .execute(tx)
        .await?;
    Ok(())
}

fn tag_list(tags: &BTreeSet<Tag>) -> String {
    pack::list(tags)
}

fn kind_name(kind: PeerKind) -> &'static str {
    match kind {
        PeerKind::Meshd => "meshd",
        PeerKind::PlainWireguard => "wireguard",
    }
}
