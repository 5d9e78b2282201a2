//! The hooks that other firewalls offer to others (`--firewall=assist`), and nothing else of theirs.
//!
//! Docker reads rules of others in its chain `DOCKER-USER`, ufw in its `user` chains, firewalld has a
//! zone that trusts an interface. Rules of ours there carry [`COMMENT`]; they are removed by it.

use super::command::{self, NFT};
use super::{IfName, OsError};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// The comment on every rule that we put into a chain of somebody else.
pub const COMMENT: &str = "meshd assist";

/// No such chain or table; also: no such program.
const NO_SUCH: &str = "No such file or directory";
/// What firewall-cmd says when the interface is not in the zone (any more), or firewalld does not run: its
/// zones at run time went with it.
const FIREWALLD_GONE: [&str; 5] =
    [NO_SUCH, "not running", "UNKNOWN_INTERFACE", "ZONE_CONFLICT", "NOT_ENABLED"];

/// A hook made for the rules of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hook {
    /// Docker's `DOCKER-USER`, IPv4.
    DockerUser,
    /// Docker's `DOCKER-USER`, IPv6.
    DockerUser6,
    /// `ufw-user-forward`: what `ufw route allow` fills.
    UfwForward,
    /// Its IPv6 twin.
    UfwForward6,
    /// `ufw-user-input`: what `ufw allow` fills.
    UfwInput,
    /// Its IPv6 twin.
    UfwInput6,
    /// firewalld's zone `trusted`.
    FirewalldTrusted,
}

impl Hook {
    const CHAINS: [Self; 6] = [
        Self::DockerUser,
        Self::DockerUser6,
        Self::UfwForward,
        Self::UfwForward6,
        Self::UfwInput,
        Self::UfwInput6,
    ];

    /// `(family, table, chain)` in nftables; `None` for firewalld.
    pub const fn chain(self) -> Option<(&'static str, &'static str, &'static str)> {
        Some(match self {
            Self::DockerUser => ("ip", "filter", "DOCKER-USER"),
            Self::DockerUser6 => ("ip6", "filter", "DOCKER-USER"),
            Self::UfwForward => ("ip", "filter", "ufw-user-forward"),
            Self::UfwForward6 => ("ip6", "filter", "ufw6-user-forward"),
            Self::UfwInput => ("ip", "filter", "ufw-user-input"),
            Self::UfwInput6 => ("ip6", "filter", "ufw6-user-input"),
            Self::FirewalldTrusted => return None,
        })
    }

    /// The rules that go into the chain, in order.
    fn rules(self, interface: &IfName) -> Vec<String> {
        let arriving = format!("iifname \"{interface}\" counter accept");
        let leaving = format!("oifname \"{interface}\" counter accept");
        match self {
            Self::DockerUser | Self::DockerUser6 | Self::UfwForward | Self::UfwForward6 => {
                vec![arriving, leaving]
            }
            Self::UfwInput | Self::UfwInput6 => vec![arriving],
            Self::FirewalldTrusted => vec![],
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.chain() {
            Some((family, table, chain)) => write!(f, "chain {chain} of table {family} {table}"),
            None => f.write_str("firewalld zone trusted"),
        }
    }
}

/// The hooks that exist here, and whether our rules are in them.
pub(crate) async fn read(interface: &IfName) -> Result<BTreeMap<Hook, bool>, OsError> {
    let mut found = BTreeMap::new();
    let chains = command::json(NFT, &["-j", "list", "chains"]).await?;
    for hook in Hook::CHAINS {
        let Some((family, table, chain)) = hook.chain() else { continue };
        if !has_chain(&chains, family, table, chain) {
            continue;
        }
        let listed = command::json(NFT, &["-j", "list", "chain", family, table, chain]).await?;
        found.insert(hook, our_handles(&listed).len() == hook.rules(interface).len());
    }
    if objects(&chains, "chain").any(|c| c["family"] == "inet" && c["table"] == "firewalld") {
        let zone = command::text("firewall-cmd", &[&format!("--get-zone-of-interface={interface}")]).await;
        found.insert(Hook::FirewalldTrusted, zone.is_ok_and(|zone| zone.trim() == "trusted"));
    }
    Ok(found)
}

/// Puts our rules at the head of a hook. Rules of ours that are there already are replaced.
pub(crate) async fn add(hook: Hook, interface: &IfName) -> Result<(), OsError> {
    let Some((family, table, chain)) = hook.chain() else {
        let name = format!("--change-interface={interface}");
        return command::text("firewall-cmd", &["--zone=trusted", &name]).await.map(drop);
    };
    let listed = command::json(NFT, &["-j", "list", "chain", family, table, chain]).await?;
    let mut script = deletions(hook, &listed);
    for rule in hook.rules(interface).iter().rev() {
        script.push_str(&format!("insert rule {family} {table} {chain} {rule} comment \"{COMMENT}\"\n"));
    }
    command::nft_script(&script).await
}

/// Takes our rules out of a hook; fine if they or the hook are gone.
pub(crate) async fn remove(hook: Hook, interface: &str) -> Result<(), OsError> {
    let Some((family, table, chain)) = hook.chain() else {
        let name = format!("--remove-interface={interface}");
        let removed = command::text("firewall-cmd", &["--zone=trusted", &name]).await.map(drop);
        return removed.or_else(|error| if is_gone(&error, &FIREWALLD_GONE) { Ok(()) } else { Err(error) });
    };
    let listed = match command::json(NFT, &["-j", "list", "chain", family, table, chain]).await {
        Ok(listed) => listed,
        Err(error) if is_gone(&error, &[NO_SUCH]) => return Ok(()),
        Err(error) => return Err(error),
    };
    let script = deletions(hook, &listed);
    if script.is_empty() { Ok(()) } else { command::nft_script(&script).await }
}

/// Whether a program says that what we would take away is not there. Any other failure (no time, no right)
/// leaves it to be undone later.
fn is_gone(error: &OsError, answers: &[&str]) -> bool {
    matches!(error, OsError::Command { answer, .. } if answers.iter().any(|known| answer.contains(known)))
}

fn deletions(hook: Hook, listed: &Value) -> String {
    let Some((family, table, chain)) = hook.chain() else { return String::new() };
    let lines = our_handles(listed).into_iter();
    lines.map(|handle| format!("delete rule {family} {table} {chain} handle {handle}\n")).collect()
}

fn objects<'a>(listed: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    listed.get("nftables").and_then(Value::as_array).into_iter().flatten().filter_map(move |o| o.get(kind))
}

fn our_handles(listed: &Value) -> Vec<u64> {
    let ours = objects(listed, "rule").filter(|r| r["comment"] == COMMENT);
    ours.filter_map(|r| r["handle"].as_u64()).collect()
}

fn has_chain(chains: &Value, family: &str, table: &str, chain: &str) -> bool {
    objects(chains, "chain").any(|c| c["family"] == family && c["table"] == table && c["name"] == chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(answer: &str) -> OsError {
        OsError::Command { command: "nft".to_owned(), answer: answer.to_owned() }
    }

    #[test]
    fn only_a_hook_that_is_not_there_counts_as_undone() {
        assert!(is_gone(&said("Error: No such file or directory; did you mean table x?"), &[NO_SUCH]));
        for answer in ["Operation not permitted (you must be root)", "no end after 10 s"] {
            assert!(!is_gone(&said(answer), &[NO_SUCH]), "{answer}");
            assert!(!is_gone(&said(answer), &FIREWALLD_GONE), "{answer}");
        }
        assert!(!is_gone(&OsError::NftMissing, &[NO_SUCH]));
        assert!(is_gone(&said("FirewallD is not running"), &FIREWALLD_GONE));
        assert!(is_gone(&said("Error: UNKNOWN_INTERFACE: 'mesh0' is not in any zone"), &FIREWALLD_GONE));
    }
}
