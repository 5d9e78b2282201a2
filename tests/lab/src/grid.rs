//! Every kind of uplink against every other one: how two nodes find each other, and how fast.
//!
//! A grid is one lab with a coordinator (relay and STUN inside, on two ports) and two rows of nodes, so that
//! each pair meets for the first time when it is measured. "Direct" is what the relay does not see: its
//! packet counter has to stay nearly still while a MiB passes.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::clock::{now, wait_within};
use crate::host::Host;
use crate::lab::Lab;
use crate::mesh::{Coordinator, mesh_address, peer, up};
use crate::nat::Nat;

/// How a node is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Public addresses of both families, no NAT.
    None,
    /// Endpoint-independent mapping and filtering.
    FullCone,
    /// Endpoint-independent mapping, filtering by address.
    AddressRestricted,
    /// Endpoint-independent mapping, filtering by address and port.
    Home,
    /// Mapping and filtering by destination.
    Symmetric,
    /// A home router behind a carrier's full cone.
    CgnatHome,
    /// A home router behind a carrier's symmetric NAT.
    CgnatSymmetric,
    /// No IPv4 at all.
    Ipv6Only,
    /// A home router that lets no UDP out.
    UdpBlocked,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::None,
        Self::FullCone,
        Self::AddressRestricted,
        Self::Home,
        Self::Symmetric,
        Self::CgnatHome,
        Self::CgnatSymmetric,
        Self::Ipv6Only,
        Self::UdpBlocked,
    ];

    /// For the table and for machines' names.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::FullCone => "full-cone",
            Self::AddressRestricted => "addr-restr",
            Self::Home => "home",
            Self::Symmetric => "symmetric",
            Self::CgnatHome => "cgnat-home",
            Self::CgnatSymmetric => "cgnat-sym",
            Self::Ipv6Only => "ipv6-only",
            Self::UdpBlocked => "udp-blocked",
        }
    }

    const fn is_hard(self) -> bool {
        matches!(self, Self::Symmetric | Self::CgnatSymmetric)
    }
}

/// What a pair should come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// A direct path within this time.
    Direct(Duration),
    /// The relay, for good.
    Relay,
}

/// What two kinds of uplink should come to, by RFC 4787 and nothing else.
pub fn expect(a: Kind, b: Kind) -> Expect {
    let no_v4 = |k| k == Kind::Ipv6Only;
    let has_v6 = |k| matches!(k, Kind::None | Kind::Ipv6Only);
    if a == Kind::UdpBlocked || b == Kind::UdpBlocked {
        return Expect::Relay;
    }
    if (no_v4(a) || no_v4(b)) && !(has_v6(a) && has_v6(b)) {
        return Expect::Relay;
    }
    let filters_ports = |k| matches!(k, Kind::Home | Kind::CgnatHome);
    match (a.is_hard(), b.is_hard()) {
        (true, true) => Expect::Relay,
        (true, false) if filters_ports(b) => Expect::Direct(Duration::from_secs(10)),
        (false, true) if filters_ports(a) => Expect::Direct(Duration::from_secs(10)),
        (true, false) | (false, true) => Expect::Direct(Duration::from_secs(5)),
        (false, false) => Expect::Direct(Duration::from_secs(1)),
    }
}

/// What was measured for one pair.
#[derive(Clone, Debug)]
pub struct Row {
    /// One end.
    pub left: Kind,
    /// The other.
    pub right: Kind,
    /// From the first packet to its answer.
    pub first_payload: Option<Duration>,
    /// From the first packet until both ends said that the path is direct.
    pub direct: Option<Duration>,
    /// What the relay received while a MiB passed.
    pub relay_bytes: Option<u64>,
    /// Why there is no figure.
    pub note: String,
}

impl Row {
    /// What the relay's counter says.
    pub fn path(&self) -> &'static str {
        match (self.direct, self.relay_bytes) {
            (Some(_), Some(bytes)) if bytes < 100_000 => "direct",
            (_, Some(bytes)) if bytes >= 1 << 20 => "relay",
            (_, Some(_)) => "mixed",
            (_, None) => "none",
        }
    }

    /// Whether it came to what it should, at whatever speed.
    pub fn holds(&self) -> bool {
        match expect(self.left, self.right) {
            Expect::Direct(_) => self.path() == "direct",
            Expect::Relay => self.path() == "relay",
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |t: Option<Duration>| t.map_or("-".to_owned(), |t| format!("{} ms", t.as_millis()));
        let verdict = if self.holds() { "" } else { "  NOT AS EXPECTED" };
        write!(
            f,
            "{:<12} {:<12} {:<7} {:>10} {:>10}{verdict}{}{}",
            self.left.name(),
            self.right.name(),
            self.path(),
            ms(self.first_payload),
            ms(self.direct),
            if self.note.is_empty() { "" } else { "  " },
            self.note
        )
    }
}

/// A node in the grid.
#[derive(Debug)]
pub struct Seat {
    /// How it is connected.
    pub kind: Kind,
    /// The machine.
    pub host: Host,
    /// The router in front of it, where there is one.
    pub router: Option<crate::lab::Router>,
    address: Ipv4Addr,
}

/// The lab with everybody in it.
#[derive(Debug)]
pub struct Grid {
    /// The lab.
    pub lab: Lab,
    /// Where coordinator, relay and STUN are.
    pub vps: Host,
    /// Keeps running.
    pub coordinator: Coordinator,
    /// One row.
    pub left: Vec<Seat>,
    /// The other.
    pub right: Vec<Seat>,
    failures: Vec<(String, String)>,
}

impl Grid {
    /// Builds it and joins all nodes. One that cannot join is left out, and named in its rows.
    pub fn new(name: &str, left: &[Kind], right: &[Kind]) -> Result<Grid> {
        let lab = Lab::new(name)?;
        let (vps, vps4, vps6) = lab.server("vps")?;
        vps.nft(
            "table inet grid {\n counter relayed { }\n chain arrive { type filter hook input priority -200; \
             udp dport 3478 counter name relayed; }\n}\n",
        )?;
        let coordinator = Coordinator::start_at(&vps, vps4, &[vps4.to_string(), vps6.to_string()])?;
        let token = coordinator.token_with(&["--uses", "100"]).or_else(|_| coordinator.token())?;
        let mut grid =
            Grid { lab, vps, coordinator, left: Vec::new(), right: Vec::new(), failures: Vec::new() };
        for (side, kinds) in [("l", left), ("r", right)] {
            for kind in kinds {
                let machine = format!("{side}-{}", kind.name());
                match grid.seat(*kind, &machine, &token) {
                    Ok(seat) if side == "l" => grid.left.push(seat),
                    Ok(seat) => grid.right.push(seat),
                    Err(error) => grid.failures.push((machine, format!("{error:#}"))),
                }
            }
        }
        Ok(grid)
    }

    fn seat(&self, kind: Kind, machine: &str, token: &str) -> Result<Seat> {
        let lab = &self.lab;
        let behind = |nat| -> Result<_> {
            let router = lab.router(&format!("{machine}-gw"), nat)?;
            let (host, _, _) = lab.behind(&router, machine)?;
            Ok((host, Some(router)))
        };
        let carrier = |nat| -> Result<_> {
            let outer = lab.router(&format!("{machine}-isp"), nat)?;
            let router = lab.router_behind(&outer, &format!("{machine}-gw"), Nat::Home)?;
            let (host, _, _) = lab.behind(&router, machine)?;
            Ok((host, Some(router)))
        };
        let (host, router) = match kind {
            Kind::None => (lab.server(machine)?.0, None),
            Kind::Ipv6Only => {
                let (host, v4, _) = lab.server(machine)?;
                host.sh(&format!("ip addr del {v4}/30 dev eth0; ip route flush default"))?;
                (host, None)
            }
            Kind::FullCone => behind(Nat::FullCone)?,
            Kind::AddressRestricted => behind(Nat::AddressRestricted)?,
            Kind::Home => behind(Nat::Home)?,
            Kind::Symmetric => behind(Nat::Symmetric)?,
            Kind::CgnatHome => carrier(Nat::FullCone)?,
            Kind::CgnatSymmetric => carrier(Nat::Symmetric)?,
            Kind::UdpBlocked => behind(Nat::UdpBlocked)?,
        };
        up(&host, &[token])?;
        let address = mesh_address(&host)?;
        host.sh("head -c 1048576 /dev/urandom > /var/lib/body")?;
        host.spawn("lab-tool", ["http", "0.0.0.0:8080", "/var/lib/body"])?;
        Ok(Seat { kind, host, router, address })
    }

    /// Why nodes could not join.
    pub fn failures(&self) -> &[(String, String)] {
        &self.failures
    }

    fn relayed(&self) -> Result<u64> {
        let text = self.vps.sh("nft list counter inet grid relayed")?;
        let bytes = text.split("bytes ").nth(1).and_then(|rest| rest.split_whitespace().next());
        Ok(bytes.with_context(|| format!("no counter in {text}"))?.parse()?)
    }

    /// Lets two nodes meet.
    pub fn measure(&self, left: &Seat, right: &Seat) -> Result<Row> {
        let mut row = Row {
            left: left.kind,
            right: right.kind,
            first_payload: None,
            direct: None,
            relay_bytes: None,
            note: String::new(),
        };
        let target = right.address.to_string();
        let began = now();
        let first = left.host.run("ping", ["-c", "1", "-W", "10", &target])?;
        row.first_payload = first.stdout.split("time=").nth(1).and_then(milliseconds);
        if row.first_payload.is_none() {
            row.note = "no answer within 10 s".to_owned();
        }
        let mut traffic = left.host.spawn("ping", ["-i", "0.2", "-w", "20", &target])?;
        let patience = match expect(left.kind, right.kind) {
            Expect::Direct(limit) => limit + Duration::from_secs(8),
            Expect::Relay => Duration::from_secs(3),
        };
        let direct = |from: &Host, to: &Host| peer(from, to.name()).is_ok_and(|p| p["path"] == "direct");
        row.direct = wait_within(patience, || {
            let both = direct(&left.host, &right.host) && direct(&right.host, &left.host);
            both.then(|| now() - began)
        });
        let before = self.relayed()?;
        let url = format!("http://{target}:8080/");
        let fetched = left.host.run("curl", ["-sS", "--max-time", "20", "-o", "/var/lib/got", &url])?;
        if fetched.is_success() {
            let same = std::fs::read(left.host.file("/var/lib/got"))?
                == std::fs::read(right.host.file("/var/lib/body"))?;
            ensure!(same, "other bytes arrived");
            row.relay_bytes = Some(self.relayed()? - before);
        } else {
            row.note = match (left.kind, right.kind) {
                (Kind::UdpBlocked, _) | (_, Kind::UdpBlocked) => {
                    "not built yet: the relay over TLS".to_owned()
                }
                _ => fetched.stderr.trim().to_owned(),
            };
        }
        if traffic.is_running() {
            let _ = traffic.kill();
        }
        Ok(row)
    }
}

fn milliseconds(text: &str) -> Option<Duration> {
    let number: f64 = text.split_whitespace().next()?.parse().ok()?;
    Some(Duration::from_micros((number * 1000.0) as u64))
}

/// The head of the table.
pub fn head() -> String {
    format!("{:<12} {:<12} {:<7} {:>10} {:>10}", "one side", "other side", "path", "1st answer", "direct")
}
