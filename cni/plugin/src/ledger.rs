//! Who has which address: a value, and the three changes to it. No file, no clock.
//!
//! Invariants: an address stands in one reservation at most; an address that was freed is given again only
//! after every other free address of its family (the search goes round, from the last address given).

use crate::range::{Family, Ranges};
use crate::request::Attachment;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The version of the file.
const FORMAT: u32 = 1;

/// All reservations of one network on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ledger {
    format: u32,
    /// The IPv4 address that was given last.
    last4: Option<Ipv4Addr>,
    /// The IPv6 address that was given last.
    last6: Option<Ipv6Addr>,
    reservations: Vec<Reservation>,
}

/// What one attachment holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reservation {
    pub(crate) attachment: Attachment,
    pub(crate) addresses: Vec<IpAddr>,
}

/// Every address of a family is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exhausted(pub(crate) Family);

impl Default for Ledger {
    fn default() -> Self {
        Self { format: FORMAT, last4: None, last6: None, reservations: Vec::new() }
    }
}

impl Ledger {
    /// # Errors
    /// Why this is no ledger of ours.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let ledger: Self = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if ledger.format != FORMAT {
            return Err(format!("its format is {}, this release reads {FORMAT}", ledger.format));
        }
        let mut seen = HashSet::new();
        let mut all = ledger.reservations.iter().flat_map(|r| &r.addresses);
        match all.find(|a| !seen.insert(**a)) {
            Some(twice) => Err(format!("{twice} stands in two reservations")),
            None => Ok(ledger),
        }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    pub(crate) fn reservation(&self, attachment: &Attachment) -> Option<&Reservation> {
        self.reservations.iter().find(|r| r.attachment == *attachment)
    }

    pub(crate) fn reservations(&self) -> &[Reservation] {
        &self.reservations
    }

    /// One address of each family for `attachment`. What it holds from an `ADD` that did not end, it keeps,
    /// as long as that fits the ranges. Nothing changes on an error.
    pub(crate) fn reserve(
        &mut self,
        attachment: &Attachment,
        ranges: &Ranges,
    ) -> Result<Vec<IpAddr>, Exhausted> {
        if let Some(held) = self.reservation(attachment) {
            let of_each = held.addresses.iter().map(|a| Family::of(*a)).eq(ranges.families());
            if of_each && held.addresses.iter().all(|a| ranges.contain(*a)) {
                return Ok(held.addresses.clone());
            }
        }
        let others = self.reservations.iter().filter(|r| r.attachment != *attachment);
        let used: HashSet<IpAddr> = others.flat_map(|r| r.addresses.iter().copied()).collect();
        let addresses = ranges
            .families()
            .map(|family| {
                let free = ranges.cycle(family, self.last(family)).find(|a| !used.contains(a));
                free.ok_or(Exhausted(family))
            })
            .collect::<Result<Vec<IpAddr>, Exhausted>>()?;
        for address in &addresses {
            match address {
                IpAddr::V4(a) => self.last4 = Some(*a),
                IpAddr::V6(a) => self.last6 = Some(*a),
            }
        }
        self.release(attachment);
        self.reservations.push(Reservation { attachment: attachment.clone(), addresses: addresses.clone() });
        Ok(addresses)
    }

    /// Frees what `attachment` holds; whether it held anything.
    pub(crate) fn release(&mut self, attachment: &Attachment) -> bool {
        let before = self.reservations.len();
        self.reservations.retain(|r| r.attachment != *attachment);
        self.reservations.len() != before
    }

    /// A family of `ranges` that has no free address.
    pub(crate) fn exhausted(&self, ranges: &Ranges) -> Option<Exhausted> {
        let used: HashSet<IpAddr> =
            self.reservations.iter().flat_map(|r| r.addresses.iter().copied()).collect();
        let full = |family: &Family| ranges.cycle(*family, self.last(*family)).all(|a| used.contains(&a));
        ranges.families().find(full).map(Exhausted)
    }

    fn last(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.last4.map(IpAddr::V4),
            Family::V6 => self.last6.map(IpAddr::V6),
        }
    }
}

#[cfg(test)]
mod tests;
