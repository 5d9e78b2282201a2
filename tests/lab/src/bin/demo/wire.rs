//! Every frame of a capture sorted into what it is, and a search for what must not be there.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Result, ensure};
use meshd_lab::mesh::SmallInternet;
use meshd_lab::{Capture, Packet, Transport, WireGuard};
use serde_json::{Value, json};

/// How many frames there were of each kind.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    frames: usize,
    handshakes: usize,
    data: usize,
    data_bytes: usize,
    control: usize,
    stun: usize,
    relay: usize,
    probes: usize,
    refusals: usize,
    neighbours: usize,
    other: Vec<String>,
    plaintext: Vec<String>,
}

/// Sorts every frame of the Pi's uplink.
pub(crate) fn summary(capture: &Capture, net: &SmallInternet, body: &[u8], mesh: &[Ipv4Addr]) -> Summary {
    let (home, away) = (IpAddr::V4(net.home.wan4), IpAddr::V4(net.away.wan4));
    let vps = IpAddr::V4(net.vps4);
    let mut sum = Summary { frames: capture.packets.len(), ..Summary::default() };
    let pieces: Vec<&[u8]> = body.chunks(1024).filter_map(|chunk| chunk.get(..16)).collect();
    for packet in &capture.packets {
        if is_plaintext(packet, &pieces, mesh) {
            sum.plaintext.push(describe(packet));
        }
        match packet.transport {
            Transport::NotIp => sum.neighbours += 1,
            Transport::Icmp if is_neighbour_discovery(packet) => sum.neighbours += 1,
            Transport::Tcp if packet.is_between(home, vps) => sum.control += 1,
            Transport::Udp if packet.is_stun() && packet.is_between(home, vps) => sum.stun += 1,
            Transport::Udp if packet.is_between(home, vps) => sum.relay += 1,
            // Also to an address of the other's LAN: it might be this very LAN.
            Transport::Udp if packet.is_probe() => sum.probes += 1,
            Transport::Icmp if is_refusal(packet) => sum.refusals += 1,
            Transport::Udp if packet.is_between(home, away) => match packet.wireguard() {
                Some(WireGuard::Data) => {
                    sum.data += 1;
                    sum.data_bytes += packet.payload.len();
                }
                Some(_) => sum.handshakes += 1,
                None => sum.other.push(describe(packet)),
            },
            _ => sum.other.push(describe(packet)),
        }
    }
    sum
}

/// Whether a frame shows the body, the request, a name of the mesh or a packet from inside.
fn is_plaintext(packet: &Packet, pieces: &[&[u8]], mesh: &[Ipv4Addr]) -> bool {
    let inside = |ip: IpAddr| matches!(ip, IpAddr::V4(v4) if mesh.contains(&v4));
    let from_a_lan = matches!(packet.source.ip(), IpAddr::V4(v4) if v4.is_private());
    packet.holds(&[b"HTTP/1.1 200", b"GET / HTTP", b"nas\x04home", b"nas.home"])
        || from_a_lan
        || inside(packet.source.ip())
        || inside(packet.destination.ip())
        || holds_a_piece(packet, pieces)
}

fn holds_a_piece(packet: &Packet, pieces: &[&[u8]]) -> bool {
    let firsts: std::collections::HashSet<&[u8]> = pieces.iter().copied().collect();
    packet.payload.windows(16).any(|window| firsts.contains(window))
}

fn is_neighbour_discovery(packet: &Packet) -> bool {
    // RFC 4861 and multicast listener reports (RFC 3810), which never leave the link.
    packet.source.is_ipv6() && packet.payload.first().is_some_and(|kind| matches!(kind, 130..=137 | 143))
}

/// ICMP "destination unreachable" (RFC 792) about a probe of ours, which it quotes.
fn is_refusal(packet: &Packet) -> bool {
    packet.payload.first() == Some(&3) && packet.holds(&[b"dhsm"])
}

fn describe(packet: &Packet) -> String {
    let head: Vec<String> = packet.payload.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!(
        "{} → {} {:?}, {} bytes: {}",
        packet.source,
        packet.destination,
        packet.transport,
        packet.payload.len(),
        head.join(" ")
    )
}

impl Summary {
    pub(crate) fn print(&self) {
        for (count, what) in [
            (self.data, format!("WireGuard data between the two NATs ({} KiB)", self.data_bytes / 1024)),
            (self.handshakes, "WireGuard handshakes between the two NATs".to_owned()),
            (self.control, "TCP to and from the coordinator (control, Noise inside)".to_owned()),
            (self.stun, "STUN to and from the coordinator".to_owned()),
            (self.relay, "relay frames to and from the coordinator (WireGuard inside)".to_owned()),
            (self.probes, "sealed probes to the other node's addresses".to_owned()),
            (self.refusals, "ICMP: a probed address does not exist on the internet".to_owned()),
            (self.neighbours, "ARP and neighbour discovery on the link".to_owned()),
            (self.other.len(), "anything else".to_owned()),
            (self.plaintext.len(), "plaintext".to_owned()),
            (self.frames, "frames in all".to_owned()),
        ] {
            println!("  {count:>7}  {what}");
        }
        for line in self.other.iter().chain(&self.plaintext).take(10) {
            println!("           {line}");
        }
    }

    pub(crate) fn check(&self, fetched: usize) -> Result<()> {
        ensure!(self.plaintext.is_empty(), "{} frames of plaintext", self.plaintext.len());
        ensure!(self.other.is_empty(), "{} frames that are none of ours", self.other.len());
        ensure!(
            self.data_bytes > fetched,
            "only {} bytes of WireGuard data for {fetched} bytes fetched",
            self.data_bytes
        );
        Ok(())
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "frames": self.frames,
            "wireguard_data": self.data,
            "wireguard_data_bytes": self.data_bytes,
            "wireguard_handshakes": self.handshakes,
            "control_tcp": self.control,
            "stun": self.stun,
            "relay": self.relay,
            "probes": self.probes,
            "icmp_about_probes": self.refusals,
            "neighbour": self.neighbours,
            "other": self.other.len(),
            "plaintext": self.plaintext.len(),
        })
    }
}
