//! Every kind of uplink against every other one: how two nodes find each other, and how fast.
//!
//! A grid is one lab with a coordinator (relay and STUN inside, on two ports), a second relay with two ports
//! of its own, and two rows of nodes, so that each pair meets for the first time when it is measured. Neighbours
//! are pairs behind one and the same router. "Direct" is what no relay sees: the byte counters of both have to
//! stay nearly still while a MiB passes.

use std::fmt;
use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::clock::{now, wait_within};
use crate::host::Host;
use crate::lab::{Lab, Router};
use crate::mesh::{Coordinator, mesh_address, peer, second_relay, up};
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
    /// A home router that lets nothing out but TCP to port 443.
    HttpsOnly,
    /// Nothing passes but an HTTP proxy with CONNECT to port 443 and a password.
    ProxyOnly,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::None,
        Self::FullCone,
        Self::AddressRestricted,
        Self::Home,
        Self::Symmetric,
        Self::CgnatHome,
        Self::CgnatSymmetric,
        Self::Ipv6Only,
        Self::UdpBlocked,
        Self::HttpsOnly,
        Self::ProxyOnly,
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
            Self::HttpsOnly => "https-only",
            Self::ProxyOnly => "proxy-only",
        }
    }

    const fn is_hard(self) -> bool {
        matches!(self, Self::Symmetric | Self::CgnatSymmetric)
    }

    const fn is_closed(self) -> bool {
        matches!(self, Self::UdpBlocked | Self::HttpsOnly | Self::ProxyOnly)
    }
}

/// Two nodes behind one router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbours {
    /// In one LAN, whose router does not turn packets round.
    OneNat,
    /// In two homes of one carrier whose NAT does not turn packets round: neither home's outside address means
    /// anything to the other.
    OneCgnat,
    /// In two homes of one carrier whose NAT does, as RFC 6888 asks of carriers (REQ-1, by RFC 4787 REQ-9).
    OneCgnatHairpin,
}

impl Neighbours {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::OneNat, Self::OneCgnat, Self::OneCgnatHairpin];

    /// For the table and for machines' names.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OneNat => "one-nat",
            Self::OneCgnat => "one-cgnat",
            Self::OneCgnatHairpin => "one-cgnat-hp",
        }
    }

    /// What they should come to.
    pub const fn expect(self) -> Expect {
        match self {
            Self::OneNat | Self::OneCgnatHairpin => Expect::Direct(EASY),
            Self::OneCgnat => Expect::Relay,
        }
    }
}

/// The first answer, whatever the pair.
pub const FIRST_ANSWER: Duration = Duration::from_secs(1);
/// Until a pair without a NAT that maps by destination is direct.
const EASY: Duration = Duration::from_secs(1);
/// With one that does.
const ONE_HARD: Duration = Duration::from_secs(5);
/// With one that does, and one that filters by port: up to three rounds of the birthday paradox.
const BIRTHDAY: Duration = Duration::from_secs(10);

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
    if a.is_closed() || b.is_closed() {
        return Expect::Relay;
    }
    if (no_v4(a) || no_v4(b)) && !(has_v6(a) && has_v6(b)) {
        return Expect::Relay;
    }
    let filters_ports = |k| matches!(k, Kind::Home | Kind::CgnatHome);
    match (a.is_hard(), b.is_hard()) {
        (true, true) => Expect::Relay,
        (true, false) if filters_ports(b) => Expect::Direct(BIRTHDAY),
        (false, true) if filters_ports(a) => Expect::Direct(BIRTHDAY),
        (true, false) | (false, true) => Expect::Direct(ONE_HARD),
        (false, false) => Expect::Direct(EASY),
    }
}

/// What was measured for one pair.
#[derive(Clone, Debug)]
pub struct Row {
    /// One end.
    pub left: &'static str,
    /// The other.
    pub right: &'static str,
    /// What it should come to.
    pub expect: Expect,
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
        match self.expect {
            Expect::Direct(_) => self.path() == "direct",
            Expect::Relay => self.path() == "relay",
        }
    }

    /// Whether the first answer came in time.
    pub fn answers_in_time(&self) -> bool {
        self.first_payload.is_some_and(|took| took <= FIRST_ANSWER)
    }

    /// Whether it was direct in time; `None`: it should not be direct.
    pub fn direct_in_time(&self) -> Option<bool> {
        match self.expect {
            Expect::Direct(limit) => {
                Some(self.path() == "direct" && self.direct.is_some_and(|took| took <= limit))
            }
            Expect::Relay => None,
        }
    }

    /// Whether it reached all its goals.
    pub fn reaches(&self) -> bool {
        self.holds() && self.answers_in_time() && self.direct_in_time() != Some(false)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |t: Option<Duration>| t.map_or("-".to_owned(), |t| format!("{} ms", t.as_millis()));
        let goal = match self.expect {
            Expect::Direct(limit) => format!("<= {} s", limit.as_secs()),
            Expect::Relay => "relay".to_owned(),
        };
        let verdict = match (self.holds(), self.reaches()) {
            (false, _) => "  NOT AS EXPECTED",
            (true, false) => "  LATE",
            (true, true) => "",
        };
        write!(
            f,
            "{:<12} {:<12} {:<7} {:>10} {:>10} {:>7}{verdict}{}{}",
            self.left,
            self.right,
            self.path(),
            ms(self.first_payload),
            ms(self.direct),
            goal,
            if self.note.is_empty() { "" } else { "  " },
            self.note
        )
    }
}

/// A node in the grid.
#[derive(Debug)]
pub struct Seat {
    /// How it is connected.
    pub label: &'static str,
    /// The machine.
    pub host: Host,
    /// The router in front of it, where there is one.
    pub router: Option<Router>,
    address: Ipv4Addr,
}

/// The lab with everybody in it.
#[derive(Debug)]
pub struct Grid {
    /// The lab.
    pub lab: Lab,
    /// Where coordinator, relay and STUN are.
    pub vps: Host,
    /// Where the second relay is.
    pub second: Host,
    token: String,
    /// Keeps running.
    pub coordinator: Coordinator,
    /// One row.
    pub left: Vec<(Kind, Seat)>,
    /// The other.
    pub right: Vec<(Kind, Seat)>,
    failures: Vec<(String, String)>,
}

impl Grid {
    /// Builds it and joins all nodes. One that cannot join is left out, and named in its rows.
    pub fn new(name: &str, left: &[Kind], right: &[Kind]) -> Result<Grid> {
        let lab = Lab::new(name)?;
        let (vps, vps4, vps6) = lab.server("vps")?;
        let (second, second4, second6) = lab.server("relay2")?;
        for relay in [&vps, &second] {
            relay.nft(
                "table inet grid {\n counter relayed { }\n chain arrive { type filter hook input priority -200; \
                 udp dport 3478 counter name relayed; tcp dport 443 counter name relayed; }\n}\n",
            )?;
        }
        let coordinator = Coordinator::start_at(&vps, vps4, &[vps4.to_string(), vps6.to_string()])?;
        second_relay(&coordinator, &second, "second", &[second4.to_string(), second6.to_string()])?;
        let token = coordinator.token_with(&["--uses", "100"]).or_else(|_| coordinator.token())?;
        let mut grid = Grid {
            lab,
            vps,
            second,
            token,
            coordinator,
            left: Vec::new(),
            right: Vec::new(),
            failures: Vec::new(),
        };
        for (side, kinds) in [("l", left), ("r", right)] {
            for kind in kinds {
                let machine = format!("{side}-{}", kind.name());
                match grid.seat(*kind, &machine) {
                    Ok(seat) if side == "l" => grid.left.push((*kind, seat)),
                    Ok(seat) => grid.right.push((*kind, seat)),
                    Err(error) => grid.failures.push((machine, format!("{error:#}"))),
                }
            }
        }
        Ok(grid)
    }

    fn seat(&self, kind: Kind, machine: &str) -> Result<Seat> {
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
            Kind::HttpsOnly => behind(Nat::HttpsOnly)?,
            Kind::ProxyOnly => {
                let (host, router) = behind(Nat::Closed)?;
                router.iter().try_for_each(|router| proxy(&router.host, &host))?;
                (host, router)
            }
        };
        self.sit(kind.name(), host, router)
    }

    /// Two nodes behind one router, which know nothing of each other yet.
    pub fn neighbours(&self, kind: Neighbours) -> Result<[Seat; 2]> {
        let lab = &self.lab;
        let name = |what: &str| format!("{}-{what}", kind.name());
        let outer = match kind {
            Neighbours::OneNat => lab.router(&name("gw"), Nat::Home)?,
            Neighbours::OneCgnat | Neighbours::OneCgnatHairpin => lab.router(&name("isp"), Nat::FullCone)?,
        };
        if kind == Neighbours::OneCgnatHairpin {
            outer.host.nft("delete table ip lab\n")?;
            outer.host.nft(&hairpin(&outer))?;
        }
        let seat = |which: &str| -> Result<Seat> {
            let router = match kind {
                Neighbours::OneNat => outer.clone(),
                Neighbours::OneCgnat | Neighbours::OneCgnatHairpin => {
                    lab.router_behind(&outer, &name(&format!("gw-{which}")), Nat::Home)?
                }
            };
            let (host, _, _) = lab.behind(&router, &name(which))?;
            // The lab's full cone keeps ports: two customers must not have the same.
            if which == "b" {
                fs::create_dir_all(host.file("/etc/meshd"))?;
                fs::write(host.file("/etc/meshd/meshd.toml"), "port = 41830\n")?;
            }
            self.sit(kind.name(), host, Some(router))
        };
        Ok([seat("a")?, seat("b")?])
    }

    /// Joins a machine and lets it serve the body.
    fn sit(&self, label: &'static str, host: Host, router: Option<Router>) -> Result<Seat> {
        up(&host, &[&self.token])?;
        let address = mesh_address(&host)?;
        host.sh("head -c 1048576 /dev/urandom > /var/lib/body")?;
        host.spawn("lab-tool", ["http", "0.0.0.0:8080", "/var/lib/body"])?;
        Ok(Seat { label, host, router, address })
    }

    /// Why nodes could not join.
    pub fn failures(&self) -> &[(String, String)] {
        &self.failures
    }

    /// Bytes that reached a relay, by UDP or TCP.
    fn relayed(&self) -> Result<u64> {
        let mut sum = 0;
        for relay in [&self.vps, &self.second] {
            let text = relay.sh("nft list counter inet grid relayed")?;
            let bytes = text.split("bytes ").nth(1).and_then(|rest| rest.split_whitespace().next());
            sum += bytes.with_context(|| format!("no counter in {text}"))?.parse::<u64>()?;
        }
        Ok(sum)
    }

    /// Lets two nodes meet.
    pub fn measure(&self, left: &Seat, right: &Seat, expect: Expect) -> Result<Row> {
        let mut row = Row {
            left: left.label,
            right: right.label,
            expect,
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
        let patience = match expect {
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
            let same =
                fs::read(left.host.file("/var/lib/got"))? == fs::read(right.host.file("/var/lib/body"))?;
            ensure!(same, "other bytes arrived");
            row.relay_bytes = Some(self.relayed()? - before);
        } else {
            row.note = fetched.stderr.trim().to_owned();
        }
        if traffic.is_running() {
            let _ = traffic.kill();
        }
        Ok(row)
    }
}

/// A proxy with a password on a router, and a machine behind it that is told of it.
fn proxy(router: &Host, host: &Host) -> Result<()> {
    let routes = host.sh("ip -4 route show default")?;
    let gateway = routes.split_whitespace().nth(2).context("no default route")?;
    fs::write(
        router.file("/etc/proxy.conf"),
        format!(
            "Port 3128\nListen {gateway}\nTimeout 600\nMaxClients 50\nConnectPort 443\nBasicAuth meshd s3cret\n"
        ),
    )?;
    router.spawn("tinyproxy", ["-d", "-c", "/etc/proxy.conf"])?;
    fs::create_dir_all(host.file("/etc/meshd"))?;
    let settings = format!("proxy = \"http://meshd:s3cret@{gateway}:3128\"\n");
    Ok(fs::write(host.file("/etc/meshd/meshd.toml"), settings)?)
}

/// A full cone that turns packets round: what one customer sends to another's outside address arrives there,
/// from the sender's own outside address.
fn hairpin(router: &Router) -> String {
    let (wan, lan) = (router.wan4, router.lan.prefix4());
    format!(
        "table ip lab {{\n\
         map cone {{ type inet_service : ipv4_addr . inet_service; flags dynamic,timeout; timeout 300s; }}\n\
         chain before {{ type nat hook prerouting priority dstnat; \
         ip daddr {wan} meta l4proto udp dnat to udp dport map @cone; }}\n\
         chain after {{ type nat hook postrouting priority srcnat; \
         oifname \"wan\" meta l4proto udp update @cone {{ udp sport timeout 300s : ip saddr . udp sport }}; \
         oifname \"wan\" masquerade; oifname \"lan\" ct status dnat ip saddr {lan} snat to {wan}; }}\n\
         chain forward {{ type filter hook forward priority filter; \
         iifname \"wan\" ct state established,related accept; iifname \"wan\" ct status dnat accept; \
         iifname \"wan\" drop; }}\n}}\n"
    )
}

fn milliseconds(text: &str) -> Option<Duration> {
    let number: f64 = text.split_whitespace().next()?.parse().ok()?;
    Some(Duration::from_micros((number * 1000.0) as u64))
}

/// The head of the table.
pub fn head() -> String {
    format!(
        "{:<12} {:<12} {:<7} {:>10} {:>10} {:>7}",
        "one side", "other side", "path", "1st answer", "direct", "goal"
    )
}
