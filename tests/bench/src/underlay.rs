//! The two kinds of cable that each contestant is measured on.

use crate::contestant::Contestant;
use anyhow::{Result, bail};

/// What the cable does with packets larger than its MTU that the kernel hands it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Underlay {
    /// veth as it comes: TCP and UDP super-packets pass whole.
    Whole,
    /// Segmentation offloads off: every packet is cut to the MTU before the cable, and the receiving
    /// end joins what fits (GRO), as network cards do.
    Cut,
}

impl Underlay {
    pub(crate) const ALL: [Underlay; 2] = [Underlay::Whole, Underlay::Cut];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Underlay::Whole => "whole",
            Underlay::Cut => "cut",
        }
    }

    pub(crate) fn parse(word: &str) -> Result<Underlay> {
        match Underlay::ALL.into_iter().find(|u| u.name() == word) {
            Some(underlay) => Ok(underlay),
            None => bail!("UNDERLAYS: `{word}` is neither `whole` nor `cut`"),
        }
    }

    /// Makes both ends of a contestant's cable so.
    pub(crate) fn set(self, contestant: &Contestant) -> Result<()> {
        let (offload, gro, segments) = match self {
            Underlay::Whole => ("on", "off", "65535"),
            Underlay::Cut => ("off", "on", "1"),
        };
        for side in &contestant.sides {
            side.host.sh(&format!(
                "ip link set eth0 gso_max_segs {segments} && ethtool -K eth0 gso {offload} tso {offload} \
                 tx-udp-segmentation {offload} gro {gro}"
            ))?;
        }
        Ok(())
    }
}
