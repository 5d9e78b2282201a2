//! Cables: a veth pair between two machines, and what can happen to one.

use anyhow::{Context, Result};

use crate::host::Host;

/// A cable from a machine to another one, with all that is needed to plug it in again after a reboot.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    /// The interface in the machine.
    pub(crate) name: String,
    /// The other machine.
    pub(crate) peer: Host,
    /// The interface there.
    pub(crate) peer_name: String,
    /// `ip -batch` lines for this machine, once the cable is in.
    pub(crate) setup: String,
    /// `ip -batch` lines for the other machine.
    pub(crate) peer_setup: String,
}

impl Wire {
    /// Plugs the cable into `host` and sets both ends up.
    pub(crate) fn plug(&self, host: &Host) -> Result<()> {
        let (name, peer, peer_name) = (&self.name, self.peer.pid()?, &self.peer_name);
        // One segment at most: captures show what a wire would carry, not the kernel's super-packets.
        // Both ends are up before anything else: IPv6 ignores what is set on a link without a carrier.
        // Network cards keep their addresses over a reboot, so neighbours find the machine at once.
        let (own, other) = (mac(host.name(), name), mac(self.peer.name(), peer_name));
        host.ip(&format!(
            "link add {name} address {own} type veth peer name {peer_name} address {other} netns {peer}\n\
             link set {name} gso_max_segs 1 up\n"
        ))?;
        self.peer.ip(&format!("link set {peer_name} gso_max_segs 1 up\n{}", self.peer_setup))?;
        host.ip(&self.setup)
    }
}

/// A locally administered address for an interface, the same one every time.
pub(crate) fn mac(host: &str, interface: &str) -> String {
    let hash = host
        .bytes()
        .chain([b'/'])
        .chain(interface.bytes())
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let [a, b, c, d] = hash.to_be_bytes();
    format!("02:4c:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

impl Host {
    /// Plugs a cable in, and remembers it for the next boot.
    pub(crate) fn wire(&self, wire: Wire) -> Result<()> {
        wire.plug(self)?;
        self.inner.wires.lock().expect("not poisoned").push(wire);
        Ok(())
    }

    /// Loses `percent` of the IP packets that arrive at `interface`, on average and at random; 0 ends it.
    pub fn set_loss(&self, interface: &str, percent: u8) -> Result<()> {
        let rule = match percent {
            0 => String::new(),
            100.. => "meta protocol { ip, ip6 } drop;".to_owned(),
            _ => format!("meta protocol {{ ip, ip6 }} numgen random mod 100 < {percent} drop;"),
        };
        self.nft(&format!(
            "table netdev loss_{interface}\ndelete table netdev loss_{interface}\n\
             table netdev loss_{interface} {{ chain arrive {{ type filter hook ingress device \"{interface}\" \
             priority 0; {rule} }}; }}\n"
        ))
    }

    /// Limits what leaves by `interface` to `mbit` Mbit/s.
    pub fn set_rate(&self, interface: &str, mbit: u32) -> Result<()> {
        let line =
            format!("qdisc replace dev {interface} root tbf rate {mbit}mbit burst 64kb latency 50ms\n");
        self.configure(&["tc", "-batch", "-"], &line)
    }

    /// Pulls the cable of `interface` at its other end, or plugs it in: this end sees its carrier go and come, and
    /// keeps its addresses and routes.
    pub fn set_carrier(&self, interface: &str, present: bool) -> Result<()> {
        let wires = self.inner.wires.lock().expect("not poisoned");
        let wire = wires.iter().find(|wire| wire.name == interface);
        let (peer, port) = wire.map(|w| (w.peer.clone(), w.peer_name.clone())).context("no such cable")?;
        drop(wires);
        peer.sysctl(&[(&format!("ipv6/conf/{port}/keep_addr_on_down"), "1")])?;
        peer.set_link(&port, present)
    }

    /// Takes `interface` down, or up.
    pub fn set_link(&self, interface: &str, up: bool) -> Result<()> {
        self.ip(&format!("link set {interface} {}\n", if up { "up" } else { "down" }))
    }
}
