//! Executes planned changes, each recorded before it is made where a crash would leave it behind; and
//! undoes what the journal says. It decides nothing: no change is skipped, reordered or added here.

use super::OsError;
use super::assist;
use super::command;
use super::desired::IfName;
use super::journal::{Journal, Record};
use super::netlink::Netlink;
use super::nft::DELETE_SCRIPT;
use super::plan::Change;
use super::read;
use super::sysctl;
use crate::steps;

/// What is needed to execute changes.
pub(crate) struct Executor<'a> {
    netlink: &'a Netlink,
    journal: &'a mut Journal,
    interface: &'a IfName,
    index: Option<u32>,
}

impl<'a> Executor<'a> {
    pub(crate) fn new(netlink: &'a Netlink, journal: &'a mut Journal, interface: &'a IfName) -> Self {
        Self { netlink, journal, interface, index: None }
    }

    /// Executes in order, stops at the first failure.
    pub(crate) async fn execute(&mut self, changes: &[Change]) -> Result<(), OsError> {
        if changes.is_empty() {
            return Ok(());
        }
        self.record_interface().await?;
        for change in changes {
            tracing::debug!(%change, "host");
            steps::before(change);
            self.execute_one(change).await?;
            steps::after(change);
        }
        Ok(())
    }

    /// From this record on, a cleanup removes our routes, rules, addresses and table.
    async fn record_interface(&mut self) -> Result<(), OsError> {
        let name = self.interface.to_string();
        let known = |r: &Record| matches!(r, Record::Interface { name: recorded, .. } if *recorded == name);
        if self.journal.pending().iter().any(|r| known(&r.record)) {
            return Ok(());
        }
        let link = self.netlink.mesh_link(&name).await?;
        let record = match link {
            Some(link) => {
                let addresses = link.addresses.into_iter().collect();
                Record::Interface { name, up: link.up, mtu: link.mtu, addresses }
            }
            None => Record::Interface { name, up: false, mtu: 0, addresses: vec![] },
        };
        self.journal.append(record)
    }

    async fn execute_one(&mut self, change: &Change) -> Result<(), OsError> {
        let netlink = self.netlink;
        match change {
            Change::Sysctl(change) => {
                if !change.is_of(self.interface) {
                    self.journal.append(Record::Sysctl(change.clone()))?;
                }
                sysctl::write(&change.key, &change.value)
            }
            Change::RestoreSysctl { index, change } => {
                sysctl::restore(change)?;
                self.journal.append(Record::Undone { index: *index })
            }
            Change::ReplaceNft(table) => command::nft_script(&table.script()).await,
            Change::DeleteNft => command::nft_script(DELETE_SCRIPT).await,
            Change::SetMtu(mtu) => netlink.set_link(self.index().await?, None, Some(*mtu)).await,
            Change::LinkUp => netlink.set_link(self.index().await?, Some(true), None).await,
            Change::AddAddress { addr, never_source } => {
                netlink.add_address(self.index().await?, *addr, *never_source).await
            }
            Change::DeleteAddress(net) => netlink.delete_address(self.index().await?, *net).await,
            Change::PutRoute(prefix, kind) => netlink.put_route(self.index().await?, *prefix, *kind).await,
            Change::DeleteRoute(prefix) => {
                for (message, value) in netlink.routes().await? {
                    if value.is_some_and(|(p, _)| p == *prefix) {
                        netlink.delete_route(message).await?;
                    }
                }
                Ok(())
            }
            Change::AddRule(rule) => netlink.add_rule(*rule).await,
            Change::DeleteRule(rule) => {
                for (message, value) in netlink.rules().await? {
                    if value == Some(*rule) {
                        netlink.delete_rule(message).await?;
                    }
                }
                Ok(())
            }
            Change::AddHook(hook) => {
                let interface = self.interface.to_string();
                self.journal.append(Record::Hook { hook: *hook, interface })?;
                assist::add(*hook, self.interface).await
            }
            Change::RemoveHook { index, hook, interface } => {
                assist::remove(*hook, interface).await?;
                self.journal.append(Record::Undone { index: *index })
            }
        }
    }

    async fn index(&mut self) -> Result<u32, OsError> {
        if let Some(index) = self.index {
            return Ok(index);
        }
        let link = self.netlink.mesh_link(self.interface.as_str()).await?;
        let link = link.ok_or_else(|| OsError::NoInterface(self.interface.to_string()))?;
        Ok(*self.index.insert(link.index))
    }
}

/// Undoes everything the journal says, in reverse, then removes it. Safe to repeat after any crash.
pub(crate) async fn undo(netlink: &Netlink, journal: &mut Journal) -> Result<(), OsError> {
    if !journal.exists() {
        return Ok(());
    }
    for (message, _) in netlink.rules().await? {
        steps::before("undo a rule");
        netlink.delete_rule(message).await?;
    }
    for (message, _) in netlink.routes().await? {
        steps::before("undo a route");
        netlink.delete_route(message).await?;
    }
    match read::nft_table().await {
        Ok(Some(_)) => {
            steps::before("undo the nft table");
            command::nft_script(DELETE_SCRIPT).await?;
        }
        // Without nft we cannot have made a table.
        Ok(None) | Err(OsError::NftMissing) => {}
        Err(other) => return Err(other),
    }
    for recorded in journal.pending().into_iter().rev() {
        steps::before(format_args!("undo record {}", recorded.index));
        match recorded.record {
            Record::Sysctl(change) => sysctl::restore(&change)?,
            Record::Hook { hook, interface } => assist::remove(hook, &interface).await?,
            Record::Interface { name, up, mtu, addresses } => {
                let Some(link) = netlink.mesh_link(&name).await? else { continue };
                for net in link.addresses.iter().filter(|net| !addresses.contains(net)) {
                    netlink.delete_address(link.index, *net).await?;
                }
                if link.up && !up {
                    netlink.set_link(link.index, Some(false), None).await?;
                }
                if mtu != 0 && link.mtu != mtu {
                    netlink.set_link(link.index, None, Some(mtu)).await?;
                }
            }
            Record::Undone { .. } => {}
        }
    }
    steps::before("remove the journal");
    journal.remove()
}
