//! Topologies: the internet in the middle, servers on it, home routers with LANs behind them.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use anyhow::{Context, Result};

use crate::address::{self, LanPlan};
use crate::host::Host;
use crate::link::{Wire, mac};
use crate::nat::Nat;
use crate::reap;

static LABS: AtomicUsize = AtomicUsize::new(0);

/// A small internet. Everything in it ends when it is dropped.
#[derive(Debug)]
pub struct Lab {
    name: String,
    folder: PathBuf,
    internet: Host,
    links: AtomicU8,
    lans: AtomicU8,
    hosts: Mutex<Vec<Host>>,
}

/// Whether the LAN behind a router has IPv6 towards the internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uplink6 {
    /// The LAN has unique local addresses only.
    No,
    /// The LAN has global addresses; the router lets in what was asked for.
    Firewalled,
}

/// A router: `wan` towards the internet, `lan` with the machines behind it.
#[derive(Clone, Debug)]
pub struct Router {
    /// The router itself.
    pub host: Host,
    /// Its outside address.
    pub wan4: Ipv4Addr,
    /// Its outside address.
    pub wan6: Ipv6Addr,
    /// The LAN behind it.
    pub lan: Lan,
}

/// A LAN: a bridge in a router.
#[derive(Clone, Debug)]
pub struct Lan {
    plan: LanPlan,
    hosts: std::sync::Arc<AtomicU8>,
}

impl Lan {
    /// The LAN's IPv4 prefix, as `192.168.1.0/24`.
    pub fn prefix4(&self) -> String {
        format!("{}/24", self.plan.host4(0))
    }

    /// The LAN's IPv6 prefix.
    pub fn prefix6(&self) -> String {
        format!("{}/64", self.plan.host6(0))
    }
}

impl Lab {
    /// An internet without anybody on it.
    pub fn new(name: &str) -> Result<Lab> {
        reap();
        let folder = reap::folder(LABS.fetch_add(1, Ordering::Relaxed));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        let internet = Host::new(&folder, "internet")?;
        forwarding(&internet)?;
        Ok(Lab {
            name: name.to_owned(),
            folder,
            internet,
            links: AtomicU8::new(0),
            lans: AtomicU8::new(1),
            hosts: Mutex::default(),
        })
    }

    /// The folder of this lab, for files that tests make.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The machine that all uplinks end in.
    pub fn internet(&self) -> &Host {
        &self.internet
    }

    fn boot(&self, name: &str) -> Result<Host> {
        let host = Host::new(&self.folder, name)?;
        self.hosts.lock().expect("not poisoned").push(host.clone());
        Ok(host)
    }

    /// A machine with public addresses of both families, at `eth0`.
    pub fn server(&self, name: &str) -> Result<(Host, Ipv4Addr, Ipv6Addr)> {
        let host = self.boot(name)?;
        let (v4, v6) = self.uplink(&host, "eth0", Uplink6::No)?;
        Ok((host, v4, v6.machine6))
    }

    /// Two machines joined by one cable, `eth0` at both ends, without the internet; each with its
    /// address on it.
    pub fn pair(&self, left: &str, right: &str) -> Result<[(Host, Ipv4Addr); 2]> {
        let (a, b) = (self.boot(left)?, self.boot(right)?);
        let net = self.lans.fetch_add(1, Ordering::Relaxed);
        let (a4, b4) = (Ipv4Addr::new(10, 200, net, 1), Ipv4Addr::new(10, 200, net, 2));
        a.wire(Wire {
            name: "eth0".to_owned(),
            peer: b.clone(),
            peer_name: "eth0".to_owned(),
            setup: format!("addr add {a4}/24 dev eth0\n"),
            peer_setup: format!("addr add {b4}/24 dev eth0\n"),
        })?;
        Ok([(a, a4), (b, b4)])
    }

    /// A cable from `name` of `host`, with an address, to a port of a bridge on `switch`.
    pub fn cable(
        &self,
        host: &Host,
        name: &str,
        address: &str,
        switch: &Host,
        port: &str,
        bridge: &str,
    ) -> Result<()> {
        host.wire(Wire {
            name: name.to_owned(),
            peer: switch.clone(),
            peer_name: port.to_owned(),
            setup: format!("addr add {address} dev {name}\n"),
            peer_setup: format!("link set {port} master {bridge}\n"),
        })
    }

    /// A machine on no network.
    pub fn host(&self, name: &str) -> Result<Host> {
        self.boot(name)
    }

    fn uplink(&self, host: &Host, name: &str, six: Uplink6) -> Result<(Ipv4Addr, address::LinkPlan)> {
        let index = self.links.fetch_add(1, Ordering::Relaxed);
        let plan = address::link(index);
        let port = format!("p{index}");
        let routed = match six {
            Uplink6::No => String::new(),
            Uplink6::Firewalled => format!("route replace {}/64 via {}\n", plan.routed6, plan.machine6),
        };
        host.wire(Wire {
            name: name.to_owned(),
            peer: self.internet.clone(),
            peer_name: port.clone(),
            setup: format!(
                "addr add {}/30 dev {name}\naddr add {}/64 dev {name} nodad\n\
                 route add default via {}\nroute add default via {}\n",
                plan.machine4, plan.machine6, plan.gateway4, plan.gateway6
            ),
            peer_setup: format!(
                "addr add {}/30 dev {port}\naddr add {}/64 dev {port} nodad\n{routed}",
                plan.gateway4, plan.gateway6
            ),
        })?;
        Ok((plan.machine4, plan))
    }

    /// A home router on the internet; its LAN has unique local IPv6 addresses only.
    pub fn router(&self, name: &str, nat: Nat) -> Result<Router> {
        self.router_with(name, nat, Uplink6::No)
    }

    /// A home router on the internet.
    pub fn router_with(&self, name: &str, nat: Nat, six: Uplink6) -> Result<Router> {
        let host = self.boot(name)?;
        let (wan4, plan) = self.uplink(&host, "wan", six)?;
        let global6 = (six == Uplink6::Firewalled).then_some(plan.routed6);
        let lan = self.lan(&host, global6)?;
        host.nft(&nat.rules())?;
        if nat == Nat::None {
            // The internet knows the way to the LAN.
            self.internet.ip(&format!("route add {} via {wan4}\n", lan.prefix4()))?;
        }
        Ok(Router { host, wan4, wan6: plan.machine6, lan })
    }

    /// A router whose uplink is the LAN of another one: carrier-grade NAT.
    pub fn router_behind(&self, outer: &Router, name: &str, nat: Nat) -> Result<Router> {
        let host = self.boot(name)?;
        let (wan4, wan6) = outer.lan.plug(&outer.host, &host, "wan")?;
        let lan = self.lan(&host, None)?;
        host.nft(&nat.rules())?;
        Ok(Router { host, wan4, wan6, lan })
    }

    fn lan(&self, router: &Host, global6: Option<Ipv6Addr>) -> Result<Lan> {
        let index = self.lans.fetch_add(1, Ordering::Relaxed);
        let lan = Lan { plan: LanPlan { index, global6 }, hosts: AtomicU8::new(0).into() };
        forwarding(router)?;
        router.ip(&format!(
            "link add lan address {} type bridge\naddr add {}/24 dev lan\naddr add {}/64 dev lan nodad\nlink set lan up\n",
            mac(router.name(), "lan"),
            lan.plan.host4(1),
            lan.plan.host6(1)
        ))?;
        Ok(lan)
    }

    /// A machine on the LAN behind `router`, at `eth0`, with its addresses.
    pub fn behind(&self, router: &Router, name: &str) -> Result<(Host, Ipv4Addr, Ipv6Addr)> {
        let host = self.boot(name)?;
        let (v4, v6) = router.lan.plug(&router.host, &host, "eth0")?;
        Ok((host, v4, v6))
    }

    /// The ends of the logs of all machines, for a person who looks for what went wrong.
    pub fn log_tails(&self) -> String {
        self.hosts().iter().map(Host::log_tails).collect()
    }

    /// How to enter each machine from another terminal.
    pub fn doors(&self) -> String {
        let door = |host: &Host| {
            let pid = host.pid().unwrap_or_default();
            format!("{}: nsenter --target {pid} --net --mount --uts --ipc --pid --root --wd\n", host.name())
        };
        self.hosts().iter().map(door).collect()
    }

    /// Everybody who answers to a name here.
    pub fn hosts(&self) -> Vec<Host> {
        self.hosts.lock().expect("not poisoned").clone()
    }
}

impl Lan {
    fn plug(&self, router: &Host, host: &Host, name: &str) -> Result<(Ipv4Addr, Ipv6Addr)> {
        let n = self.hosts.fetch_add(1, Ordering::Relaxed) + 10;
        let (v4, v6) = (self.plan.host4(n), self.plan.host6(n));
        let port = format!("port{n}");
        let default6 = match self.plan.global6 {
            Some(_) => format!("route add default via {}\n", self.plan.host6(1)),
            None => String::new(),
        };
        host.wire(Wire {
            name: name.to_owned(),
            peer: router.clone(),
            peer_name: port.clone(),
            setup: format!(
                "addr add {v4}/24 dev {name}\naddr add {v6}/64 dev {name} nodad\n\
                 route add default via {}\n{default6}",
                self.plan.host4(1)
            ),
            peer_setup: format!("link set {port} master lan\n"),
        })?;
        Ok((v4, v6))
    }
}

/// Routing on, and nothing learned by surprise.
fn forwarding(host: &Host) -> Result<()> {
    host.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])
}

/// Where the programs under test are: `debug` of the build output, as `make build` leaves them.
pub fn program_folder() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    let folder = own.parent().unwrap_or(Path::new("/")).to_owned();
    if folder.ends_with("deps") { folder.parent().unwrap_or(&folder).to_owned() } else { folder }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("=== lab {}: the ends of all logs", self.name);
            eprint!("{}", self.log_tails());
        }
        for host in self.hosts() {
            host.power_off();
            host.inner.wires.lock().expect("not poisoned").clear();
        }
        self.internet.power_off();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
