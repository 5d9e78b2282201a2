//! The indexes of filters and policies: prefixes by length, ports by a segment tree, sorted lists of places.
//!
//! They hold places (positions in the order of rules), pushed in ascending order, so every list is
//! sorted without sorting.

use ipnet::IpNet;
use meshd_proto::Prefix;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Adds `place` to a list that grows in ascending order, once.
pub(crate) fn push(list: &mut Vec<u32>, place: u32) {
    if list.last() != Some(&place) {
        list.push(place);
    }
}

/// The lowest value below `best` that both sorted lists hold, else `best`. Gallops: the cost is
/// about the shorter list times the logarithm of the gaps in the longer one.
pub(crate) fn first_common(mut a: &[u32], mut b: &[u32], best: u32) -> u32 {
    while let (Some(&x), Some(&y)) = (a.first(), b.first()) {
        if x.max(y) >= best {
            return best;
        }
        if x == y {
            return x;
        }
        if x < y {
            a = skip_below(a, y);
        } else {
            b = skip_below(b, x);
        }
    }
    best
}

/// The rest of a sorted list from the first value that is not below `floor`.
fn skip_below(list: &[u32], floor: u32) -> &[u32] {
    let mut step = 1;
    while list.get(step).is_some_and(|v| *v < floor) {
        step *= 2;
    }
    let window = &list[step / 2..list.len().min(step + 1)];
    &list[step / 2 + window.partition_point(|v| *v < floor)..]
}

/// Values by prefix, and all values whose prefix covers an address. A lookup costs one probe for each
/// prefix length in use.
#[derive(Clone, Debug)]
pub(crate) struct PrefixIndex<T> {
    lengths_v4: BTreeSet<u8>,
    lengths_v6: BTreeSet<u8>,
    values: BTreeMap<Prefix, T>,
}

impl<T> Default for PrefixIndex<T> {
    fn default() -> Self {
        Self { lengths_v4: BTreeSet::new(), lengths_v6: BTreeSet::new(), values: BTreeMap::new() }
    }
}

impl<T: Default> PrefixIndex<T> {
    /// The value of exactly `prefix`, made when it is not there.
    pub(crate) fn entry(&mut self, prefix: Prefix) -> &mut T {
        let lengths = if prefix.net().addr().is_ipv4() { &mut self.lengths_v4 } else { &mut self.lengths_v6 };
        lengths.insert(prefix.net().prefix_len());
        self.values.entry(prefix).or_default()
    }

    /// Length and value of every prefix that covers `ip`, longest first.
    pub(crate) fn covering(&self, ip: IpAddr) -> impl Iterator<Item = (u8, &T)> {
        let lengths = if ip.is_ipv4() { &self.lengths_v4 } else { &self.lengths_v6 };
        lengths.iter().rev().filter_map(move |&length| {
            let prefix = Prefix::new(IpNet::new(ip, length).ok()?.trunc()).ok()?;
            Some((length, self.values.get(&prefix)?))
        })
    }

    /// The values of all prefixes that share an address with `prefix`.
    pub(crate) fn overlapping(&self, prefix: Prefix) -> impl Iterator<Item = &T> {
        let net = prefix.net();
        let shorter = self.covering(net.network()).filter(move |(length, _)| *length < net.prefix_len());
        // Prefixes are ordered by address, then length.
        let inside = self.values.range(prefix..=Prefix::host(net.broadcast()));
        let inside = inside.filter(move |(p, _)| net.contains(&p.net())).map(|(_, value)| value);
        shorter.map(|(_, value)| value).chain(inside)
    }
}

/// Rules by protocol and destination port.
#[derive(Clone, Debug, Default)]
pub(crate) struct PortIndex {
    any_protocol: PortTree,
    by_protocol: BTreeMap<u8, PortTree>,
}

impl PortIndex {
    /// Files a rule. A range that ends before it begins holds nothing.
    pub(crate) fn insert(&mut self, protocol: Option<u8>, first: u16, last: u16, place: u32) {
        let tree = match protocol {
            None => &mut self.any_protocol,
            Some(protocol) => self.by_protocol.entry(protocol).or_default(),
        };
        tree.insert(first, last, place);
    }

    /// Visits the lists of rules that cover the protocol and port. Protocols without ports are
    /// covered by rules for all ports only.
    pub(crate) fn for_each_list<'a>(&'a self, protocol: u8, port: u16, visit: &mut impl FnMut(&'a [u32])) {
        for tree in [Some(&self.any_protocol), self.by_protocol.get(&protocol)].into_iter().flatten() {
            if has_ports(protocol) {
                tree.for_each_list(port, visit);
            } else if let Some(list) = tree.nodes.get(&PortTree::ROOT) {
                visit(list);
            }
        }
    }
}

/// TCP, UDP, DCCP, SCTP and UDP-Lite have ports where a filter can read them.
pub(crate) const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, 6 | 17 | 33 | 132 | 136)
}

/// A segment tree over the 65,536 ports, nodes numbered as in a heap: a range is filed under at most
/// 32 nodes, and the rules that cover a port lie on the path from its leaf to the root.
#[derive(Clone, Debug, Default)]
struct PortTree {
    /// Bit n: some node of height n (0: one port, 16: all) holds a list.
    heights: u32,
    nodes: BTreeMap<u32, Vec<u32>>,
}

impl PortTree {
    const ROOT: u32 = 1;
    const LEAVES: u32 = 1 << 16;

    fn insert(&mut self, first: u16, last: u16, place: u32) {
        let (mut low, mut high) = (u32::from(first) + Self::LEAVES, u32::from(last) + Self::LEAVES + 1);
        let mut height = 0;
        while low < high {
            if low & 1 == 1 {
                self.file(low, height, place);
                low += 1;
            }
            if high & 1 == 1 {
                high -= 1;
                self.file(high, height, place);
            }
            (low, high, height) = (low >> 1, high >> 1, height + 1);
        }
    }

    fn file(&mut self, node: u32, height: u32, place: u32) {
        self.heights |= 1 << height;
        push(self.nodes.entry(node).or_default(), place);
    }

    fn for_each_list<'a>(&'a self, port: u16, visit: &mut impl FnMut(&'a [u32])) {
        let leaf = u32::from(port) + Self::LEAVES;
        for height in (0..=16).filter(|height| self.heights & (1 << height) != 0) {
            if let Some(list) = self.nodes.get(&(leaf >> height)) {
                visit(list);
            }
        }
    }
}
