//! The first start: a mesh gets its name, ranges and keys.

use super::{Actor, draft};
use crate::model::{MeshSettings, Model};
use crate::store::{Keys, Loaded, Store, StoreError};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use meshd_policy::{DEFAULT_POLICY, Policy};
use meshd_proto::{
    CoordinatorSecret, DnsName, Epoch, Hostname, MeshPrefixes, NetworkId, NodeSecret, SigningKey,
    UnixSeconds, Version,
};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Where mesh prefixes come from by default: shared address space, RFC 6598.
const POOL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10);
/// Ranges a mesh prefix may lie in when an admin chooses it.
const ALLOWED: [Ipv4Net; 4] = [
    POOL,
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
];
/// 30 days: how long a node trusts a stored map without the coordinator.
const MAP_LEASE: u64 = 30 * 24 * 3600;

/// What the first start decides.
#[derive(Clone, Debug)]
pub struct Founding {
    /// The mesh's name.
    pub name: Hostname,
    /// The range an admin chose; otherwise a random free one.
    pub prefix: Option<Ipv4Net>,
    /// What this host uses already: its addresses' networks and routes.
    pub in_use: Vec<IpNet>,
    /// Randomness for ids, ranges and keys.
    pub entropy: [[u8; 32]; 5],
}

/// Why no mesh was founded.
#[derive(Debug, thiserror::Error)]
pub enum FoundError {
    /// The chosen prefix cannot be used.
    #[error("--prefix {prefix}: {reason}")]
    Prefix {
        /// As chosen.
        prefix: Ipv4Net,
        /// Why not, and what to do.
        reason: String,
    },
    /// This host uses all of the pool.
    #[error(
        "this host uses all of {POOL}: choose a free range with --prefix, for example --prefix 10.77.0.0/16"
    )]
    NoneFree,
    /// The name makes no domain.
    #[error("the mesh name `{0}` makes no valid domain: choose a shorter one with --name")]
    Name(Hostname),
    /// The built-in policy does not parse: a fault of this release.
    #[error("the built-in policy is invalid: {0}; please report this")]
    Policy(String),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Founding {
    /// Chooses everything and writes it into an empty store.
    ///
    /// # Errors
    /// When the prefix cannot be used, none is free, or the database fails.
    pub async fn run(self, store: &mut Store, at: UnixSeconds) -> Result<Loaded, FoundError> {
        let (model, keys) = self.plan(at)?;
        let entry = draft(&Actor::System, "mesh.found", &model.mesh.name, model.mesh.prefixes.v4);
        store.found(&model, &keys, DEFAULT_POLICY, entry, at).await?;
        let loaded = store.load().await?;
        loaded
            .ok_or_else(|| StoreError::Corrupt { what: "mesh", why: "it was not written".to_owned() }.into())
    }

    fn plan(&self, at: UnixSeconds) -> Result<(Model, Keys), FoundError> {
        let [ids, ranges, control, signing, relay] = self.entropy;
        let keys = Keys {
            control: CoordinatorSecret::from_bytes(control),
            signing: SigningKey::from_bytes(&signing),
            relay: NodeSecret::from_bytes(relay),
        };
        let domain: DnsName =
            format!("{}.internal", self.name).parse().map_err(|_| FoundError::Name(self.name.clone()))?;
        let mut network = [0; 16];
        network.copy_from_slice(&ids[..16]);
        let policy = Policy::parse(DEFAULT_POLICY).map_err(|found| {
            FoundError::Policy(found.first().map(ToString::to_string).unwrap_or_default())
        })?;
        let mesh = MeshSettings {
            name: self.name.clone(),
            domain,
            prefixes: MeshPrefixes { v4: self.choose_v4(&ranges)?, v6: random_ula(&ranges) },
            map_lease: MAP_LEASE,
            addresses: Vec::new(),
            key: keys.control.public(),
            signing_key: keys.signing.verifying_key(),
            next_key: None,
            next_signing_key: None,
            search: Vec::new(),
            split: Vec::new(),
            nameservers: Vec::new(),
            dns_ttl: 30,
        };
        let model = Model {
            network: NetworkId::from_bytes(network),
            epoch: Epoch(at.0.max(1)),
            version: Version(1),
            mesh,
            nodes: BTreeMap::new(),
            classes: BTreeMap::new(),
            policy: Arc::new(policy),
            policy_version: Version(1),
            records: BTreeMap::new(),
            bound: BTreeMap::new(),
            relays: BTreeMap::new(),
            clusters: BTreeMap::new(),
        };
        Ok((model, keys))
    }

    fn choose_v4(&self, random: &[u8; 32]) -> Result<Ipv4Net, FoundError> {
        if let Some(prefix) = self.prefix {
            return self.check_choice(prefix);
        }
        // The 64 /16 networks of the pool, from a random one on.
        let start = u32::from(random[0]) % 64;
        (0..64)
            .map(|i| Ipv4Addr::from(u32::from(POOL.network()) | (((start + i) % 64) << 16)))
            .map(|base| Ipv4Net::new_assert(base, 16))
            .find(|net| self.conflict(*net).is_none())
            .ok_or(FoundError::NoneFree)
    }

    fn check_choice(&self, prefix: Ipv4Net) -> Result<Ipv4Net, FoundError> {
        let refuse = |reason: String| Err(FoundError::Prefix { prefix, reason });
        if prefix.trunc() != prefix {
            return refuse(format!("it has bits set behind its length: did you mean {}?", prefix.trunc()));
        }
        if !(8..=24).contains(&prefix.prefix_len()) {
            return refuse("choose a length from /8 to /24".to_owned());
        }
        if !ALLOWED.iter().any(|range| range.contains(&prefix)) {
            let ranges = ALLOWED.map(|r| r.to_string()).join(", ");
            return refuse(format!("it is not private; choose inside {ranges}"));
        }
        match self.conflict(prefix) {
            Some(used) => refuse(format!("this host already uses {used}; choose another range")),
            None => Ok(prefix),
        }
    }

    fn conflict(&self, net: Ipv4Net) -> Option<IpNet> {
        let net = IpNet::V4(net);
        // A default route conflicts with nothing.
        let real = self.in_use.iter().filter(|used| used.prefix_len() > 0);
        real.copied().find(|used| used.contains(&net) || net.contains(used))
    }
}

/// `fd` and 40 random bits (RFC 4193 §3.2).
fn random_ula(random: &[u8; 32]) -> Ipv6Net {
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&random[1..6]);
    Ipv6Net::new_assert(Ipv6Addr::from(octets), 48)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn founding(prefix: Option<&str>, in_use: &[&str], random: u8) -> Founding {
        Founding {
            name: "home".parse().unwrap(),
            prefix: prefix.map(|p| p.parse().unwrap()),
            in_use: in_use.iter().map(|n| n.parse().unwrap()).collect(),
            entropy: [[random; 32]; 5],
        }
    }

    #[test]
    fn the_random_prefix_avoids_what_this_host_uses() {
        let all_but_one: Vec<String> =
            (64..128).filter(|n| *n != 99).map(|n| format!("100.{n}.3.0/24")).collect();
        let mut used: Vec<&str> = all_but_one.iter().map(String::as_str).collect();
        used.push("0.0.0.0/0");
        for random in [0, 7, 255] {
            let chosen = founding(None, &used, random).choose_v4(&[random; 32]).unwrap();
            assert_eq!(chosen.to_string(), "100.99.0.0/16");
        }
        used.push("100.64.0.0/10");
        assert!(matches!(founding(None, &used, 0).choose_v4(&[0; 32]), Err(FoundError::NoneFree)));
    }

    #[test]
    fn a_chosen_prefix_is_checked_and_the_message_helps() {
        let says = |prefix, used: &[&str]| match founding(Some(prefix), used, 0).choose_v4(&[0; 32]) {
            Ok(net) => net.to_string(),
            Err(e) => e.to_string(),
        };
        assert_eq!(says("10.77.0.0/16", &["192.168.1.0/24"]), "10.77.0.0/16");
        assert_eq!(
            says("10.77.1.0/16", &[]),
            "--prefix 10.77.1.0/16: it has bits set behind its length: did you mean 10.77.0.0/16?"
        );
        assert_eq!(
            says("10.77.0.0/16", &["10.77.3.0/24"]),
            "--prefix 10.77.0.0/16: this host already uses 10.77.3.0/24; choose another range"
        );
        assert!(says("8.0.0.0/16", &[]).contains("not private"));
        assert!(says("10.0.0.0/30", &[]).contains("/8 to /24"));
    }
}
