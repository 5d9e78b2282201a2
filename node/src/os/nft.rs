//! Our nftables table as a value: `inet meshd`, the only one we ever write.
//!
//! A table is replaced as a whole in one transaction. Each rule carries a comment with a hash of its
//! text; what the kernel has is compared by chains and comments, so that it does not matter how a
//! version of `nft` prints a rule.

mod forwards;

use super::checksum::fnv1a;
use super::desired::{FWMARK, IfName};
use meshd_proto::netmap::Forward;
use meshd_proto::{MeshPrefixes, Prefix};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write;

/// The name of our table, in family `inet`.
pub const TABLE_NAME: &str = "meshd";
/// Deletes our table whether it exists or not.
pub(crate) const DELETE_SCRIPT: &str = "add table inet meshd\ndelete table inet meshd\n";

/// A table: base chains only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NftTable {
    chains: Vec<Chain>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Chain {
    name: &'static str,
    kind: &'static str,
    hook: &'static str,
    priority: i32,
    /// `(purpose, rule text)`.
    rules: Vec<(&'static str, String)>,
}

/// How a table looks, as far as we compare it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct NftShape {
    chains: BTreeSet<ChainShape>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ChainShape {
    name: String,
    kind: String,
    hook: String,
    priority: i64,
    policy: String,
    comments: Vec<String>,
}

/// What is translated for the mesh on its way out.
pub(crate) struct Nat<'a> {
    /// Offered IPv4 prefixes, with `0.0.0.0/0` for an exit.
    pub(crate) v4: &'a BTreeSet<Prefix>,
    /// Offered IPv6 prefixes, with `::/0` for an exit.
    pub(crate) v6: &'a BTreeSet<Prefix>,
    /// Whether traffic to offered subnets is masqueraded; to the internet it always is.
    pub(crate) snat: bool,
    /// What is served on addresses of services.
    pub(crate) forwards: Vec<&'a Forward>,
}

/// The table for one node. `exit_port`: an exit is used, and our sockets have this port (0: unknown).
pub(crate) fn mesh_table(
    name: &IfName,
    mesh: &MeshPrefixes,
    nat: &Nat<'_>,
    exit_port: Option<u16>,
) -> NftTable {
    let chain = |name, kind, hook, priority, rules| Chain { name, kind, hook, priority, rules };
    let strangers = |family: &str, net: String| {
        let text = format!("iifname != {{ \"lo\", \"{name}\" }} {family} saddr {net} drop");
        ("mesh source from elsewhere", text)
    };
    let spoofed = vec![strangers("ip", mesh.v4.to_string()), strangers("ip6", mesh.v6.to_string())];
    let mut chains = vec![chain("input", "filter", "input", -1, spoofed.clone())];
    let mut forward = spoofed;
    if !nat.forwards.is_empty() {
        let rules = forwards::rules(name, nat.forwards.iter().copied());
        chains.push(chain("services", "nat", "prerouting", forwards::PRIORITY, rules));
    }
    if !(nat.v4.is_empty() && nat.v6.is_empty() && nat.forwards.is_empty()) {
        let clamp =
            format!("oifname \"{name}\" tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu");
        forward.push(("fit segments into the mesh MTU", clamp));
        let rules = masquerade(name, nat);
        if !rules.is_empty() {
            chains.push(chain("postrouting", "nat", "postrouting", 100, rules));
        }
    }
    chains.push(chain("forward", "filter", "forward", -150, forward));
    if let Some(port) = exit_port {
        // A strict reverse-path filter asks how it would answer: it must ask with the mark our own
        // sockets answer with, or it drops what arrives for us on the uplink.
        if port != 0 {
            let rule = format!(
                "iifname != \"{name}\" fib daddr type local udp dport {port} meta mark set {FWMARK:#x}"
            );
            chains.push(chain("arrive", "filter", "prerouting", -300, vec![("to our own socket", rule)]));
        }
        let restore = format!("iifname != \"{name}\" ct mark {FWMARK:#x} meta mark set ct mark");
        chains.push(chain("answers", "filter", "prerouting", -150, vec![("to our own connection", restore)]));
        let save = format!("meta mark {FWMARK:#x} ct mark set meta mark");
        chains.push(chain("remember", "filter", "postrouting", -150, vec![("our own connection", save)]));
    }
    NftTable { chains }
}

fn masquerade(name: &IfName, nat: &Nat<'_>) -> Vec<(&'static str, String)> {
    let mut rules = Vec::new();
    for (family, proto, offered) in [("ip", "ipv4", nat.v4), ("ip6", "ipv6", nat.v6)] {
        let subnets: Vec<String> = without_covered(offered).into_iter().map(|p| p.to_string()).collect();
        let is_exit = offered.iter().any(Prefix::is_default);
        let out = format!("iifname \"{name}\" oifname != \"{name}\"");
        let set = subnets.join(", ");
        match (is_exit, subnets.is_empty()) {
            (true, false) if !nat.snat => {
                let rule = format!("{out} {family} daddr != {{ {set} }} masquerade");
                rules.push(("to the internet", rule));
            }
            (true, _) => rules.push(("to the internet", format!("{out} meta nfproto {proto} masquerade"))),
            (false, false) if nat.snat => {
                rules.push(("to our subnets", format!("{out} {family} daddr {{ {set} }} masquerade")));
            }
            (false, _) => {}
        }
    }
    rules
}

/// Without defaults and without prefixes that another covers: nft refuses overlapping set elements.
fn without_covered(prefixes: &BTreeSet<Prefix>) -> Vec<Prefix> {
    let subnets = || prefixes.iter().filter(|p| !p.is_default());
    subnets().filter(|p| !subnets().any(|q| q != *p && q.net().contains(&p.net()))).copied().collect()
}

impl NftTable {
    /// The script that replaces the table, whatever was there, in one transaction.
    pub fn script(&self) -> String {
        let mut text = format!("{DELETE_SCRIPT}table inet {TABLE_NAME} {{\n");
        for chain in &self.chains {
            let Chain { name, kind, hook, priority, rules } = chain;
            let _ = writeln!(text, "  chain {name} {{");
            let _ = writeln!(text, "    type {kind} hook {hook} priority {priority}; policy accept;");
            for (purpose, rule) in rules {
                let _ = writeln!(text, "    {rule} comment \"{}\"", comment(purpose, rule));
            }
            text.push_str("  }\n");
        }
        text.push_str("}\n");
        text
    }

    /// What the kernel shows once the table is there.
    pub fn shape(&self) -> NftShape {
        let chains = self.chains.iter().map(|c| ChainShape {
            name: c.name.into(),
            kind: c.kind.into(),
            hook: c.hook.into(),
            priority: c.priority.into(),
            policy: "accept".into(),
            comments: c.rules.iter().map(|(purpose, rule)| comment(purpose, rule)).collect(),
        });
        NftShape { chains: chains.collect() }
    }
}

fn comment(purpose: &str, rule: &str) -> String {
    format!("{purpose} #{:08x}", fnv1a(rule.as_bytes()) >> 32)
}

impl NftShape {
    /// Reads what `nft -j list table inet meshd` printed.
    pub fn from_json(json: &Value) -> Self {
        let objects = json.get("nftables").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let text = |v: &Value, key: &str| v.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut chains: Vec<ChainShape> = Vec::new();
        for chain in objects.iter().filter_map(|o| o.get("chain")) {
            chains.push(ChainShape {
                name: text(chain, "name"),
                kind: text(chain, "type"),
                hook: text(chain, "hook"),
                priority: chain.get("prio").and_then(Value::as_i64).unwrap_or(i64::MIN),
                policy: text(chain, "policy"),
                comments: Vec::new(),
            });
        }
        for rule in objects.iter().filter_map(|o| o.get("rule")) {
            let of = text(rule, "chain");
            if let Some(chain) = chains.iter_mut().find(|c| c.name == of) {
                chain.comments.push(text(rule, "comment"));
            }
        }
        Self { chains: chains.into_iter().collect() }
    }
}

#[cfg(test)]
mod tests;
