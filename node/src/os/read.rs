//! Reads [`Actual`] from the kernel.

use super::OsError;
use super::actual::Actual;
use super::assist;
use super::command::{self, NFT};
use super::desired::{Desired, Family};
use super::journal::{Journal, Record};
use super::netlink::Netlink;
use super::nft::{NftShape, TABLE_NAME};
use super::sysctl;

/// The host as it is now, as far as it concerns `desired` and what the journal says is ours.
pub(crate) async fn actual(
    netlink: &Netlink,
    journal: &Journal,
    desired: &Desired,
) -> Result<Actual, OsError> {
    let recorded = journal.pending();
    let uses_hooks =
        desired.firewall_assist || recorded.iter().any(|r| matches!(r.record, Record::Hook { .. }));
    let mut actual = Actual {
        link: netlink.mesh_link(desired.interface.as_str()).await?,
        ipv6: sysctl::has_ipv6(),
        nft: nft_table().await?,
        sysctls: sysctl::read_all(&desired.interface),
        recorded,
        ..Actual::default()
    };
    actual.routes = netlink.routes().await?.into_iter().filter_map(|(_, value)| value).collect();
    actual.rules = netlink.rules().await?.into_iter().filter_map(|(_, value)| value).collect();
    if uses_hooks {
        actual.hooks = assist::read(&desired.interface).await?;
    }
    if !actual.ipv6 {
        actual.rules.retain(|rule| rule.family == Family::V4);
    }
    Ok(actual)
}

/// Our table, if it is there.
pub(crate) async fn nft_table() -> Result<Option<NftShape>, OsError> {
    match command::json(NFT, &["-j", "list", "table", "inet", TABLE_NAME]).await {
        Ok(json) => Ok(Some(NftShape::from_json(&json))),
        Err(OsError::Command { answer, .. }) if answer.contains("No such file or directory") => Ok(None),
        Err(other) => Err(other),
    }
}
