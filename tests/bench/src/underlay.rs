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
    ///
    /// The lab's cables are laid with `gso_max_segs 1`. That must not stay: it makes TCP itself work segment
    /// by segment, and plain TCP then goes at a fifth of the cable's speed (0.3 Gb/s against 1.8 where it was
    /// tried, with BBR and with CUBIC alike, and nothing lost). What a card without TSO gets is another thing:
    /// TCP works with super-packets, which the kernel cuts last before the card.
    pub(crate) fn set(self, contestant: &Contestant) -> Result<()> {
        let (offload, gro) = match self {
            Underlay::Whole => ("on", "off"),
            Underlay::Cut => ("off", "on"),
        };
        for side in &contestant.sides {
            side.host.sh(&format!(
                "ip link set eth0 gso_max_segs 65535 && ethtool -K eth0 gso {offload} tso {offload} \
                 tx-udp-segmentation {offload} gro {gro}"
            ))?;
        }
        Ok(())
    }
}
