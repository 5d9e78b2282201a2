//! Who is measured, and one that runs.

use anyhow::{Result, bail};
use meshd_lab::Host;
use std::net::Ipv4Addr;

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// The cable itself, without encryption.
    Veth,
    /// Ours: coordinator, two daemons, filter on.
    Meshd,
    /// The Go module `golang.zx2c4.com/wireguard` at the version of `tests/bench/peers/go.mod`.
    WireguardGo,
    /// `cargo install boringtun-cli`.
    BoringTun,
    /// `cargo install gotatun-cli`.
    GotaTun,
    /// Debian's package `wireguard-go`.
    WireguardGoDebian,
    /// Debian's package `nebula`.
    Nebula,
}

impl Kind {
    pub(crate) const ALL: [Kind; 7] = [
        Kind::Veth,
        Kind::Meshd,
        Kind::WireguardGo,
        Kind::BoringTun,
        Kind::GotaTun,
        Kind::WireguardGoDebian,
        Kind::Nebula,
    ];

    /// For tables, JSON and `ONLY=`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Kind::Veth => "veth",
            Kind::Meshd => "meshd",
            Kind::WireguardGo => "wireguard-go",
            Kind::BoringTun => "boringtun",
            Kind::GotaTun => "gotatun",
            Kind::WireguardGoDebian => "wg-go-debian",
            Kind::Nebula => "nebula",
        }
    }

    pub(crate) fn parse(word: &str) -> Result<Kind> {
        match Kind::ALL.into_iter().find(|k| k.name() == word) {
            Some(kind) => Ok(kind),
            None => bail!("ONLY: `{word}` is none of {}", Kind::ALL.map(Kind::name).join(", ")),
        }
    }
}

/// One end: a machine, its address inside the tunnel, its daemon.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) host: Host,
    pub(crate) inner: Ipv4Addr,
    /// The daemon; nobody for the plain cable.
    pub(crate) pid: Option<i32>,
}

/// A contestant that is up.
#[derive(Debug)]
pub(crate) struct Contestant {
    pub(crate) kind: Kind,
    pub(crate) version: String,
    /// Of the tunnel's interface, as the product sets it by itself.
    pub(crate) mtu: u32,
    /// Left, which sends in `→` measurements, and right.
    pub(crate) sides: [Side; 2],
}

impl Contestant {
    pub(crate) fn left(&self) -> &Side {
        &self.sides[0]
    }

    pub(crate) fn right(&self) -> &Side {
        &self.sides[1]
    }
}
