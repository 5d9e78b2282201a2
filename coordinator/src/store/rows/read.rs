//! From rows to the model.

use super::super::pack::{
    bytes, bytes_or_none, number, parsed, read_endpoints, read_list, read_owner, read_publishing,
    read_record_values, read_split, read_tags, small, time_or_none,
};
use super::super::{Keys, Loaded, StoreError};
use crate::model::{ClassKey, MeshSettings, Model, NodeRecord, Records};
use meshd_policy::Policy;
use meshd_proto::netmap::{PeerKind, RecordSet, RecordType, Relay};
use meshd_proto::{
    ClassId, CoordinatorSecret, DnsName, Epoch, MachineKey, MeshAddrs, MeshPrefixes, NetworkId, NodeId,
    NodeKey, NodeSecret, Prefix, RelayId, SigningKey, UnixSeconds, Version,
};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(in crate::store) async fn load(conn: &mut SqliteConnection) -> Result<Option<Loaded>, StoreError> {
    let Some(row) = sqlx::query("SELECT * FROM mesh WHERE id = 1").fetch_optional(&mut *conn).await? else {
        return Ok(None);
    };
    let keys = keys(conn).await?;
    let mesh = MeshSettings {
        name: parsed(&row, "name")?,
        domain: parsed(&row, "domain")?,
        prefixes: MeshPrefixes { v4: parsed(&row, "prefix_v4")?, v6: parsed(&row, "prefix_v6")? },
        map_lease: number(&row, "map_lease")?,
        addresses: read_list(&row, "addresses")?,
        key: keys.control.public(),
        signing_key: keys.signing.verifying_key(),
        next_key: None,
        next_signing_key: None,
        search: read_list(&row, "search")?,
        split: read_split(&row)?,
        nameservers: read_endpoints(&row, "nameservers")?,
        dns_ttl: small(&row, "dns_ttl")?,
    };
    let (policy, policy_version) = policy(conn).await?;
    let model = Model {
        network: NetworkId::from_bytes(bytes(&row, "network")?),
        epoch: Epoch(number(&row, "epoch")?),
        version: Version(number(&row, "version")?),
        mesh,
        nodes: nodes(conn).await?,
        classes: classes(conn).await?,
        policy,
        policy_version,
        records: records(conn).await?,
        bound: super::bound::load(conn).await?,
        relays: relays(conn).await?,
        clusters: super::clusters::load(conn).await?,
    };
    Ok(Some(Loaded { model, keys, next_node: NodeId(number(&row, "next_node")?) }))
}

async fn keys(conn: &mut SqliteConnection) -> Result<Keys, StoreError> {
    let row = sqlx::query("SELECT * FROM coordinator_keys WHERE slot = 'current'").fetch_one(conn).await?;
    Ok(Keys {
        control: CoordinatorSecret::from_bytes(bytes(&row, "control")?),
        signing: SigningKey::from_bytes(&bytes(&row, "signing")?),
        relay: NodeSecret::from_bytes(bytes(&row, "relay")?),
    })
}

async fn policy(conn: &mut SqliteConnection) -> Result<(Arc<Policy>, Version), StoreError> {
    let row = sqlx::query("SELECT version, text FROM policies ORDER BY version DESC LIMIT 1")
        .fetch_one(conn)
        .await?;
    let text: String = row.try_get("text")?;
    let policy = Policy::parse(&text).map_err(|found| {
        StoreError::corrupt("policy", found.first().map(ToString::to_string).unwrap_or_default())
    })?;
    Ok((Arc::new(policy), Version(number(&row, "version")?)))
}

async fn classes(conn: &mut SqliteConnection) -> Result<BTreeMap<ClassId, ClassKey>, StoreError> {
    let rows = sqlx::query("SELECT * FROM classes").fetch_all(conn).await?;
    rows.iter()
        .map(|row| {
            Ok((ClassId(small(row, "id")?), ClassKey { owner: read_owner(row)?, tags: read_tags(row)? }))
        })
        .collect()
}

type Routes = BTreeMap<NodeId, (BTreeSet<Prefix>, BTreeSet<Prefix>)>;

async fn nodes(conn: &mut SqliteConnection) -> Result<BTreeMap<NodeId, Arc<NodeRecord>>, StoreError> {
    let mut routes = Routes::new();
    for row in sqlx::query("SELECT * FROM routes").fetch_all(&mut *conn).await? {
        let prefix: Prefix = parsed(&row, "prefix")?;
        let (advertised, approved) = routes.entry(NodeId(number(&row, "node")?)).or_default();
        if row.try_get("advertised")? {
            advertised.insert(prefix);
        }
        if row.try_get("approved")? {
            approved.insert(prefix);
        }
    }
    let rows = sqlx::query("SELECT * FROM nodes").fetch_all(conn).await?;
    rows.iter()
        .map(|row| {
            let node = node(row, &mut routes)?;
            Ok((node.id, Arc::new(node)))
        })
        .collect()
}

fn node(row: &SqliteRow, routes: &mut Routes) -> Result<NodeRecord, StoreError> {
    let id = NodeId(number(row, "id")?);
    let (advertised, approved) = routes.remove(&id).unwrap_or_default();
    let kind: String = row.try_get("kind")?;
    let via: Option<i64> = row.try_get("via")?;
    Ok(NodeRecord {
        id,
        machine_key: bytes_or_none(row, "machine_key")?.map(MachineKey::from_bytes),
        node_key: NodeKey::from_bytes(bytes(row, "node_key")?),
        name: parsed(row, "name")?,
        renamed: row.try_get("renamed")?,
        addrs: MeshAddrs { v4: parsed(row, "v4")?, v6: parsed(row, "v6")? },
        owner: read_owner(row)?,
        tags: read_tags(row)?,
        class: ClassId(small(row, "class")?),
        advertised,
        approved,
        exit_advertised: row.try_get("exit_advertised")?,
        exit_approved: row.try_get("exit_approved")?,
        key_expires: time_or_none(row, "key_expires")?,
        ephemeral: row.try_get("ephemeral")?,
        admitted: row.try_get("admitted")?,
        revoked: row.try_get("revoked")?,
        machine_id_hash: bytes_or_none(row, "machine_id")?,
        os: row.try_get("os")?,
        client_version: row.try_get("client_version")?,
        created: UnixSeconds(number(row, "created")?),
        kind: match kind.as_str() {
            "meshd" => PeerKind::Meshd,
            "wireguard" => PeerKind::PlainWireguard,
            other => return Err(StoreError::corrupt("kind", other)),
        },
        via: via.map(|v| NodeId(super::super::uint(v))),
        publishing: read_publishing(row)?,
        changed: Version(number(row, "changed")?),
    })
}

async fn records(conn: &mut SqliteConnection) -> Result<Records, StoreError> {
    let rows = sqlx::query("SELECT * FROM records").fetch_all(conn).await?;
    rows.iter().map(record).collect()
}

/// A record set with its name.
pub(super) fn record(row: &SqliteRow) -> Result<((DnsName, RecordType), RecordSet), StoreError> {
    let text: String = row.try_get("kind")?;
    let kind = RecordType::named(&text).ok_or_else(|| StoreError::corrupt("record type", &text))?;
    let set = RecordSet { ttl: small(row, "ttl")?, values: read_record_values(row, kind)? };
    Ok(((parsed(row, "name")?, kind), set))
}

async fn relays(conn: &mut SqliteConnection) -> Result<BTreeMap<RelayId, Relay>, StoreError> {
    let rows = sqlx::query("SELECT * FROM relays").fetch_all(conn).await?;
    rows.iter()
        .map(|row| {
            let id = RelayId(small(row, "id")?);
            let relay = Relay {
                id,
                name: row.try_get("name")?,
                key: NodeKey::from_bytes(bytes(row, "key")?),
                hosts: read_list(row, "hosts")?,
                udp_port: small(row, "udp_port")?,
                alt_udp_port: small(row, "alt_udp_port")?,
                tls_port: small(row, "tls_port")?,
            };
            Ok((id, relay))
        })
        .collect()
}
