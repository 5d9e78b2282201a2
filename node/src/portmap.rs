//! A port of the home router for this node: PCP (RFC 6887), NAT-PMP (RFC 6886), UPnP-IGD.
//!
//! The default gateway is asked in all three languages at once, and the first that maps our UDP port wins; it
//! is asked again at half of the lifetime it granted, and at every link change. A mapping is given back when
//! the node goes down. Only the gateway is believed, and what it says is bounded and read once; a router that
//! lies can at worst name an endpoint where nobody answers.

mod pcp;
mod upnp;

use crate::clock;
use crate::mesh::MeshCommand;
use crate::os::FWMARK;
use crate::udp;
use meshd_proto::Endpoint;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};

/// What we ask for; routers may grant less.
const LIFETIME: Duration = Duration::from_secs(7200);
/// Without a router that maps, asked again this seldom (a link change asks at once).
const AGAIN: Duration = Duration::from_secs(1800);
/// A grant shorter than this is refreshed no faster.
const SHORTEST: Duration = Duration::from_secs(60);
/// Waits for an answer, one after the other (RFC 6886 §3.1 goes on for a minute; a home router answers at once).
const WAITS: [Duration; 4] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_millis(1000),
    Duration::from_millis(2000),
];
/// Where gateways listen for PCP and NAT-PMP.
const PORT: u16 = 5351;

/// A mapping in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    /// Where others reach us.
    pub(crate) outside: Endpoint,
    /// `pcp`, `nat-pmp` or `upnp`.
    pub(crate) by: &'static str,
    lifetime: Duration,
    nonce: [u8; 12],
    control: Option<upnp::Control>,
}

/// What the daemon may show; `None` while there is no mapping.
pub(crate) type Shown = watch::Receiver<Option<Mapping>>;

/// Keeps a mapping for `port` until `changed` (ticks at link changes) is dropped.
pub(crate) async fn run(
    port: u16,
    mut changed: watch::Receiver<()>,
    shown: watch::Sender<Option<Mapping>>,
    mesh: mpsc::Sender<MeshCommand>,
) {
    let mut last: Option<Mapping> = None;
    loop {
        let found = match gateway() {
            Some(gateway) => map(gateway, port, last.as_ref()).await,
            None => None,
        };
        if found.as_ref().map(|m| m.outside) != last.as_ref().map(|m| m.outside) {
            if let Some(mapping) = &found {
                tracing::info!(outside = %mapping.outside, by = mapping.by, "the router maps a port for this node");
            }
            let outside = found.as_ref().map(|m| m.outside);
            if mesh.send(MeshCommand::PortMapped(outside)).await.is_err() {
                break;
            }
        }
        shown.send_replace(found.clone());
        last = found;
        let wait = last.as_ref().map_or(AGAIN, |m| (m.lifetime / 2).max(SHORTEST));
        tokio::select! {
            alive = changed.changed() => if alive.is_err() { break },
            () = tokio::time::sleep(wait) => {}
        }
    }
    if let (Some(mapping), Some(gateway)) = (last, gateway()) {
        release(gateway, port, &mapping).await;
    }
}

/// Asks in all languages at once; PCP and NAT-PMP are better than UPnP when both answer in time.
async fn map(gateway: Gateway, port: u16, last: Option<&Mapping>) -> Option<Mapping> {
    let nonce = match last {
        Some(mapping) => mapping.nonce,
        None => *clock::entropy().ok()?.first_chunk::<12>()?,
    };
    let wanted = last.map_or(port, |m| m.outside.0.port());
    let datagrams = by_datagrams(gateway, port, wanted, nonce);
    let upnp = async {
        let (control, outside) = upnp::map(gateway.address, gateway.local, port, wanted, LIFETIME).await?;
        Some(Mapping { outside, by: "upnp", lifetime: LIFETIME, nonce, control: Some(control) })
    };
    let (first, second) = tokio::join!(datagrams, upnp);
    first.or(second).filter(|m| m.outside.is_sendable() && !m.outside.0.ip().is_loopback())
}

/// PCP first; a gateway that knows only its older sister says so or stays silent.
async fn by_datagrams(gateway: Gateway, port: u16, wanted: u16, nonce: [u8; 12]) -> Option<Mapping> {
    let socket = UdpSocket::from_std(udp::bind_spare(false).ok()?).ok()?;
    // Connected: datagrams of anybody else do not arrive.
    socket.connect(SocketAddr::new(gateway.address.into(), PORT)).await.ok()?;
    let mut outside_ip = None;
    let mut mapped = None;
    for wait in WAITS {
        let ask = [
            pcp::encode_map(gateway.local, port, wanted, nonce, LIFETIME).to_vec(),
            pcp::PMP_ADDRESS.to_vec(),
            pcp::encode_pmp_map(port, wanted, LIFETIME).to_vec(),
        ];
        for datagram in ask {
            // A router without the service answers by ICMP, which ends this.
            socket.send(&datagram).await.ok()?;
        }
        let end = clock::timer_now() + wait;
        let mut room = [0; 1100];
        loop {
            let len = match tokio::time::timeout_at(end, socket.recv(&mut room)).await {
                Ok(Ok(len)) => len,
                Ok(Err(_)) => return None,
                Err(_) => break,
            };
            match pcp::parse(&room[..len], port, &nonce) {
                Some(pcp::Answer::Mapped { outside, lifetime }) => {
                    return Some(Mapping { outside, by: "pcp", lifetime, nonce, control: None });
                }
                Some(pcp::Answer::PmpAddress(ip)) => outside_ip = Some(ip),
                Some(pcp::Answer::PmpMapped { port, lifetime }) => mapped = Some((port, lifetime)),
                None => {}
            }
            if let (Some(ip), Some((port, lifetime))) = (outside_ip, mapped) {
                let outside = Endpoint(SocketAddr::new(IpAddr::V4(ip), port));
                return Some(Mapping { outside, by: "nat-pmp", lifetime, nonce, control: None });
            }
        }
    }
    None
}

async fn release(gateway: Gateway, port: u16, mapping: &Mapping) {
    if let Some(control) = &mapping.control {
        upnp::unmap(control, mapping.outside.0.port()).await;
        return;
    }
    let Ok(Ok(socket)) = udp::bind_spare(false).map(UdpSocket::from_std) else { return };
    let to = SocketAddr::new(gateway.address.into(), PORT);
    let bytes = match mapping.by {
        "pcp" => pcp::encode_map(gateway.local, port, 0, mapping.nonce, Duration::ZERO).to_vec(),
        _ => pcp::encode_pmp_map(port, 0, Duration::ZERO).to_vec(),
    };
    // It ends by itself when this is lost.
    let _ = socket.send_to(&bytes, to).await;
}

/// The router of the default route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Gateway {
    address: Ipv4Addr,
    /// Our address towards it.
    local: Ipv4Addr,
}

fn gateway() -> Option<Gateway> {
    let table = std::fs::read_to_string("/proc/net/route").ok()?;
    let address = default_gateway(&table)?;
    // A connected socket knows its source; nothing is sent.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).ok()?;
    let _ = socket.set_mark(FWMARK);
    socket.connect(&SocketAddr::new(address.into(), PORT).into()).ok()?;
    match socket.local_addr().ok()?.as_socket()?.ip() {
        IpAddr::V4(local) => Some(Gateway { address, local }),
        IpAddr::V6(_) => None,
    }
}

/// The gateway with the lowest metric in the text of `/proc/net/route`.
fn default_gateway(table: &str) -> Option<Ipv4Addr> {
    let lines = table.lines().skip(1);
    let found = lines.filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let hex = |i: usize| u32::from_str_radix(fields.get(i)?, 16).ok();
        let is_default = hex(1)? == 0 && hex(7)? == 0 && hex(3)? & 2 != 0;
        let metric: u32 = fields.get(6)?.parse().ok()?;
        is_default.then_some((metric, Ipv4Addr::from(hex(2)?.to_le_bytes())))
    });
    found.min().map(|(_, address)| address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateway_is_that_of_the_default_route_with_the_lowest_metric() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                     wlan0\t00000000\tFE01A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
                     eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                     eth0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(default_gateway(table), Some(Ipv4Addr::new(192, 168, 1, 1)));
        assert_eq!(default_gateway("Iface\n"), None);
        assert_eq!(default_gateway("head\nnonsense zz\n"), None);
    }
}
