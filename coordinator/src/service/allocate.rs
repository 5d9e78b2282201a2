//! Which mesh addresses and names a new node gets. Pure.

use crate::model::Model;
use meshd_proto::{Hostname, MeshAddrs, MeshPrefixes, NodeId};
use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The first hosts of both ranges are for the mesh itself: the resolver and what may come.
const RESERVED: u32 = 256;

/// Free addresses for node `id`; `None` when the IPv4 range is full.
///
/// The host number follows the id, which is never reused: an address comes back to another node only
/// after all others had their turn, so that a stale address does not lead to a stranger.
pub(super) fn addresses(model: &Model, id: NodeId) -> Option<MeshAddrs> {
    let prefixes = &model.mesh.prefixes;
    let taken: HashSet<Ipv4Addr> = model.nodes.values().map(|n| n.addrs.v4).collect();
    let v4 = free_v4(prefixes, id, |addr| taken.contains(addr) || delegated(model, *addr))?;
    // 2^64 hosts: the id fits without search.
    let v6 = Ipv6Addr::from(u128::from(prefixes.v6.network()) | (u128::from(RESERVED) + u128::from(id.0)));
    Some(MeshAddrs { v4, v6 })
}

/// Whether a cluster was given that address for its services.
fn delegated(model: &Model, addr: Ipv4Addr) -> bool {
    model.clusters.values().any(|cluster| cluster.may_announce(addr.into()))
}

fn free_v4(prefixes: &MeshPrefixes, id: NodeId, taken: impl Fn(&Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
    let size = 1u64 << (32 - u32::from(prefixes.v4.prefix_len()));
    // In a range too small for the reserve only the resolver's host and the two ends are kept free.
    let first = if size >= 4 * u64::from(RESERVED) { u64::from(RESERVED) } else { 1 };
    let last = size.checked_sub(2)?;
    let hosts = last.checked_sub(first)? + 1;
    let resolver = prefixes.resolver().v4;
    (0..hosts)
        .map(|step| first + (id.0.wrapping_sub(1).wrapping_add(step)) % hosts)
        .map(|host| {
            Ipv4Addr::from(u32::from(prefixes.v4.network()) + u32::try_from(host).unwrap_or(u32::MAX))
        })
        .find(|addr| *addr != resolver && !taken(addr))
}

/// Names that programs give a meaning of their own: ours (`coordinator`), the host itself (RFC 6761 §6.3), and
/// what finds a proxy or a tunnel by name.
const RESERVED_NAMES: [&str; 4] = ["coordinator", "isatap", "localhost", "wpad"];

/// Whether no node may be called so: reserved, or a number, which would be taken for a node's id.
pub(super) fn is_reserved(name: &Hostname) -> bool {
    RESERVED_NAMES.contains(&name.as_str()) || name.as_str().bytes().all(|b| b.is_ascii_digit())
}

/// The wished name, numbered when it is reserved, or another node or a record of the mesh has it.
pub(super) fn name(model: &Model, wish: &Hostname, me: Option<NodeId>) -> Hostname {
    let taken: HashSet<&str> =
        model.nodes.values().filter(|n| Some(n.id) != me).map(|n| n.name.as_str()).collect();
    let free = |name: &Hostname| {
        let record = model.mesh.domain.child(name).is_ok_and(|full| model.has_records_of(&full));
        !record && !taken.contains(name.as_str()) && !is_reserved(name)
    };
    if free(wish) {
        return wish.clone();
    }
    // One more number than there are names always has a free one.
    let numbers = 2..=u32::try_from(taken.len() + model.record_count() + 2).unwrap_or(u32::MAX);
    numbers.map(|n| wish.numbered(n)).find(free).unwrap_or_else(|| wish.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_with_a_meaning_of_their_own_are_no_nodes() {
        for name in ["localhost", "wpad", "isatap", "coordinator", "7", "007"] {
            let name: Hostname = name.parse().unwrap();
            assert!(is_reserved(&name) && !is_reserved(&name.numbered(2)), "{name}");
        }
        assert!(!is_reserved(&"local-host".parse().unwrap()) && !is_reserved(&"pi4".parse().unwrap()));
    }

    fn prefixes(v4: &str) -> MeshPrefixes {
        MeshPrefixes { v4: v4.parse().unwrap(), v6: "fd00::/48".parse().unwrap() }
    }

    #[test]
    fn a_small_range_is_used_up_to_the_last_host_but_three() {
        let prefixes = prefixes("10.9.8.0/24");
        let mut taken = HashSet::new();
        while let Some(addr) = free_v4(&prefixes, NodeId(taken.len() as u64 + 1), |a| taken.contains(a)) {
            assert!(taken.insert(addr), "{addr} twice");
        }
        assert_eq!(taken.len(), 256 - 3, "network, broadcast and resolver stay free");
        for host in [0, 53, 255] {
            assert!(!taken.contains(&Ipv4Addr::new(10, 9, 8, host)));
        }
    }

    proptest! {
        #[test]
        fn an_address_is_free_inside_the_range_and_not_reserved(
            id in 1..u64::MAX,
            len in 8u8..=24,
            taken in proptest::collection::hash_set(any::<u32>(), 0..40),
        ) {
            let prefixes = prefixes(&format!("10.0.0.0/{len}"));
            let size = 1u32 << (32 - len);
            let base = u32::from(prefixes.v4.network());
            let taken: HashSet<_> = taken.iter().map(|t| Ipv4Addr::from(base | (t % size))).collect();
            let addr = free_v4(&prefixes, NodeId(id), |a| taken.contains(a)).unwrap();
            prop_assert!(prefixes.v4.contains(&addr) && !taken.contains(&addr));
            prop_assert!(addr != prefixes.v4.network() && addr != prefixes.v4.broadcast());
            prop_assert!(addr != prefixes.resolver().v4);
        }
    }
}
